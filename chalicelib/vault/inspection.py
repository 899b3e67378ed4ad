"""Looking at credentials before they are sealed: what is plainly wrong is said while its owner still has it at hand."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from chalicelib.errors import Invalid
from chalicelib.model import AuthMethod, Secret
from chalicelib.services.config_rules import WEBHOOK_SECRET, credential_name_problem
from chalicelib.vault import material
from chalicelib.vault.material import Unusable
from chalicelib.vault.sealing import MAX_SECRET_BYTES

_TYPES: Mapping[AuthMethod, frozenset[str]] = {
    AuthMethod.NONE: frozenset(),
    AuthMethod.API_KEY: frozenset({"api_key"}),
    AuthMethod.BASIC: frozenset({"username", "password"}),
    AuthMethod.OAUTH: frozenset({"access_token", "refresh_token", "client_id", "client_secret"}),
    AuthMethod.JWT: frozenset({"jwt", "jwt_signing_key"}),
    AuthMethod.CERTIFICATE: frozenset({"client_certificate", "client_key", "client_key_passphrase", "ca_certificate"}),
    AuthMethod.SSH_KEY: frozenset({"username", "private_key", "private_key_passphrase", "host_key"}),
}
_LONGEST_TYPE = 128
#: Files and settings of several lines; everything else is one line.
_MANY_LINES = frozenset(
    {"client_certificate", "client_key", "ca_certificate", "private_key", "host_key", "jwt_signing_key"}
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CONTROL_BUT_LINES = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_VISIBLE_ASCII = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
_HEADER_VALUE = re.compile(r"[\x21-\x7e\xa1-\xff]([\x20-\x7e\xa0-\xff]*[\x21-\x7e\xa1-\xff])?")


@dataclass(frozen=True)
class _Given:
    """All texts of one request, for the rules that look at two of them, and the types that are stored already."""

    method: AuthMethod
    texts: Mapping[str, str]
    stored: Collection[str]
    names: Mapping[str, int]  # how often each type is given, upper and lower case being one


def allowed_credential_types(auth_method: AuthMethod) -> frozenset[str]:
    """The types of ``api.md``'s table. Every method also takes ``env.KEY``, ``header.NAME`` and ``webhook_secret``."""
    return _TYPES[auth_method]


def credential_type_problem(auth_method: AuthMethod, credential_type: str) -> str | None:
    """Why this method takes no credential of this type, or None."""
    if credential_type in _TYPES[auth_method] or credential_type == WEBHOOK_SECRET:
        return None
    if "." in credential_type:
        return credential_name_problem(credential_type)
    known = ", ".join(sorted(_TYPES[auth_method]) or ["no credentials"])
    return f"is not used by the auth method {auth_method.value}, which takes {known}; also env.KEY and header.NAME"


def inspect_credentials(
    auth_method: AuthMethod, secrets: Mapping[str, Secret], *, stored: Collection[str] = ()
) -> Mapping[str, datetime | None]:
    """Check every value; when each of them expires, where it says so itself.

    ``stored`` are the types that the integration has already: a key whose passphrase was saved earlier is not opened
    here. Raises ``Invalid`` with a pair ("credentials.<type>", what is wrong and what to do) for each bad one, never
    with a part of a value.
    """
    problems: list[tuple[str, str]] = []
    expiries: dict[str, datetime | None] = {}
    texts = {kind: secret.reveal() for kind, secret in secrets.items()}
    given = _Given(auth_method, texts, stored, Counter(kind.lower() for kind in texts))
    for kind, text in given.texts.items():
        if len(kind) > _LONGEST_TYPE or not kind.isascii() or not kind.isprintable():
            problems.append(("credentials", "has a name that is too long or holds odd characters"))
            continue
        problem = credential_type_problem(auth_method, kind) or _text_problem(kind, text) or _double(kind, given)
        if problem is None:
            problem = _read(kind, text, given, expiries)
        if problem is not None:
            problems.append((f"credentials.{kind}", problem))
    if not problems:
        problems = _pair_problems(given)
    if problems:
        raise Invalid("A credential cannot be used as it is.", problems)
    return expiries


def _read(kind: str, text: str, given: _Given, expiries: dict[str, datetime | None]) -> str | None:
    rule = _RULES.get(kind)
    try:
        expiries[kind] = rule(text, given) if rule else None
    except Unusable as unusable:
        return str(unusable)
    return None


def _text_problem(kind: str, text: str) -> str | None:
    if not text:
        return "is empty: give a value, or leave it out"
    if any("\ud800" <= char <= "\udfff" for char in text):
        return "holds half a character, which cannot be stored: copy it again"
    if len(text.encode()) > MAX_SECRET_BYTES:
        return "is larger than 64 KiB"
    if kind.startswith("header.") and not _HEADER_VALUE.fullmatch(text):
        return "must be one line of printable Latin-1 characters, without spaces at its ends"
    controls = _CONTROL_BUT_LINES if kind in _MANY_LINES or kind.startswith("env.") else _CONTROL
    if controls.search(text):
        return "holds a line break or another control character: copy it again without it"
    if kind in _MANY_LINES and "-----BEGIN" in text and "\\n" in text:
        return "has \\n written out where its lines end: replace each with a line break"
    return None


def _double(kind: str, given: _Given) -> str | None:
    """Header names that differ in case only are one header."""
    if kind.startswith("header.") and given.names[kind.lower()] > 1:
        return "is given twice: the names of headers do not depend on upper and lower case"
    return None


def _pair_problems(given: _Given) -> list[tuple[str, str]]:
    certificate, key = given.texts.get("client_certificate"), given.texts.get("client_key")
    if certificate is None or key is None or _passphrase_is_elsewhere(given, "client_key"):
        return []
    private = material.read_private_key(key, given.texts.get("client_key_passphrase"))
    if material.belong_together(material.read_certificates(certificate)[0], private):
        return []
    return [
        ("credentials.client_key", "does not belong to the client_certificate: save the two that were made together")
    ]


def _passphrase_is_elsewhere(given: _Given, kind: str) -> bool:
    passphrase = f"{kind}_passphrase"
    return passphrase in given.stored and passphrase not in given.texts


def _private_key(kind: str) -> Callable[[str, _Given], None]:
    def check(text: str, given: _Given) -> None:
        if not _passphrase_is_elsewhere(given, kind):
            passphrase = f"{kind}_passphrase"
            advice = f"give it as {passphrase}, before the key or together with it"
            material.read_private_key(text, given.texts.get(passphrase), if_locked=advice)

    return check


def _client_key(text: str, given: _Given) -> None:
    if "-----BEGIN OPENSSH PRIVATE KEY-----" in text:
        raise Unusable("is in OpenSSH form: a certificate needs its key in PEM form")
    _private_key("client_key")(text, given)


def _signing_key(text: str, given: _Given) -> None:
    """A PEM private key, or else the shared secret of an HMAC."""
    if "-----BEGIN" in text:
        material.read_private_key(text, None)
    elif _CONTROL.search(text):
        raise Unusable("holds a line break, but is not a private key in PEM form")


def _token(text: str, given: _Given) -> None:
    """What travels in headers and forms (RFC 6749, appendix A: visible ASCII)."""
    if not _VISIBLE_ASCII.fullmatch(text):
        raise Unusable("must be printable ASCII without spaces at its ends: copy it again")


def _token_that_may_expire(text: str, given: _Given) -> datetime | None:
    """Vendors' keys and access tokens are often JWTs; those that are not say nothing of their end."""
    _token(text, given)
    try:
        return material.token_expiry(text)
    except Unusable:
        return None


def _jwt(text: str, given: _Given) -> datetime | None:
    _token(text, given)
    return material.current_token_expiry(text)


def _username(text: str, given: _Given) -> None:
    if given.method is AuthMethod.BASIC and ":" in text:
        raise Unusable("holds a colon, which HTTP Basic cannot send in a user name (RFC 7617)")


#: Types without a rule are any text: passwords, passphrases, ``env.KEY``, ``header.NAME``.
_RULES: Mapping[str, Callable[[str, _Given], datetime | None]] = {
    "username": _username,
    "api_key": _token_that_may_expire,
    "access_token": _token_that_may_expire,
    "refresh_token": _token,
    "client_id": _token,
    "client_secret": _token,
    "jwt": _jwt,
    "jwt_signing_key": _signing_key,
    "client_certificate": lambda text, given: material.client_certificate_expiry(text),
    "ca_certificate": lambda text, given: material.ca_certificate_expiry(text),
    "client_key": _client_key,
    "private_key": _private_key("private_key"),
    "host_key": lambda text, given: material.read_host_key(text),
}
