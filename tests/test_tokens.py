"""Access tokens against real keys and a real key endpoint on loopback. Recipes: cases/jwt_cases.json."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from chalicelib.api.tokens import TokenVerifier
from chalicelib.errors import Forbidden, Unauthenticated, Unavailable
from chalicelib.model import Secret

CASES = json.loads((Path(__file__).parent / "cases" / "jwt_cases.json").read_text())
ISSUER = "https://project.example/auth/v1"
USER = UUID("6f1c9a52-3c1e-4b8e-9c55-0d5f6d1f1a01")
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


class Clock:
    """The wall clock, moved by as much as a test wants."""

    def __init__(self) -> None:
        self.offset = 0.0

    def __call__(self) -> float:
        return time.time() + self.offset


@cache
def signing_key(name: str) -> Any:
    if name == "rs":
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key(ec.SECP256R1())


def public_jwk(name: str, kid: str, **members: Any) -> dict[str, Any]:
    algorithm = RSAAlgorithm if name == "rs" else ECAlgorithm
    jwk = json.loads(algorithm.to_jwk(signing_key(name).public_key()))
    jwk.pop("key_ops", None)
    return {**jwk, "kid": kid, "use": "sig", "alg": "RS256" if name == "rs" else "ES256", **members}


OCT_SECRET = secrets.token_bytes(32)
HMAC_KEYS: dict[str, Callable[[], bytes]] = {
    "hmac_public_jwk": lambda: json.dumps(public_jwk("es", "k1")).encode(),
    "hmac_empty": lambda: b"",
    "hmac_supabase_local_default": lambda: b"super-secret-jwt-token-with-at-least-32-characters-long",
    "hmac_legacy": lambda: b"a legacy secret that is long enough to be a real one",
    "hmac_oct": lambda: OCT_SECRET,
}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signature(signed: bytes, sign_with: str) -> bytes:
    if sign_with in HMAC_KEYS:
        return hmac.digest(HMAC_KEYS[sign_with](), signed, hashlib.sha256)
    if sign_with == "rs":
        return signing_key("rs").sign(signed, padding.PKCS1v15(), hashes.SHA256())
    r, s = decode_dss_signature(signing_key(sign_with).sign(signed, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32) + s.to_bytes(32)


def token(
    header: dict[str, Any] | None = None, claims: dict[str, Any] | None = None, sign_with: str = "es", now: float = 0
) -> str:
    """A good token with some members replaced; None removes, and numbers in time claims are seconds from now."""
    now = int(now or time.time())
    good_header = {"alg": "RS256" if sign_with == "rs" else "ES256", "kid": "k1", "typ": "JWT"}
    good_claims = {
        "iss": ISSUER, "aud": "authenticated", "role": "authenticated", "sub": str(USER), "aal": "aal1",
        "email": "somebody@example.com", "iat": now, "exp": now + 3600,
    }  # fmt: skip
    moved = {
        name: now + value if name in ("exp", "iat", "nbf") and type(value) is int else value
        for name, value in (claims or {}).items()
    }
    parts = [
        b64(json.dumps({name: value for name, value in members.items() if value is not None}).encode())
        for members in ({**good_header, **(header or {})}, {**good_claims, **moved})
    ]
    return ".".join([*parts, b64(signature(".".join(parts).encode(), sign_with))])


def mutated(build: Callable[[], str], how: str | None) -> str:
    compact = build()
    head, payload, sealed = compact.split(".")
    if how == "strip_sig":
        return f"{head}.{payload}."
    if how == "four_parts":
        return f"{compact}.{b64(b'more')}"
    if how == "json_serialization":
        return json.dumps({"payload": payload, "protected": head, "signature": sealed})
    if how == "zero_sig":
        return f"{head}.{payload}.{b64(bytes(64))}"
    if how == "high_s":
        raw = base64.urlsafe_b64decode(sealed + "==")
        return f"{head}.{payload}.{b64(raw[:32] + (P256_ORDER - int.from_bytes(raw[32:])).to_bytes(32))}"
    if how == "opaque":
        return secrets.token_urlsafe(16)
    if how == "std_b64":
        while not set("-_") & set(sealed):  # ES256 signatures differ each time
            head, payload, sealed = build().split(".")
        return ".".join((head, payload, sealed)).replace("-", "+").replace("_", "/")
    assert how in (None, "route_needs_aal2"), how
    return compact


@dataclass
class KeyEndpoint:
    """What the key endpoint answers next, and how often it was asked."""

    url: str
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    drip_s: float = 0
    asked: int = 0

    def publish(self, *keys: dict[str, Any]) -> None:
        self.status, self.body = 200, json.dumps({"keys": list(keys)}).encode()


@pytest.fixture
def endpoint() -> Iterator[KeyEndpoint]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked += 1
            self.send_response(state.status)
            for name, value in state.headers.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                for start in range(0, len(state.body), 1 if state.drip_s else 1 << 20):
                    self.wfile.write(state.body[start : start + (1 if state.drip_s else 1 << 20)])
                    if state.drip_s and stopping.wait(state.drip_s):
                        return
            except OSError:
                pass  # the client had read enough

        def log_message(self, *_: object) -> None:
            pass

    stopping = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        state = KeyEndpoint(f"http://127.0.0.1:{server.server_port}/auth/v1/.well-known/jwks.json")
        state.publish(public_jwk("es", "k1"), public_jwk("rs", "k2"))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield state
        stopping.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def verifier(endpoint: KeyEndpoint, clock: Clock) -> TokenVerifier:
    return TokenVerifier(endpoint.url, ISSUER, clock=clock)


def accepts(verifier: TokenVerifier, compact: str, **how: Any) -> bool:
    try:
        return verifier.verify(f"Bearer {compact}", **how).user_id == USER
    except (Unauthenticated, Unavailable, Forbidden):
        return False


def set_the_scene(state: str | None, endpoint: KeyEndpoint, verifier: TokenVerifier, clock: Clock) -> None:
    if state == "revoked":
        endpoint.publish(public_jwk("es", "k1"), public_jwk("old", "k0"))
        assert accepts(verifier, token({"kid": "k0"}, sign_with="old"))
        endpoint.publish(public_jwk("es", "k1"))
        clock.offset += 301
    elif state == "with_oct":
        endpoint.publish(public_jwk("es", "k1"), {"kty": "oct", "kid": "k-oct", "k": b64(OCT_SECRET), "alg": "HS256"})
    elif state == "down_cold":
        endpoint.status = 503
    elif state == "huge":
        endpoint.publish(*[public_jwk("es", "k1", padding="x" * 900) for _ in range(10_000)])
    else:
        assert state is None, state


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_each_recipe_ends_as_it_says(
    case: dict[str, Any], endpoint: KeyEndpoint, verifier: TokenVerifier, clock: Clock
) -> None:
    header = dict(case["header"])
    if header.get("jwk") == "@attacker_public":
        header["jwk"] = public_jwk("attacker", "k1")
    set_the_scene(case["jwks"], endpoint, verifier, clock)
    compact = mutated(lambda: token(header, case["claims"], case["sign_with"], now=clock()), case["mutate"])
    clock.offset += case["clock_offset_s"]

    assert accepts(verifier, compact, needs_aal2=case["mutate"] == "route_needs_aal2") is case["accept"]


REFUSED = {
    "nbf in the future": token(claims={"nbf": 3600}),
    "nbf that is no number": token(claims={"nbf": "now"}),
    "audience of another kind": token(claims={"aud": {"authenticated": True}}),
    "another audience": token(claims={"aud": ["anon", "authenticated2"]}),
    "iat in the future, nbf not": token(claims={"iat": 3600, "nbf": 0, "exp": 7200}),
    "a boolean as time": token(claims={"nbf": True}),
    "an endless time": token(claims={"exp": 10**400}),
    "a life of more than 7 days": token(claims={"exp": 7 * 86_400 + 1}),
    "no exp": token(claims={"exp": None}),
    "no iat": token(claims={"iat": None}),
    "sub in capitals": token(claims={"sub": str(USER).upper()}),
    "sub in braces": token(claims={"sub": f"{{{USER}}}"}),
    "sub that is no UUID": token(claims={"sub": "admin"}),
    "role in a list": token(claims={"role": ["authenticated"]}),
    "role anon": token(claims={"role": "anon"}),
    "typ of something else": token({"typ": "at+jwt"}),
    "b64": token({"b64": True}),
    "a long kid": token({"kid": "k" * 129}),
    "no kid": token({"kid": None}),
    "alg of another key": token({"kid": "k2"}),
    "alg none": token({"alg": "none"}),
    "longer than 8 KiB": token(claims={"user_metadata": {"note": "x" * 8_200}}),
}


@pytest.mark.parametrize("compact", REFUSED.values(), ids=REFUSED.keys())
def test_whatever_else_is_wrong_with_a_token_the_answer_is_the_same(compact: str, verifier: TokenVerifier) -> None:
    assert accepts(verifier, token())
    with pytest.raises(Unauthenticated) as refusal:
        verifier.verify(f"Bearer {compact}")

    assert str(refusal.value) == str(Unauthenticated())
    assert refusal.value.__cause__ is None
    assert refusal.value.__suppress_context__


@pytest.mark.parametrize("payload", ['{"exp": NaN}', "[]", '"text"', "[" * 3_000 + "]" * 3_000, "{", "\udcff"])
def test_a_signed_payload_that_is_not_one_clear_object_is_refused(payload: str, verifier: TokenVerifier) -> None:
    head = token().split(".")[0]
    signed = f"{head}.{b64(payload.encode('utf-8', 'surrogateescape'))}"
    with pytest.raises(Unauthenticated):
        verifier.verify(f"Bearer {signed}.{b64(signature(signed.encode(), 'es'))}")


def test_a_claim_that_is_there_twice_has_no_reading(verifier: TokenVerifier) -> None:
    head, payload, _ = token().split(".")
    claims = base64.urlsafe_b64decode(payload + "==").decode()
    twice = claims.replace("{", '{"role": "anon", ', 1)
    signed = f"{head}.{b64(twice.encode())}"

    assert not accepts(verifier, f"{signed}.{b64(signature(signed.encode(), 'es'))}")


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic dTpw", "Bearer a.b.c d", "Bearer é.b.c"])
def test_a_header_without_a_bearer_token_is_refused_and_no_key_is_fetched(
    header: str | None, verifier: TokenVerifier, endpoint: KeyEndpoint
) -> None:
    with pytest.raises(Unauthenticated):
        verifier.verify(header)

    assert endpoint.asked == 0


def test_ten_seconds_of_leeway_are_given_and_no_more(verifier: TokenVerifier) -> None:
    assert accepts(verifier, token(claims={"iat": -100, "exp": -8}))
    assert accepts(verifier, token(claims={"iat": 8, "nbf": 8}))
    assert not accepts(verifier, token(claims={"iat": -100, "exp": -11}))
    assert not accepts(verifier, token(claims={"iat": 13}))


def test_the_caller_keeps_the_token_as_a_secret(verifier: TokenVerifier) -> None:
    compact = token(claims={"aal": "aal2", "aud": ["other", "authenticated"]})
    caller = verifier.verify(f"bearer {compact}", needs_aal2=True)

    assert (caller.user_id, caller.email, caller.aal) == (USER, "somebody@example.com", "aal2")
    assert caller.token.reveal() == compact
    assert compact not in repr(caller)
    assert "somebody" not in repr(caller)


def test_one_fetch_serves_many_requests_of_many_threads(verifier: TokenVerifier, endpoint: KeyEndpoint) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda _: accepts(verifier, token()), range(40)))

    assert endpoint.asked == 1


def test_an_unknown_key_id_asks_again_only_after_the_cooldown(
    verifier: TokenVerifier, endpoint: KeyEndpoint, clock: Clock
) -> None:
    assert accepts(verifier, token())
    endpoint.publish(public_jwk("es", "k1"), public_jwk("new", "k9"))
    rotated = token({"kid": "k9"}, sign_with="new")

    assert not accepts(verifier, rotated)
    clock.offset += 31
    assert accepts(verifier, rotated)
    for number in range(5):
        assert not accepts(verifier, token({"kid": f"guess-{number}"}))
    assert endpoint.asked == 2


def test_without_keys_the_answer_is_unavailable_and_soon_tried_again(
    verifier: TokenVerifier, endpoint: KeyEndpoint, clock: Clock
) -> None:
    endpoint.status = 500
    for _ in range(3):
        with pytest.raises(Unavailable):
            verifier.verify(f"Bearer {token()}")
    assert endpoint.asked == 1

    endpoint.status = 200
    clock.offset += 1
    assert accepts(verifier, token())


FAILURES = {
    "status": {"status": 503},
    "redirect": {"status": 302, "headers": {"Location": "/elsewhere"}},
    "not JSON": {"body": b"<html>"},
    "not UTF-8": {"body": b"\xff\xfe"},
    "too deep": {"body": b"[" * 50_000},
    "empty set": {"body": b'{"keys": []}'},
    "more than 64 KiB": {"body": json.dumps({"keys": [public_jwk("es", "k1")], "x": "x" * 65_536}).encode()},
    "more than 64 KiB of nothing": {"body": json.dumps({"keys": [public_jwk("es", "k1")]}).encode() + b" " * 65_536},
    "21 keys": {"body": json.dumps({"keys": [public_jwk("es", f"k{n}") for n in range(21)]}).encode()},
    "a body that ends early": {"headers": {"Content-Length": "70"}, "body": b'{"keys": ['},
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES.keys())
def test_a_failing_endpoint_never_replaces_good_keys_and_they_last_a_day(
    failure: dict[str, Any], verifier: TokenVerifier, endpoint: KeyEndpoint, clock: Clock
) -> None:
    assert accepts(verifier, token())
    for name, value in failure.items():
        setattr(endpoint, name, value)

    clock.offset += 400
    assert accepts(verifier, token())
    assert accepts(verifier, token())
    assert endpoint.asked == 2
    with pytest.raises(Unavailable):  # perhaps a new key: nobody can say
        verifier.verify(f"Bearer {token({'kid': 'k9'})}")
    clock.offset += 24 * 3600
    with pytest.raises(Unavailable):
        verifier.verify(f"Bearer {token(now=clock())}")


def test_a_clock_that_was_set_back_keeps_no_withdrawn_key_alive(
    verifier: TokenVerifier, endpoint: KeyEndpoint, clock: Clock
) -> None:
    assert accepts(verifier, token())
    endpoint.publish(public_jwk("rs", "k2"))
    clock.offset -= 3600

    assert not accepts(verifier, token(now=clock()))


def test_an_endpoint_that_drips_is_given_up_within_the_deadline(verifier: TokenVerifier, endpoint: KeyEndpoint) -> None:
    endpoint.drip_s = 0.1
    started = time.monotonic()
    with pytest.raises(Unavailable):
        verifier.verify(f"Bearer {token()}")

    assert time.monotonic() - started < 6


UNUSABLE = {
    "for encryption": public_jwk("es", "k1", use="enc"),
    "for another algorithm": public_jwk("es", "k1", alg="ES384"),
    "not for verifying": public_jwk("es", "k1", key_ops=["sign"]),
    "with its private part": public_jwk("es", "k1", d=json.loads(ECAlgorithm.to_jwk(signing_key("es")))["d"]),
    "on another curve": {
        **json.loads(ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()).public_key())),
        "kid": "k1",
        "alg": "ES256",
        "key_ops": ["verify"],
    },
    "not on its curve": public_jwk("es", "k1", x=b64(b"x" * 32)),
    "of no kind": public_jwk("es", "k1", kty=["EC"]),
}


@pytest.mark.parametrize("jwk", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_a_published_key_that_is_not_for_verifying_is_dropped(
    jwk: dict[str, Any], verifier: TokenVerifier, endpoint: KeyEndpoint
) -> None:
    endpoint.publish(jwk, public_jwk("rs", "k2"))

    assert accepts(verifier, token({"kid": "k2"}, sign_with="rs"))
    assert not accepts(verifier, token())


def test_a_short_rsa_key_is_dropped(verifier: TokenVerifier, endpoint: KeyEndpoint) -> None:
    weak = json.loads(RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key()))
    endpoint.publish({**weak, "kid": "k2", "use": "sig"}, public_jwk("es", "k1"))

    assert not accepts(verifier, token({"kid": "k2"}, sign_with="rs"))
    assert accepts(verifier, token())


@dataclass(frozen=True)
class Shared:
    """A project that signs with one shared secret, as Supabase Lite does."""

    secret: str
    strict: TokenVerifier
    lenient: TokenVerifier

    def token(self, kid: str | None = None, **claims: Any) -> str:
        head, payload, _ = token({"alg": "HS256", "kid": kid}, claims).split(".")
        sealed = hmac.digest(self.secret.encode(), f"{head}.{payload}".encode(), hashlib.sha256)
        return f"{head}.{payload}.{b64(sealed)}"


@pytest.fixture
def shared(endpoint: KeyEndpoint) -> Shared:
    secret = secrets.token_urlsafe(32)
    return Shared(
        secret,
        TokenVerifier(endpoint.url, ISSUER, Secret(secret)),
        TokenVerifier(endpoint.url, ISSUER, Secret(secret), issuer_optional=True),
    )


def test_with_a_shared_secret_only_hs256_counts_and_no_key_is_fetched(shared: Shared, endpoint: KeyEndpoint) -> None:
    assert accepts(shared.strict, shared.token())
    assert accepts(shared.strict, shared.token(kid="k" * 128))
    assert not accepts(shared.strict, shared.token(kid="k" * 129))
    assert not accepts(shared.strict, token())
    assert not accepts(shared.strict, token({"kid": "k2"}, sign_with="rs"))
    for name in HMAC_KEYS:
        assert not accepts(shared.strict, token({"alg": "HS256"}, sign_with=name))
    assert endpoint.asked == 0


def test_a_missing_issuer_passes_only_where_the_setting_says_so(shared: Shared, endpoint: KeyEndpoint) -> None:
    assert accepts(shared.lenient, shared.token(iss=None))
    assert not accepts(shared.strict, shared.token(iss=None))
    assert not accepts(shared.lenient, shared.token(iss="supabase"))
    assert not accepts(TokenVerifier(endpoint.url, ISSUER, None, issuer_optional=True), token(claims={"iss": None}))
