"""Secret settings in AWS Systems Manager Parameter Store: one signed request, when the process starts.

boto3 would do it too, and take 230 ms of every cold start to load; the request is one POST, and what is hard about it,
its signature, is held against botocore's in a test.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from urllib.parse import urlsplit

import httpx

from chalicelib.errors import Unavailable
from chalicelib.settings import BadSettings

TIMEOUT = httpx.Timeout(2.0, connect=1.0)
ATTEMPTS = 2
_TARGET = "AmazonSSM.GetParameters"
_TYPE = "application/x-amz-json-1.1"
_log = logging.getLogger(__name__)


def read_parameters(names: Collection[str], env: Mapping[str, str]) -> dict[str, str]:
    """Their values, decrypted. ``env`` gives region and credentials under the names that Lambda gives them.

    Raises :class:`BadSettings` for parameters that do not exist, :class:`Unavailable` when nobody can tell now.
    """
    region = env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION", "")
    url = env.get("AWS_ENDPOINT_URL_SSM") or env.get("AWS_ENDPOINT_URL") or f"https://ssm.{region}.amazonaws.com"
    body = json.dumps({"Names": sorted(names), "WithDecryption": True}).encode()
    answer = _answer(url.rstrip("/") + "/", body, region, env)
    missing = answer.get("InvalidParameters", [])
    if missing:
        raise BadSettings([f"there is no parameter {name} in the Parameter Store of {region}" for name in missing])
    return {parameter["Name"]: parameter["Value"] for parameter in answer["Parameters"]}


def _answer(url: str, body: bytes, region: str, env: Mapping[str, str]) -> dict[str, list[dict[str, str]]]:
    why = ""
    with httpx.Client(trust_env=False, timeout=TIMEOUT) as client:
        for _ in range(ATTEMPTS):
            headers = signed_headers(url, body, region, env, datetime.now(UTC))
            try:
                response = client.post(url, content=body, headers=headers)
            except httpx.HTTPError as error:
                why = type(error).__name__
                continue
            if response.status_code == 200:
                found: dict[str, list[dict[str, str]]] = response.json()
                return found
            why = f"HTTP {response.status_code} {_kind_of(response)}"
    _log.warning("the Parameter Store gives no settings: %s", why)
    raise Unavailable("The service is starting and cannot read its settings. Try again in a few seconds.")


def _kind_of(response: httpx.Response) -> str:
    try:
        return str(response.json()["__type"])[:60]
    except (ValueError, KeyError, TypeError):
        return ""


def signed_headers(
    url: str, body: bytes, region: str, env: Mapping[str, str], now: datetime, service: str = "ssm"
) -> dict[str, str]:
    """Signature Version 4 of a POST without a query.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
    """
    moment = now.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{moment[:8]}/{region}/{service}/aws4_request"
    headers = {"content-type": _TYPE, "host": urlsplit(url).netloc, "x-amz-date": moment, "x-amz-target": _TARGET}
    if token := env.get("AWS_SESSION_TOKEN"):
        headers["x-amz-security-token"] = token
    names = ";".join(sorted(headers))
    listed = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    request = f"POST\n/\n\n{listed}\n{names}\n{hashlib.sha256(body).hexdigest()}"
    to_sign = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{env.get('AWS_SECRET_ACCESS_KEY', '')}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), hashlib.sha256)
    signature = hmac.digest(key, to_sign.encode(), hashlib.sha256).hex()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={env.get('AWS_ACCESS_KEY_ID', '')}/{scope}, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    return headers
