"""What is to be deployed: one stage of `.chalice/config.json`, checked before anything is touched."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from chalicelib.settings import SECRETS, BadSettings, parameters_of, read_settings

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / ".chalice" / "config.json"
API = "api_handler"
STDIO_RUNNER = "stdio_runner"
WORKER = "work"
#: Lambda's runtimes that we run on. What is built by one of them runs on no other.
PYTHONS = ((3, 11), (3, 12), (3, 13), (3, 14))
ARCHITECTURES = ("arm64", "x86_64")
#: In place of a secret when the other settings are checked.
_PLACEHOLDERS = {"SUPABASE_SECRET_KEY": "sb_secret_0", "SUPABASE_JWT_SECRET": "0" * 32}

Json = dict[str, Any]


class CannotDeploy(Exception):
    """The message is for the person at the keyboard: what to mend, and how."""


@dataclass(frozen=True)
class Stage:
    """One stage. ``config`` is the file as it stands; ``environment`` what the shell changed of its variables."""

    name: str
    config: Mapping[str, Any]
    environment: Mapping[str, str]

    @property
    def app(self) -> str:
        return str(self.config["app_name"])

    @property
    def prefix(self) -> str:
        return f"{self.app}-{self.name}"

    @property
    def queue(self) -> str:
        return f"{self.prefix}-sweep"

    @property
    def dead_letters(self) -> str:
        return f"{self.prefix}-sweep-dead"

    @property
    def architecture(self) -> str:
        return str(self.option("lambda_architecture"))

    @cached_property
    def functions(self) -> tuple[str, ...]:
        return tuple(self.config["lambda_functions"])

    def function_name(self, function: str) -> str:
        """As Chalice calls it in AWS."""
        return self.prefix if function == API else f"{self.prefix}-{function}"

    def option(self, name: str, function: str | None = None, default: Any = None) -> Any:
        """The most special value there is: of the stage's function, the stage, the function, or all."""
        return next(found[name] for found in self._places(function, {name: default}) if name in found)

    def _places(self, function: str | None, last: Json) -> Iterator[Mapping[str, Any]]:
        stage = self.config["stages"][self.name]
        yield stage.get("lambda_functions", {}).get(function, {})
        yield stage
        yield self.config["lambda_functions"].get(function, {})
        yield self.config
        yield last

    @property
    def kms_keys(self) -> list[str]:
        return [self.environment["KMS_KEY_ID"], *_listed(self.environment.get("KMS_PREVIOUS_KEY_IDS", ""))]

    @property
    def parameters(self) -> dict[str, str]:
        """Which secret is kept in which parameter."""
        return parameters_of(self.environment)


def read_stage(name: str, shell: Mapping[str, str] = os.environ, file: Path = CONFIG) -> Stage:
    """The stage as it stands in the file. Raises :class:`CannotDeploy` if there is none of that name.

    A variable of the shell that the file lists counts instead of the file's, and so does ``LAMBDA_ARCHITECTURE``; but
    not ``APP_ENV``: many shells have one, and under another name no credential opens that was sealed before.
    """
    config = json.loads(file.read_text())
    if name not in config["stages"]:
        raise CannotDeploy(f"There is no stage {name} in {file.name}. There are: {', '.join(config['stages'])}.")
    listed = config["stages"][name]["settings"]
    environment = {key: value if key == "APP_ENV" else shell.get(key, value) for key, value in listed.items()}
    if architecture := shell.get("LAMBDA_ARCHITECTURE"):
        config["stages"][name]["lambda_architecture"] = architecture
    return Stage(name, config, {key: value for key, value in environment.items() if value})


def check(stage: Stage) -> None:
    """Return if the stage would start. Raises :class:`CannotDeploy` naming all that is wrong."""
    _check_python()
    if stage.architecture not in ARCHITECTURES:
        raise CannotDeploy(f"lambda_architecture must be one of {', '.join(ARCHITECTURES)}.")
    _check_settings(stage)


def _check_python() -> None:
    if sys.version_info[:2] not in PYTHONS:
        known = ", ".join(f"{major}.{minor}" for major, minor in PYTHONS)
        raise CannotDeploy(
            f"This is Python {sys.version_info[0]}.{sys.version_info[1]}, which Lambda does not have. What you deploy "
            f"runs on the Python that builds it: use one of {known} (make setup PYTHON=python3.13)."
        )


def _check_settings(stage: Stage) -> None:
    secrets = [name for name in SECRETS if stage.environment.get(name)]
    if secrets:
        raise CannotDeploy(
            f"{', '.join(secrets)} would be readable by everybody who can see the function. Keep secrets in the "
            "Parameter Store and name the parameter: see docs/operations.md, First deployment."
        )
    prefix = f"/{stage.app}/{stage.name}/"
    try:
        kept = stage.parameters
        outside = [parameter for parameter in kept.values() if not parameter.startswith(prefix)]
        if outside:
            raise CannotDeploy(f"The functions may read {prefix}* only, not {', '.join(outside)}.")
        read_settings(
            {**stage.environment, **{name: _PLACEHOLDERS[name] for name in kept}}
            | {"AWS_LAMBDA_FUNCTION_NAME": stage.function_name(API), "STDIO_RUNNER_FUNCTION": "x"}
        )
    except BadSettings as bad:
        raise CannotDeploy(f"{bad}\nThey stand in {CONFIG.name}, stage {stage.name}, or in your shell.") from None


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
