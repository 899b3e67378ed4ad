"""The rules on addresses, judged without a network."""

from __future__ import annotations

import ipaddress

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chalicelib.egress import rules
from chalicelib.egress.policy import Policy
from chalicelib.errors import Blocked
from chalicelib.settings import BadSettings, read_settings
from tests.egress_world import POLICY, shared_cases

LOCAL = Policy(allow=("127.0.0.0/8",))


def is_blocked(policy: Policy, url: str) -> bool:
    try:
        policy.check_url(url)
    except Blocked:
        return True
    return False


def accepts(policy: Policy, url: str, answers: list[str]) -> bool:
    try:
        policy.check_answers(policy.check_url(url), answers)
    except Blocked:
        return False
    return True


def test_the_tables_are_those_of_the_shared_policy():
    assert [str(network) for network in rules.V4_DENY] == POLICY["v4_deny"]
    assert [str(network) for network in rules.V6_DENY] == POLICY["v6_deny"]
    assert str(rules.V6_ALLOW_ONLY) == POLICY["v6_allow_only"]
    assert sorted(rules.DENY_PORTS) == POLICY["deny_ports"]
    assert sorted(rules.DENY_SUFFIXES) == sorted(POLICY["deny_suffixes"])
    assert rules.RULES.max_redirects == POLICY["max_redirects"]


EDGES = [
    (network, address, inside)
    for network in map(ipaddress.ip_network, POLICY["v4_deny"] + POLICY["v6_deny"])
    for address, inside in [
        (network[0], True),
        (network[-1], True),
        (network[0] - 1 if int(network[0]) else None, False),
        (network[-1] + 1 if int(network[-1]) < 2**network.max_prefixlen - 1 else None, False),
    ]
    if address is not None
]


def listed_as_forbidden(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """The shared policy read naively, bit by bit, so that neighbouring ranges are judged right."""

    def within(text: str) -> bool:
        network = ipaddress.ip_network(text)
        shift = network.max_prefixlen - network.prefixlen
        return network.version == address.version and int(address) >> shift == int(network[0]) >> shift

    if address.version == 4:
        return any(within(text) for text in POLICY["v4_deny"])
    return not within(POLICY["v6_allow_only"]) or any(within(text) for text in POLICY["v6_deny"])


@pytest.mark.parametrize(("network", "address", "inside"), EDGES, ids=[f"{entry[0]}-{entry[1]}" for entry in EDGES])
def test_every_denied_range_ends_where_it_should(network, address, inside):
    forbidden = listed_as_forbidden(address)
    url = f"https://[{address}]/" if address.version == 6 else f"https://{address}/"

    assert forbidden or not inside
    assert Policy().address_allowed(str(address)) is not forbidden
    assert is_blocked(Policy(), url) is forbidden
    assert accepts(Policy(), "https://api.example.com/", [str(address)]) is not forbidden


@pytest.mark.parametrize("address", ["1fff:ffff::1", "2000::", "3fff:1000::", "4000::", "::ffff:8.8.8.8", "64:ff9b::1"])
def test_of_ipv6_only_the_global_unicast_range_is_open(address):
    assert Policy().address_allowed(address) is address.startswith(("2000", "3fff:1000"))


@pytest.mark.parametrize("text", ["", "nonsense", "127.1", "0x7f000001", "fe80::1%lo", "::1%lo", "8.8.8.8 "])
def test_what_is_not_an_address_is_not_allowed(text):
    assert not Policy().address_allowed(text)


@pytest.mark.parametrize("port", [1, 22, 79, 81, 442, 444, 1023, *POLICY["deny_ports"]])
def test_ports_of_other_services_are_refused(port):
    assert is_blocked(Policy(), f"https://api.example.com:{port}/")


@pytest.mark.parametrize("port", [80, 443, 1024, 8080, 8443, 65_535])
def test_ports_of_the_web_are_open(port):
    assert Policy().check_url(f"https://api.example.com:{port}/").port == port


@pytest.mark.parametrize("port", ["0", "65536", "99999", "0x50", "-1", "+80", " 80", "８０", ""])
def test_what_is_not_a_port_is_refused_even_in_an_opened_network(port):
    assert is_blocked(LOCAL, f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize("suffix", POLICY["deny_suffixes"])
@pytest.mark.parametrize("form", ["x{}", "x{}.", "X{}", "a.b{}"])
def test_names_of_private_networks_are_refused(suffix, form):
    assert is_blocked(Policy(), f"https://{form.format(suffix)}/")
    assert is_blocked(Policy(), f"https://{form.format(suffix.upper())}/")
    assert not is_blocked(Policy(), f"https://x{suffix.replace('.', '-')}.example.com/")


NOT_NAMES = [
    "localhost",
    "localhost.",
    "intranet",
    "a",
    "example.com..",
    "-a.example",
    "a-.example",
    "a_b.example",
    "*.example",
    "a..example",
    ".example.com",
    "example.1a",
    "bücher.example",
    "a" * 64 + ".example",
    "a." * 127 + "example",
]


@pytest.mark.parametrize("host", NOT_NAMES)
def test_what_is_not_a_public_host_name_is_refused(host):
    assert is_blocked(Policy(), f"https://{host}/")


@pytest.mark.parametrize(
    "host", ["a" * 63 + ".example", "1password.com", "xn--bcher-kva.example", "a.b-c.d1", "A.EXAMPLE."]
)
def test_unusual_host_names_are_accepted(host):
    assert Policy().check_url(f"https://{host}/").host == host.lower()


@pytest.mark.parametrize(
    "path",
    ["a b", "a\tb", "a\\b", "a\x00b", "a\x7fb", "a\u200bb", "a\u00adb", "a\ufeffb", "a\u2028b", "a\u3000b", "a\ud800b"],
    ids=ascii,
)
def test_characters_that_parsers_disagree_on_are_refused_anywhere(path):
    assert is_blocked(Policy(), f"https://api.example.com/{path}")
    assert is_blocked(Policy(), f"https://api.example.com/#{path}")


def test_a_url_may_have_2048_characters_and_no_more():
    start = "https://api.example.com/"

    assert not is_blocked(Policy(), start + "a" * (2048 - len(start)))
    assert is_blocked(Policy(), start + "a" * (2049 - len(start)))


@pytest.mark.parametrize(
    "authority", ["user@api.example.com", "@api.example.com", "a:b@api.example.com", "api.example.com@"]
)
def test_an_authority_with_credentials_is_refused(authority):
    assert is_blocked(Policy(), f"https://{authority}/")


def test_plain_http_is_refused_when_hosted():
    assert is_blocked(Policy(hosted=True), "http://api.example.com/")
    assert not is_blocked(Policy(hosted=True), "https://api.example.com/")
    assert not is_blocked(Policy(), "http://api.example.com/")


def test_plain_http_stays_possible_into_a_network_that_the_operator_opened():
    hosted = Policy(allow=("10.1.0.0/16",), hosted=True)

    assert accepts(hosted, "http://10.1.2.3/", ["10.1.2.3"])
    assert accepts(hosted, "http://mcp.example.com/", ["10.1.2.3"])
    assert not accepts(hosted, "http://mcp.example.com/", ["93.184.215.14"])
    assert not accepts(hosted, "http://mcp.example.com/", ["10.1.2.3", "93.184.215.14"])
    assert is_blocked(hosted, "http://10.2.0.1/")
    assert is_blocked(hosted, "http://93.184.215.14/")


@pytest.mark.parametrize("name", ["localhost", "db.internal", "wiki", "nas.lan", "wiki."])
def test_a_private_name_is_accepted_only_if_all_its_answers_lie_in_opened_networks(name):
    url = f"http://{name}:8000/"

    assert accepts(LOCAL, url, ["127.0.0.1"])
    assert accepts(LOCAL, url, ["127.0.0.1", "127.9.9.9"])
    assert not accepts(LOCAL, url, ["127.0.0.1", "::1"])
    assert not accepts(LOCAL, url, ["127.0.0.1", "93.184.215.14"])
    assert not accepts(LOCAL, url, ["93.184.215.14"])
    assert is_blocked(Policy(), url)


def test_the_port_list_does_not_apply_to_opened_networks():
    assert accepts(LOCAL, "http://127.0.0.1:5432/", ["127.0.0.1"])
    assert accepts(LOCAL, "http://127.0.0.1:22/", ["127.0.0.1"])
    assert accepts(LOCAL, "http://api.example.com:5432/", ["127.0.0.1"])
    assert not accepts(LOCAL, "http://api.example.com:5432/", ["93.184.215.14"])
    assert is_blocked(LOCAL, "http://93.184.215.14:5432/")


def test_an_opened_network_opens_nothing_else():
    assert is_blocked(LOCAL, "http://10.0.0.1/")
    assert is_blocked(LOCAL, "http://[::1]/")
    assert is_blocked(LOCAL, "http://[::ffff:127.0.0.1]/")
    assert not accepts(LOCAL, "http://api.example.com/", ["10.0.0.1"])
    assert accepts(LOCAL, "http://api.example.com/", ["93.184.215.14"])


@pytest.mark.parametrize("url", ["http://2130706433/", "http://0x7f.0.0.1/", "http://0177.0.0.1/", "http://127.1/"])
def test_odd_spellings_of_an_opened_address_stay_refused(url):
    assert is_blocked(LOCAL, url)


def test_ssh_has_its_port_and_the_same_host_rules():
    assert Policy().check_host_port("git.example.com", 22).origin == "ssh://git.example.com:22"
    assert Policy().check_host_port("2001:4860:4860::8888", 22).origin == "ssh://[2001:4860:4860::8888]:22"
    assert Policy().check_host_port("[2001:4860:4860::8888]", 2222).host == "2001:4860:4860::8888"
    refused = [("localhost", 22), ("127.0.0.1", 22), ("::1", 22), ("git.example.com", 23), ("git.example.com", 5432)]
    refused += [("a b.example", 22), ("user@git.example.com", 22), ("git.example.com/x", 22), ("", 22), ("::1%lo", 22)]
    for host, port in refused:
        with pytest.raises(Blocked):
            Policy().check_host_port(host, port)
    assert is_blocked(Policy(), "ssh://git.example.com:22/")


def test_an_origin_writes_its_port_out_and_leaves_case_and_final_dot_behind():
    assert Policy().check_url("HTTPS://Api.Example.COM./x").origin == "https://api.example.com:443"
    assert Policy().check_url("http://api.example.com:8080").origin == "http://api.example.com:8080"
    assert Policy().check_url("https://[2001:4860:4860:0::8888]/").origin == "https://[2001:4860:4860::8888]:443"


def test_all_refusals_read_the_same():
    said = set()
    for case in shared_cases():
        try:
            Policy().check_url(case["url"])
        except Blocked as refusal:
            said.add((refusal.detail, refusal.code, str(refusal)))
    for answer in ("127.0.0.1", "169.254.169.254"):
        with pytest.raises(Blocked) as caught:
            Policy().check_answers(Policy().check_url("https://api.example.com/"), [answer])
        said.add((caught.value.detail, caught.value.code, str(caught.value)))

    assert len(said) == 1


ODD = st.text(alphabet=st.sampled_from("ab1.:/@?#[]%\\ -_\u3002\uff0e０１％＠\u200b\x00\t:"), max_size=24)


@given(st.one_of(ODD, st.builds("http://{}".format, ODD), st.builds("https://a.example{}".format, ODD)))
def test_an_accepted_url_means_the_same_to_the_http_client(url):
    policy = Policy(allow=("0.0.0.0/0", "::/0"))
    if is_blocked(policy, url):
        return
    target, parsed = policy.check_url(url), httpx2.URL(url)

    assert (target.scheme, target.host) == (parsed.scheme, parsed.raw_host.decode())
    assert target.port == (parsed.port or {"http": 80, "https": 443}[parsed.scheme])
    assert policy.check_url(str(parsed)) == target


def complaints_on_lambda(allow: str) -> list[str]:
    with pytest.raises(BadSettings) as caught:
        read_settings({"AWS_LAMBDA_FUNCTION_NAME": "api", "EGRESS_ALLOW": allow})
    return [problem for problem in caught.value.problems if "EGRESS_ALLOW" in problem]


@pytest.mark.parametrize(
    "network",
    [
        *("127.0.0.0/8", "127.0.0.1/32", "0.0.0.0/0", "0.0.0.0/32", "169.254.0.0/16"),
        *("::/0", "::1/128", "::/128", "fe80::/10", "::ffff:127.0.0.1/128"),
    ],
)
def test_no_spelling_of_loopback_or_link_local_can_be_opened_on_lambda(network):
    assert len(complaints_on_lambda(f"10.1.0.0/16,{network}")) == 1


def test_a_private_range_can_be_opened_on_lambda():
    assert complaints_on_lambda("10.1.0.0/16,fd12:3456::/32") == []
