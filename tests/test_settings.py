"""Settings that would be unsafe on Lambda are refused at the start, all of them at once, and no value is repeated."""

from __future__ import annotations

import base64
import json

import pytest

from chalicelib.settings import LOCAL_JWT_SECRET, BadSettings, read_settings

GOOD = {
    "AWS_LAMBDA_FUNCTION_NAME": "api",
    "SUPABASE_URL": "https://project.example",
    "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_x",
    "SUPABASE_SECRET_KEY": "sb_secret_x",
    "KMS_KEY_ID": "alias/x",
}


def old_key(role: str) -> str:
    """A key of the old form, as the dashboard shows it; the signature is nobody's."""
    claims = base64.urlsafe_b64encode(json.dumps({"iss": "supabase", "role": role}).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJIUzI1NiJ9.{claims}.c2lnbmF0dXJl"


def problems(**changed: str) -> list[str]:
    with pytest.raises(BadSettings) as refused:
        read_settings(GOOD | changed)
    return str(refused.value).splitlines()


def test_good_ones_are_accepted() -> None:
    assert read_settings(GOOD).on_lambda
    keys = {"SUPABASE_PUBLISHABLE_KEY": old_key("anon"), "SUPABASE_SECRET_KEY": old_key("service_role")}
    assert read_settings(GOOD | keys).supabase_secret_key.reveal() == keys["SUPABASE_SECRET_KEY"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SUPABASE_REST_URL", "http://project.example/rest/v1"),
        ("SUPABASE_JWKS_URL", "http://project.example/keys"),
        ("KMS_ENDPOINT_URL", "http://kms.example"),
        ("SUPABASE_PUBLISHABLE_KEY", old_key("service_role")),
        ("SUPABASE_SECRET_KEY", old_key("anon")),
        ("SUPABASE_JWT_SECRET", LOCAL_JWT_SECRET),
        ("SUPABASE_JWT_ISSUER_OPTIONAL", "true"),
        ("EGRESS_ALLOW", "64:ff9b::/96"),
        ("EGRESS_ALLOW", "2002::/16"),
        ("EGRESS_ALLOW", "fd00:ec2::/32"),
        ("TESTS_PER_MINUTE", "nan"),
        ("SWEEP_LEASE_S", "nan"),
    ],
)
def test_an_unsafe_one_is_named_and_not_repeated(name: str, value: str) -> None:
    told = "\n".join(problems(**{name: value}))

    assert name in told
    assert value == "true" or value not in told or value == "nan"


def test_locally_plain_http_serves() -> None:
    env = {**GOOD, "SUPABASE_URL": "http://127.0.0.1:54321", "SUPABASE_JWT_SECRET": LOCAL_JWT_SECRET}
    del env["AWS_LAMBDA_FUNCTION_NAME"]

    assert read_settings(env).rest_url == "http://127.0.0.1:54321/rest/v1"
