"""Credentials are looked at before they are sealed; what is wrong is said without repeating any of it."""

import base64
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chalicelib.errors import Invalid
from chalicelib.model import AuthMethod, Secret
from chalicelib.vault.inspection import allowed_credential_types, credential_type_problem, inspect_credentials
from tests.support.pasted import (
    PRIVATE_KEYS,
    RSA_KEY,
    certificate,
    halved,
    inspect,
    pem,
    problems,
    refusals,
    token,
)

# Which types a method takes.


@pytest.mark.parametrize("method", list(AuthMethod))
def test_every_method_takes_the_types_of_the_contract_and_env_and_header(method):
    for kind in allowed_credential_types(method) | {"env.API_TOKEN", "header.X-Api-Key"}:
        assert credential_type_problem(method, kind) is None
    others = frozenset().union(*(allowed_credential_types(each) for each in AuthMethod))
    for kind in (others - allowed_credential_types(method)) | {"", "env", "header", "nonsense", "API_KEY"}:
        assert credential_type_problem(method, kind) is not None


def test_none_takes_no_credentials_of_its_own():
    assert allowed_credential_types(AuthMethod.NONE) == frozenset()
    assert "takes no credentials" in problems("none", api_key="value of some key")["credentials.api_key"]


@pytest.mark.parametrize(
    "kind",
    [
        "env.LD_PRELOAD",
        "env.ld_preload",
        "env.LD_LIBRARY_PATH",
        "env.DYLD_INSERT_LIBRARIES",
        "env.NODE_OPTIONS",
        "env.PYTHONPATH",
        "env.PYTHONSTARTUP",
        "env.BASH_ENV",
        "env.ENV",
        "env.PATH",
        "env.GIT_SSH",
        "env.GIT_SSH_COMMAND",
        "env.HTTPS_PROXY",
        "env.https_proxy",
        "env.PERL5OPT",
        "env.RUBYOPT",
        "env.JAVA_TOOL_OPTIONS",
        "env.IFS",
        "env.1ABC",
        "env.A=B",
        "env.",
        "env.Ä",
        "other.NAME",
        "env.A.B",
        "header.Host",
        "header.host",
        "header.Content-Length",
        "header.Transfer-Encoding",
        "header.Connection",
        "header.Keep-Alive",
        "header.TE",
        "header.Trailer",
        "header.Upgrade",
        "header.Proxy-Authorization",
        "header.Expect",
        "header.Content-Type",
        "header.Cookie2",
        "header.",
        "header.A:B",
        "header.Ä",
        "header.:path",
        "env.A B",
        "env.A\n",
        "header.A B",
        "header.A\r\nB",
    ],
)
def test_names_that_would_change_the_program_or_the_message_are_refused(kind):
    assert credential_type_problem(AuthMethod.API_KEY, kind) is not None
    with pytest.raises(Invalid):
        inspect_credentials(AuthMethod.NONE, {kind: Secret("value")})


@pytest.mark.parametrize(
    "kind", ["x" * 129, "env." + "A" * 125, "äpi_key", "a\nb", "a\x00b", "\ud800", "x" * 1_000_000]
)
def test_an_odd_name_is_refused_without_being_repeated(kind):
    with pytest.raises(Invalid) as caught:
        inspect_credentials(AuthMethod.API_KEY, {kind: Secret("value")})

    assert [field for field, _ in caught.value.errors] == ["credentials"]


def test_two_spellings_of_one_header_are_refused():
    with pytest.raises(Invalid):
        inspect_credentials(AuthMethod.NONE, {"header.X-Key": Secret("a"), "header.x-key": Secret("b")})


def test_every_bad_value_is_named_in_one_answer():
    found = problems("basic", username="a:b and more", password="line\nbreak", header__X="ü\u20ac and more")

    assert set(found) == {"credentials.username", "credentials.password", "credentials.header.X"}


# Any value.

ONE_LINERS = [
    ("api_key", "api_key"),
    ("basic", "username"),
    ("basic", "password"),
    ("oauth", "access_token"),
    ("oauth", "refresh_token"),
    ("oauth", "client_id"),
    ("oauth", "client_secret"),
    ("jwt", "jwt"),
    ("jwt", "jwt_signing_key"),
    ("certificate", "client_key_passphrase"),
    ("ssh_key", "username"),
    ("ssh_key", "private_key_passphrase"),
    ("none", "header__X-Key"),
]


@pytest.mark.parametrize(("method", "kind"), ONE_LINERS)
@pytest.mark.parametrize("control", ["\x00", "\n", "\r", "\r\n", "\x1b", "\x7f", "\x85", "\x9f"], ids=repr)
def test_control_characters_are_refused(method, kind, control):
    for value in (f"before{control}behind", f"{control}behind", f"before{control}"):
        assert f"credentials.{kind.replace('__', '.')}" in problems(method, **{kind: value})


@pytest.mark.parametrize(("method", "kind"), [*ONE_LINERS, ("none", "env__KEY"), ("ssh_key", "private_key")])
def test_empty_halved_and_oversized_values_are_refused(method, kind):
    for value in ("", "a\ud800", "\udfff", "x" * 65_537, "é" * 32_769):
        problems(method, **{kind: value})


def test_64_kib_are_the_limit_in_bytes():
    assert inspect("basic", password="x" * 65_536) == {"password": None}
    assert inspect("basic", password="é" * 32_768) == {"password": None}


@pytest.mark.parametrize("kind", ["certificate", "client_key", "private_key", "ca_certificate", "host_key"])
@pytest.mark.parametrize("control", ["\x00", "\x0b", "\x0c", "\x1b", "\x7f", "\x85"], ids=repr)
def test_files_may_hold_lines_but_no_other_control_characters(kind, control):
    method = "ssh_key" if kind in ("private_key", "host_key") else "certificate"
    kind = {"certificate": "client_certificate"}.get(kind, kind)
    assert "control character" in problems(method, **{kind: pem(RSA_KEY) + control})[f"credentials.{kind}"]


def test_an_environment_value_may_have_lines_but_no_nul():
    assert inspect("none", env__GOOGLE='{"a":\n\t"b"}\r\n') == {"env.GOOGLE": None}
    problems("none", env__GOOGLE="a\x00b")


@pytest.mark.parametrize("value", ["plain", "with space", "ÿ latin", "a" * 5_000])
def test_a_header_value_is_printable_latin_1(value):
    assert inspect("none", **{"header__X-Key": value}) == {"header.X-Key": None}


@pytest.mark.parametrize("value", [" space at an end", "space at an end ", "euro €", "\tindented", "a\u200bb"])
def test_a_header_value_that_cannot_be_sent_is_refused(value):
    problems("none", **{"header__X-Key": value})


@pytest.mark.parametrize("kind", ["access_token", "refresh_token", "client_id", "client_secret"])
@pytest.mark.parametrize("value", [" leading", "trailing ", "zero\u200bwidth", "größe"])
def test_tokens_are_visible_ascii(kind, value):
    problems("oauth", **{kind: value})


def test_passwords_may_be_in_any_script_and_have_spaces():
    assert inspect("basic", username="Jürgen", password=" пароль 密码 ") == {"username": None, "password": None}


def test_a_colon_is_refused_in_a_user_name_of_http_basic_only():
    assert "colon" in problems("basic", username="realm:user name")["credentials.username"]
    assert inspect("ssh_key", username="realm:user") == {"username": None}


# Tokens.


def test_a_jwt_gives_its_expiry():
    assert inspect("jwt", jwt=token(exp=4_102_444_800)) == {"jwt": datetime(2100, 1, 1, tzinfo=UTC)}
    assert inspect("jwt", jwt=token(sub="x")) == {"jwt": None}
    assert inspect("jwt", jwt=token(exp=4_102_444_800, nbf=4_102_444_000, aud="elsewhere"))["jwt"] is not None


def test_an_expired_jwt_is_refused_with_its_date():
    assert "expired on 2001-09-09" in problems("jwt", jwt=token(exp=1_000_000_000))["credentials.jwt"]


def forged(payload: str | bytes) -> str:
    raw = payload.encode() if isinstance(payload, str) else payload
    head = base64.urlsafe_b64encode(json.dumps({"alg": "HS256"}).encode()).rstrip(b"=").decode()
    return f"{head}.{base64.urlsafe_b64encode(raw).rstrip(b'=').decode()}.c2ln"


@pytest.mark.parametrize(
    "value",
    [forged(f'{{"exp": {exp}}}') for exp in ("1e400", "NaN", "-1", "0", "true", '"2100"', "[1]", "9" * 400, "1e12")]
    + [forged("[" * 20_000), forged("[]"), forged("null"), forged('"x"'), forged(""), forged(b"\xff\xfe"), "a.b.c"]
    + ["only-one-part-here", "two.parts-here", "..", "a.b.c.d.e", token(sub="x") + ".more"],
    ids=lambda value: value[40:60],
)  # fmt: skip
def test_what_is_no_jwt_is_refused(value):
    assert set(problems("jwt", jwt=value)) == {"credentials.jwt"}


@pytest.mark.parametrize(("method", "kind"), [("api_key", "api_key"), ("oauth", "access_token")])
def test_keys_and_access_tokens_that_happen_to_be_jwts_tell_their_end_but_need_not(method, kind):
    assert inspect(method, **{kind: token(exp=4_102_444_800)})[kind] == datetime(2100, 1, 1, tzinfo=UTC)
    for value in ("sk_live_1234", "a.b.c", forged('{"exp": "soon"}')):
        assert inspect(method, **{kind: value}) == {kind: None}


@pytest.mark.parametrize("value", ["a shared secret of an hmac", pem(RSA_KEY), pem(PRIVATE_KEYS["ed25519"])])
def test_a_signing_key_is_a_pem_key_or_a_shared_secret(value):
    assert inspect("jwt", jwt_signing_key=value) == {"jwt_signing_key": None}


@pytest.mark.parametrize("value", [pem(RSA_KEY, passphrase="locked"), halved(pem(RSA_KEY)), "two\nlines"])
def test_a_signing_key_that_cannot_sign_is_refused(value):
    problems("jwt", jwt_signing_key=value)


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from([(method, kind) for method in AuthMethod for kind in sorted(allowed_credential_types(method))]),
    st.text(max_size=60) | st.sampled_from([pem(RSA_KEY), certificate(RSA_KEY), token(exp=4_102_444_800)]),
)
def test_no_value_of_any_type_ends_in_another_error(place, value):
    method, kind = place
    assert refusals(method, **{kind: value}) <= {f"credentials.{kind}"}
