"""Every kind of credential, how a server knows the right one, and a wrong one of the same kind."""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from chalicelib.model import Target, Verdict
from tests.peers.mcp_servers import Lock
from tests.peers.targets import a_target

KEY, OTHER = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
Texts = Mapping[str, str]


@dataclass(frozen=True)
class Credential:
    """``opens`` judges headers (lower case) and query; ``tells`` judges the environment of a command."""

    method: str
    right: dict[str, str]
    wrong: dict[str, str]
    opens: Callable[[Texts, Texts], bool]
    tells: Callable[[Texts], bool]
    auth: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def refused(self) -> Verdict:
        return Verdict.NEEDS_REAUTH if self.method == "oauth" else Verdict.AUTH_REJECTED

    def target(self, kind: str, config: Mapping[str, Any], given: Texts, **definition: Any) -> Target:
        auth = {"auth": {self.method: self.auth}}
        return a_target(
            kind, {**self.config, **config}, method=self.method, secrets=given, definition={**auth, **definition}
        )


def lock_of(credential: Credential) -> Lock:
    def judge(headers: dict[str, str], query: dict[str, str]) -> tuple[int, dict[str, str], bytes] | None:
        return None if credential.opens(headers, query) else (401, {"content-type": "application/json"}, b"{}")

    return judge


def basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def header(name: str, value: str) -> Callable[[Texts, Texts], bool]:
    return lambda headers, query: headers.get(name) == value


def variable(**expected: str) -> Callable[[Texts], bool]:
    return lambda env: expected.items() <= env.items()


def pem(key: Any) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def minted(algorithm: str, right: str, wrong: str, known: Any) -> Credential:
    """A token per call, with the claims of the type's template, verified as a server does."""

    def is_good(token: str) -> bool:
        try:
            claims = jwt.decode(token, known, algorithms=[algorithm], audience="https://api.example", issuer="acme")
        except jwt.PyJWTError:
            return False
        return (
            bool(claims["jti"])
            and claims["exp"] - claims["iat"] <= 130
            and jwt.get_unverified_header(token)["kid"] == "7"
        )

    mint = {
        "algorithm": algorithm,
        "claims": {"iss": "{account}", "aud": "https://api.example"},
        "headers": {"kid": "7"},
        "lifetime_s": 120,
    }
    return Credential(
        "jwt",
        {"jwt_signing_key": right},
        {"jwt_signing_key": wrong},
        lambda headers, query: is_good(headers.get("authorization", "").removeprefix("Bearer ")),
        lambda env: is_good(env.get("JWT", "")),
        auth={"mint": mint},
        config={"account": "acme"},
    )


def _minted() -> dict[str, Credential]:
    def public(key: Any) -> bytes:
        return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    rs, rs_other = (rsa.generate_private_key(65537, 2048) for _ in range(2))
    es, es_other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    hs, hs_other = secrets.token_hex(32), secrets.token_hex(32)
    return {
        "minted HS256": minted("HS256", hs, hs_other, hs),
        "minted RS256": minted("RS256", pem(rs), pem(rs_other), public(rs)),
        "minted ES256": minted("ES256", pem(es), pem(es_other), public(es)),
    }


def _placed(place: dict[str, str] | None, opens: Callable[[Texts, Texts], bool], **env: str) -> Credential:
    auth = {"place": place} if place else {}
    return Credential("api_key", {"api_key": KEY}, {"api_key": OTHER}, opens, variable(**env), auth=auth)


BEARER = header("authorization", f"Bearer {KEY}")
CREDENTIALS: dict[str, Credential] = {
    "API key as bearer": _placed(None, BEARER, API_KEY=KEY),
    "API key in a header": _placed({"in": "header", "name": "X-Api-Key"}, header("x-api-key", KEY), API_KEY=KEY),
    "API key with a prefix": _placed(
        {"in": "header", "name": "Authorization", "prefix": "Token "},
        header("authorization", f"Token {KEY}"),
        API_KEY=KEY,
    ),
    "API key in the query": _placed(
        {"in": "query", "name": "key"}, lambda headers, query: query.get("key") == KEY, API_KEY=KEY
    ),
    "API key as user": _placed({"in": "basic_user"}, header("authorization", basic(KEY, "")), API_KEY=KEY),
    "basic": Credential(
        "basic",
        {"username": "ada", "password": KEY},
        {"username": "ada", "password": OTHER},
        header("authorization", basic("ada", KEY)),
        variable(USERNAME="ada", PASSWORD=KEY),
    ),
    "given JWT": Credential("jwt", {"jwt": KEY}, {"jwt": OTHER}, BEARER, variable(JWT=KEY)),
    **_minted(),
    "OAuth": Credential("oauth", {"access_token": KEY}, {"access_token": OTHER}, BEARER, variable(ACCESS_TOKEN=KEY)),
    "extra header or variable": Credential(
        "none",
        {"header.X-Extra": KEY, "env.EXTRA": KEY},
        {"header.X-Extra": OTHER, "env.EXTRA": OTHER},
        header("x-extra", KEY),
        variable(EXTRA=KEY),
    ),
    "API key and an extra header or variable": Credential(
        "api_key",
        {"api_key": KEY, "header.X-Team": "red", "env.TEAM": "red"},
        {"api_key": KEY, "header.X-Team": "blue", "env.TEAM": "blue"},
        lambda headers, query: BEARER(headers, query) and headers.get("x-team") == "red",
        variable(API_KEY=KEY, TEAM="red"),
    ),
}
