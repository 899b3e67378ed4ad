"""An AWS account on this machine, with a Supabase project beside it: deploy into it, then use what was deployed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3

from local.processes import Child, bare_environment, free_port
from tests.support.events import scheduled_event
from tests.support.gateway import Gateway
from tests.support.stack import Stack

ROOT = Path(__file__).resolve().parents[2]
REGION = "eu-central-1"
STAGE = "dev"
PARAMETER = f"/integrations/{STAGE}/supabase-secret-key"
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": REGION}
MACHINE = {"x86_64": "x86_64", "aarch64": "arm64"}[os.uname().machine]


class LambdaWorld:
    """``environment`` is the shell of whoever deploys; ``files`` holds the functions' code and logs."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        port = free_port()
        self._port = port
        self.files = folder
        self._moto = Child(
            "moto",
            [sys.executable, "-m", "tests.support.moto_for_lambda", str(port), folder],
            log=folder / "moto.log",
            env={**bare_environment(), **KEYS},
            cwd=ROOT,
        )
        url = f"http://127.0.0.1:{port}"
        self._session = boto3.session.Session(
            KEYS["AWS_ACCESS_KEY_ID"], KEYS["AWS_SECRET_ACCESS_KEY"], region_name=REGION
        )
        self._clients: dict[str, Any] = {}
        self._url = url
        self.environment = {
            **bare_environment(),
            **KEYS,
            "AWS_ENDPOINT_URL": url,
            "LAMBDA_ARCHITECTURE": MACHINE,
            "SUPABASE_URL": "https://project.example",
            "SUPABASE_REST_URL": stack.postgrest.url,
            "SUPABASE_JWKS_URL": stack.issuer.key_set_url,
            "SUPABASE_JWT_ISSUER": stack.issuer.issuer,
            "SUPABASE_PUBLISHABLE_KEY": stack.issuer.api_key("anon"),
            "ALLOWED_ORIGINS": "https://app.example.com",
            "MCP_STDIO": "catalogue",
        }
        self.secret_key = stack.issuer.api_key("service_role")

    def start(self) -> None:
        self._moto.wait_until(self._answers)
        self.gateway = Gateway(self.client("apigateway"), self.client("lambda"))

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def stop(self) -> None:
        if hasattr(self, "gateway"):
            self.gateway.stop()
        for client in self._clients.values():
            client.close()
        self._moto.stop()

    def client(self, service: str) -> Any:
        if service not in self._clients:
            self._clients[service] = self._session.client(service, endpoint_url=self._url)  # type: ignore[call-overload]
        return self._clients[service]

    def make_key_and_parameter(self) -> str:
        """What an operator makes by hand before the first deployment; returns the key's ARN."""
        arn: str = self.client("kms").create_key()["KeyMetadata"]["Arn"]
        self.client("kms").create_alias(AliasName=f"alias/integrations-{STAGE}", TargetKeyId=arn)
        self.client("ssm").put_parameter(Name=PARAMETER, Value=self.secret_key, Type="SecureString")
        return arn

    def deploy(self, *arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
        """`python -m deploy …` in the shell of whoever deploys."""
        return subprocess.run(
            [sys.executable, "-m", "deploy", *arguments, "--stage", STAGE],
            cwd=ROOT,
            env={**self.environment, **changed},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def up(self, **changed: str) -> subprocess.CompletedProcess[str]:
        return self.deploy("up", "--smoke-url", self.gateway.url, **changed)

    def invoke(self, function: str, event: Any) -> dict[str, Any]:
        """The function's answer, or ``{"errorType", "errorMessage"}``."""
        done = self.client("lambda").invoke(FunctionName=f"integrations-{STAGE}{function}", Payload=json.dumps(event))
        answer: dict[str, Any] = json.loads(done["Payload"].read())
        return answer

    def fire(self, expression: str) -> list[str]:
        """Let the time of the rules with this schedule come; returns the functions that were started."""
        events, started = self.client("events"), []
        for rule in events.list_rules()["Rules"]:
            if rule.get("ScheduleExpression") == expression and rule["State"] == "ENABLED":
                for target in events.list_targets_by_rule(Rule=rule["Name"])["Targets"]:
                    name = target["Arn"].rpartition(":")[2]
                    self.invoke(name.removeprefix(f"integrations-{STAGE}"), scheduled_event())
                    started.append(name)
        return started

    def log(self, function: str = "") -> str:
        file = self.files / "logs" / f"integrations-{STAGE}{function}"
        return file.read_text() if file.exists() else ""


@contextmanager
def lambda_world(stack: Stack, folder: Path) -> Iterator[LambdaWorld]:
    world = LambdaWorld(stack, folder)
    try:
        world.start()
        yield world
    finally:
        world.stop()
