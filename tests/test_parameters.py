"""Secret settings in the Parameter Store: read with one request that AWS would accept, never shown, never guessed."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from moto.server import ThreadedMotoServer

from chalicelib import wiring
from chalicelib.errors import Unavailable
from chalicelib.settings import BadSettings, parameters_of
from chalicelib.store.parameters import read_parameters, signed_headers
from tests.support.answers_all import AnswersAll
from tests.support.app import environment

SECRET = f"sb_secret_{secrets.token_hex(16)}"
NAME = "/integrations/dev/supabase-secret-key"
ENV = {
    "AWS_REGION": "eu-central-1",
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
    "AWS_SESSION_TOKEN": secrets.token_hex(20),
}


@pytest.fixture(scope="module")
def aws() -> Iterator[dict[str, str]]:
    """A Parameter Store that holds one secret; what a function of Lambda finds in its environment."""
    import boto3

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    env = ENV | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    client = boto3.client(
        "ssm",
        "eu-central-1",
        endpoint_url=env["AWS_ENDPOINT_URL"],
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    client.put_parameter(Name=NAME, Value=SECRET, Type="SecureString")
    client.close()
    yield env
    server.stop()


@pytest.mark.parametrize("token", ["", ENV["AWS_SESSION_TOKEN"]], ids=["user", "role"])
def test_the_signature_is_the_one_that_the_aws_sdk_makes(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url, body, now = "https://ssm.eu-central-1.amazonaws.com/", b'{"Names": ["a"]}', datetime(2026, 1, 2, 3, 4, 5)
    ours = signed_headers(url, body, "eu-central-1", ENV | {"AWS_SESSION_TOKEN": token}, now)

    unsigned = {"Content-Type": ours["content-type"], "X-Amz-Target": ours["x-amz-target"]}
    theirs = AWSRequest("POST", url, unsigned, body)
    credentials = Credentials(ENV["AWS_ACCESS_KEY_ID"], ENV["AWS_SECRET_ACCESS_KEY"], token or None)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: now.replace(tzinfo=UTC))
    SigV4Auth(credentials, "ssm", "eu-central-1").add_auth(theirs)

    assert ours["authorization"] == theirs.headers["Authorization"]


def test_secrets_are_read_decrypted(aws: dict[str, str]) -> None:
    assert read_parameters({NAME}, aws) == {NAME: SECRET}


def test_a_parameter_that_does_not_exist_is_named(aws: dict[str, str]) -> None:
    with pytest.raises(BadSettings, match="/integrations/dev/typo"):
        read_parameters({NAME, "/integrations/dev/typo"}, aws)


@pytest.mark.parametrize("status", [400, 500])
def test_a_store_that_refuses_is_asked_twice_and_quoted_nowhere(status: int, caplog: pytest.LogCaptureFixture) -> None:
    refusal = {"__type": "AccessDeniedException", "message": f"no, {SECRET}"}
    with AnswersAll(status, refusal) as store, pytest.raises(Unavailable) as raised:
        read_parameters({NAME}, ENV | {"AWS_ENDPOINT_URL_SSM": store.url})

    assert len(store.asked) == 2
    assert SECRET not in str(raised.value) + caplog.text
    assert f"HTTP {status} AccessDeniedException" in caplog.text


def test_a_store_that_cannot_be_reached_is_not_there_now() -> None:
    with pytest.raises(Unavailable):
        read_parameters({NAME}, ENV | {"AWS_ENDPOINT_URL_SSM": "http://127.0.0.1:1"})


def test_a_secret_is_given_in_plain_or_by_parameter_not_both() -> None:
    with pytest.raises(BadSettings, match="SUPABASE_SECRET_KEY or SUPABASE_SECRET_KEY_PARAMETER"):
        parameters_of({"SUPABASE_SECRET_KEY": SECRET, "SUPABASE_SECRET_KEY_PARAMETER": NAME})


def test_the_app_starts_with_secrets_from_the_store_and_asks_for_them_once(aws: dict[str, str]) -> None:
    settings = {
        "SUPABASE_URL": "https://project.example",
        "SUPABASE_PUBLISHABLE_KEY": f"sb_publishable_{secrets.token_hex(8)}",
        "SUPABASE_SECRET_KEY_PARAMETER": NAME,
        "KMS_KEY_ID": "alias/integrations",
    }
    answer = {"Parameters": [{"Name": NAME, "Value": SECRET}], "InvalidParameters": []}
    with AnswersAll(200, answer) as store, environment(aws | settings | {"AWS_ENDPOINT_URL_SSM": store.url}):
        read = [wiring.settings().supabase_secret_key.reveal() for _ in range(2)]

    assert read == [SECRET, SECRET]
    assert len(store.asked) == 1
