"""Every vendor entry, proved twice against a real HTTPS server that behaves as the entry says its vendor does.

Names resolve to loopback and every connection ends at that one server, which has a certificate for each name.
"""

from __future__ import annotations

import json
import secrets
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import httpcore2
import httpx2
import pytest

from catalogue.__main__ import FOLDER
from catalogue.checking import PLACEHOLDER
from catalogue.compiling import compiled
from catalogue.reading import read
from chalicelib.egress.guard import Guard
from chalicelib.model import AuthMethod, CheckResult, IntegrationType, Secret, Target, Verdict
from chalicelib.probes import Prober, run_check
from chalicelib.services.endpoints import config_problems
from tests.peers.certificates import Authority, server_context
from tests.peers.raw import Peer, Request, background, http_server, response
from tests.peers.targets import LOOPBACK
from tests.support import documented
from tests.support.documented import Entry

ENTRIES: dict[str, Entry] = {
    path.stem: data
    for path in sorted(FOLDER.glob("*.yaml"))
    if (data := read(path, path.name).data)["type"] == "vendor"
}
#: A client certificate is shown in the handshake, not in a request; ``test_probes_tls.py`` is about it.
WAYS = [
    pytest.param(entry, method, id=f"{slug}-{method}")
    for slug, entry in ENTRIES.items()
    for method in entry["auth"]
    if method != "certificate"
]
ANSWERS: dict[str, Any] = json.loads((FOLDER.parent / "tests/cases/vendor_answers.json").read_text(encoding="utf-8"))


class OneServer(httpcore2.AnyIOBackend):
    """A network on which every address is the same server."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def connect_tcp(self, host: str, port: int, *args: Any, **options: Any) -> httpcore2.AsyncNetworkStream:
        assert host == "127.0.0.1"
        return await super().connect_tcp(host, self._port, *args, **options)


class TestGuard(Guard):
    """The guard, with the test's authority in place of the system's."""

    __test__ = False
    trusted: ssl.SSLContext

    def client(self, *, ssl_context: ssl.SSLContext | None = None, **options: Any) -> httpx2.AsyncClient:
        return super().client(ssl_context=ssl_context or self.trusted, **options)


@dataclass
class Vendor:
    """The server; ``behave`` is what it does now. ``prober`` is the product's own, and reaches nothing else."""

    behave: Callable[[Request], bytes]
    peer: Peer
    prober: Prober


@pytest.fixture(scope="module")
def vendor() -> Iterator[Vendor]:
    authority = Authority()
    with background() as loop:
        server = http_server(loop, lambda request: found.behave(request), tls=_for_every_name(authority))
        with server as peer:
            guard = TestGuard(LOOPBACK, resolver=_loopback, network=OneServer(peer.port))
            guard.trusted = httpx2.create_ssl_context(trust_env=False)
            guard.trusted.load_verify_locations(cadata=authority.pem)
            prober = Prober(guard, mcp_stdio="off", connect_s=5, total_s=10)
            found = Vendor(lambda request: response(500), peer, prober)
            yield found


async def _loopback(host: str, port: int) -> Sequence[str]:
    return ["127.0.0.1"]


def _for_every_name(authority: Authority) -> ssl.SSLContext:
    @cache
    def of(name: str) -> ssl.SSLContext:
        return server_context(authority.issue(name))

    def choose(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
        connection.context = of(name or "localhost")

    context = server_context(authority.issue("localhost"))
    context.sni_callback = choose
    return context


def some_secrets(entry: Entry, method: str) -> dict[str, str]:
    """New credentials, and one for each further header that the entry asks for."""
    fields = (entry["auth"][method] or {}).get("fields", ())
    names = {*documented.SECRETS[method], *(field["name"] for field in fields if field["name"].startswith("header."))}
    return {name: secrets.token_urlsafe(18) for name in sorted(names)}


def typed(entry: Entry) -> IntegrationType:
    row = compiled(entry)
    return IntegrationType(row.id, row.slug, row.name, row.type, row.category, row.config_schema, row.definition)


def checked(
    vendor: Vendor,
    kind: IntegrationType,
    method: str,
    given: Mapping[str, str],
    config: Mapping[str, Any],
    mode: Any = "full",
) -> CheckResult:
    shown = {name: Secret(text) for name, text in given.items()}
    return run_check(vendor.prober, Target(kind, AuthMethod(method), config, shown), mode)


def behaviour(
    entry: Entry, method: str, right: Mapping[str, str], config: Mapping[str, Any], refusal: bytes
) -> Callable[[Request], bytes]:
    """The vendor that knows these credentials: 418 and the reason for whatever its documentation does not say."""
    headers, query = documented.presented(entry, method, right)

    def answer(request: Request) -> bytes:
        found = documented.complaints(entry, config, query, request)
        if found:
            return response(418, json.dumps(found).encode())
        return documented.welcome(entry) if documented.knows(headers, query, request) else refusal

    return answer


def body_of(answer: bytes) -> Any:
    return json.loads(answer.partition(b"\r\n\r\n")[2])


@pytest.mark.parametrize(("entry", "method"), WAYS)
def test_the_right_credential_is_accepted_and_tells_its_owner_what_it_proves(
    vendor: Vendor, entry: Entry, method: str
) -> None:
    for config in documented.configs(entry):
        right = some_secrets(entry, method)
        vendor.behave = behaviour(entry, method, right, config, response(401))
        for mode in ("full", "bare"):
            result = checked(vendor, typed(entry), method, right, config, mode)

            assert result.verdict is Verdict.OK, (result.error_message, result.steps[-1].detail)
            capabilities = dict(result.capabilities or {})
            assert capabilities.pop("certificates")
            assert capabilities.pop("rate_limit", {}) == documented.known_limits(entry)
            assert capabilities == documented.proved(entry, body_of(documented.welcome(entry)))


@pytest.mark.parametrize(("entry", "method"), [way for way in WAYS if way.values[1] != "none"])
def test_a_wrong_credential_is_refused_in_every_way_that_is_documented(
    vendor: Vendor, entry: Entry, method: str
) -> None:
    config = next(documented.configs(entry))
    right, wrong = some_secrets(entry, method), some_secrets(entry, method)
    ways = documented.refusals(entry, method)
    assert ways
    for refusal, verdict in ways:
        vendor.behave = behaviour(entry, method, right, config, refusal)
        result = checked(vendor, typed(entry), method, wrong, config)

        assert result.verdict is verdict, result.steps[-1].detail
        assert result.steps[-1].name == "auth"
        told = str(result.as_json())
        assert not any(text in told for text in wrong.values())


@pytest.mark.parametrize(("entry", "method"), WAYS)
def test_limits_missing_rights_and_outages_are_told_apart(vendor: Vendor, entry: Entry, method: str) -> None:
    config, right = next(documented.configs(entry)), some_secrets(entry, method)
    seen = set()
    for trouble, verdict in documented.troubles(entry, method):
        vendor.behave = lambda request, trouble=trouble: trouble
        result = checked(vendor, typed(entry), method, right, config)

        assert result.verdict is verdict, result.steps[-1].detail
        assert verdict is not Verdict.RATE_LIMITED or b": 17" not in trouble or result.retry_after_s == 17
        seen.add(verdict)
    assert {Verdict.RATE_LIMITED, Verdict.PROVIDER_DOWN} <= seen


@pytest.mark.parametrize(
    "slug", [slug for slug, entry in ENTRIES.items() if "accepted_when" in entry.get("verify", {})]
)
def test_an_answer_without_what_must_be_in_it_is_not_taken_for_a_yes(vendor: Vendor, slug: str) -> None:
    entry = ENTRIES[slug]
    method = next(iter(entry["auth"]))
    for body in (b"{}", b"<p>Welcome</p>"):
        vendor.behave = lambda request, body=body: response(200, body)

        result = checked(vendor, typed(entry), method, some_secrets(entry, method), next(documented.configs(entry)))

        assert result.verdict is Verdict.PROTOCOL


@pytest.mark.parametrize("slug", ANSWERS)
def test_an_answer_as_the_documentation_shows_it_is_read_out(vendor: Vendor, slug: str) -> None:
    entry, shown = ENTRIES[slug], ANSWERS[slug]
    method = next(iter(entry["auth"]))
    vendor.behave = lambda request: response(200, json.dumps(shown["body"]).encode())

    result = checked(vendor, typed(entry), method, some_secrets(entry, method), next(documented.configs(entry)))

    assert result.verdict is Verdict.OK, result.steps[-1].detail
    assert {name: (result.capabilities or {})[name] for name in shown["proves"]} == shown["proves"]
    assert set(shown["proves"]) == {name for name, source in entry.get("proves", {}).items() if "path" in source}


ESCAPES = [
    "evil.example", "evil.example/", "a/b", "a\\b", "a@evil.example", "a#", "a?b=", "a%2fb", "a:1", "..", ".", "", "-a",
    "a\n", "a\r\nX-Evil: 1", "a b", "a．evil．example", "а", "{x}", "a\x00", "\u200ba", ["a"], {"a": 1}, 5, None,
]  # fmt: skip


def _templated() -> Iterator[Any]:
    for slug, entry in ENTRIES.items():
        places = json.dumps([entry.get("base_url"), entry.get("verify"), entry["auth"]])
        for name in sorted(set(PLACEHOLDER.findall(places))):
            yield pytest.param(entry, name, id=f"{slug}-{name}")


@pytest.mark.parametrize(("entry", "name"), list(_templated()))
def test_no_setting_leaves_its_place_in_the_address(vendor: Vendor, entry: Entry, name: str) -> None:
    kind, method = typed(entry), next(iter(entry["auth"]))
    fields = [{**field, "pattern": None} for field in kind.definition["config_fields"]]
    without_patterns = replace(kind, config_schema={}, definition={**kind.definition, "config_fields": fields})
    vendor.behave = lambda request: documented.welcome(entry)
    before = vendor.peer.connections
    for value in ESCAPES:
        config = next(documented.configs(entry)) | {name: value}

        assert config_problems(kind, method, config), value
        for guarded in (kind, without_patterns):
            result = checked(vendor, guarded, method, some_secrets(entry, method), config)
            assert result.verdict is Verdict.MISCONFIGURED, value

    assert vendor.peer.connections == before


def test_a_choice_of_addresses_cannot_be_widened() -> None:
    with_choices = {slug: e for slug, e in ENTRIES.items() if any("choices" in f for f in e.get("config", ()))}
    assert len(with_choices) > 5
    for entry in with_choices.values():
        for field in entry["config"]:
            if "choices" in field:
                config = next(documented.configs(entry)) | {field["name"]: "https://evil.example"}
                problems = config_problems(typed(entry), next(iter(entry["auth"])), config)
                assert f"connection_config.{field['name']}" in {place for place, _ in problems}


def test_there_are_sixty_vendors_on_twelve_shelves() -> None:
    assert len(ENTRIES) >= 60
    assert len({entry["category"] for entry in ENTRIES.values()}) >= 12
