"""Short-lived JSON Web Tokens, minted for one call from a signing key and the claims of the type's template."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from chalicelib.model import Target, Verdict
from chalicelib.probes.verdicts import Finding

ALGORITHMS = ("HS256", "RS256", "ES256")
DEFAULT_LIFETIME_S, MAX_LIFETIME_S = 300, 3_600
#: Our clock may run a little ahead of theirs.
LEEWAY_S = 10

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


def minted(target: Target, template: Mapping[str, Any]) -> str:
    """A token with the template's claims, ``iat``, ``exp`` and ``jti``. Raises :class:`Finding`, ``misconfigured``.

    Placeholders such as ``{account}`` are filled from the connection config, or from a credential of that name.
    """
    import jwt

    algorithm = template.get("algorithm", "HS256")
    if algorithm not in ALGORITHMS:
        raise _unusable("its integration type asks for an algorithm that is not supported")
    now = int(time.time())
    lifetime = min(int(template.get("lifetime_s", DEFAULT_LIFETIME_S)), MAX_LIFETIME_S)
    claims = {name: _filled(value, target) for name, value in template.get("claims", {}).items()}
    claims |= {"iat": now - LEEWAY_S, "exp": now + lifetime, "jti": str(uuid4())}
    headers = {name: _filled(value, target) for name, value in template.get("headers", {}).items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about short keys: the vendor chose its length
            return jwt.encode(claims, target.secrets["jwt_signing_key"].reveal(), algorithm=algorithm, headers=headers)
    except (jwt.PyJWTError, ValueError, TypeError):
        raise _unusable(f"it is no key for {algorithm}") from None


def _unusable(why: str) -> Finding:
    return Finding(
        Verdict.MISCONFIGURED,
        "policy",
        f"Before connecting, a token must be signed, but the saved signing key cannot be used: {why}. "
        "Save 'jwt_signing_key' again, as the whole PEM text or secret.",
        detail="jwt_signing_key cannot sign",
    )


def _filled(value: Any, target: Target) -> Any:
    if isinstance(value, list):
        return [_filled(item, target) for item in value]
    return _PLACEHOLDER.sub(lambda match: _value(match[1], target), value) if isinstance(value, str) else value


def _value(name: str, target: Target) -> str:
    if name in target.config:
        return str(target.config[name])
    if target.secrets.get(name):
        return target.secrets[name].reveal()
    raise Finding(
        Verdict.MISCONFIGURED,
        "policy",
        f"Before connecting, a token must be signed, and the setting '{name}' for it is missing. Fill it in and test.",
        detail=f"{name} is missing",
    )
