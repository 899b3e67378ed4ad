"""Signs tokens as a hosted Supabase project does, and publishes the keys where the product looks for them."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

TEN_YEARS = 10 * 365 * 24 * 3600


class Issuer:
    """Supabase Auth as far as tokens go: keys made at the start, a key set on loopback, tokens of any content."""

    def __init__(self) -> None:
        self._private_keys: dict[str, Any] = {
            "ES256": ec.generate_private_key(ec.SECP256R1()),
            "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
        }
        self._key_ids = {algorithm: str(uuid.uuid4()) for algorithm in self._private_keys}
        self._server = _serve_key_set(json.dumps(self.key_set()).encode())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.issuer = f"{self.url}/auth/v1"
        self.key_set_url = f"{self.issuer}/.well-known/jwks.json"

    def key_set(self) -> dict[str, Any]:
        ecdsa = ECAlgorithm.to_jwk(self._private_keys["ES256"].public_key(), as_dict=True)
        rsa_key = RSAAlgorithm.to_jwk(self._private_keys["RS256"].public_key(), as_dict=True)
        keys = {"ES256": ecdsa, "RS256": rsa_key}
        return {
            "keys": [
                {**keys[algorithm], "alg": algorithm, "kid": key_id, "use": "sig", "key_ops": ["verify"]}
                for algorithm, key_id in self._key_ids.items()
            ]
        }

    def sign(self, claims: Mapping[str, Any], *, algorithm: str = "ES256") -> str:
        """A token with exactly these claims."""
        key, key_id = self._private_keys[algorithm], self._key_ids[algorithm]
        return jwt.encode(dict(claims), key, algorithm=algorithm, headers={"kid": key_id})

    def user_claims(self, user_id: uuid.UUID | str) -> dict[str, Any]:
        """What an access token of a signed-in user says, valid for an hour."""
        now = int(time.time())
        return {
            "iss": self.issuer,
            "aud": "authenticated",
            "sub": str(user_id),
            "role": "authenticated",
            "iat": now,
            "exp": now + 3600,
            "session_id": str(uuid.uuid4()),
            "email": f"{user_id}@example.com",
            "aal": "aal1",
            "is_anonymous": False,
        }

    def user_token(self, user_id: uuid.UUID | str, *, algorithm: str = "ES256") -> str:
        return self.sign(self.user_claims(user_id), algorithm=algorithm)

    def api_key(self, role: str) -> str:
        """A key in the older form: a token for ``anon`` or ``service_role`` without a user."""
        now = int(time.time())
        return self.sign({"iss": "supabase", "ref": "tests", "role": role, "iat": now, "exp": now + TEN_YEARS})

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _serve_key_set(body: bytes) -> ThreadingHTTPServer:
    class KeySet(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/auth/v1/.well-known/jwks.json"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body) if found else 0))
            self.end_headers()
            if found:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), KeySet)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server
