"""A built project, made ready for Chalice: its configuration, its policies, and the app that it looks at."""

from __future__ import annotations

import copy
import importlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chalice.config import Config

from deploy.policies import Names, policy_of
from deploy.stage import ROOT, STDIO_RUNNER, Json, Stage

#: Ours, in Chalice's file; and what Chalice gets wrong for the API's function, so that we do it. Settings are not
#: called environment_variables, for Chalice's test client and local server would take a stage's for their own.
_OURS = ("settings", "log_retention_in_days", "alarm_topic_arn", "worker_concurrency")


def configured(
    stage: Stage, project: Path, environment: Mapping[str, Any], names: Mapping[str, Names], queue_url: str
) -> Config:
    """Write configuration and policies into the project. ``names`` fills in each function's policy.

    Every function gets ``environment`` but the runner of commands, which gets nothing. ``queue_url`` is what the app
    takes the queue's name from when it registers its handlers.
    """
    config = _chalice_config(stage, environment)
    folder = project / ".chalice"
    for function in stage.functions:
        policy = policy_of(stage, function, names[function])
        folder.joinpath(stage.option("iam_policy_file", function)).write_text(json.dumps(policy, indent=2))
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return Config(
        chalice_stage=stage.name,
        user_provided_params={"chalice_app": _app(queue_url), "project_dir": str(project)},
        config_from_disk=config,
        default_params={"api_gateway_stage": "api", "autogen_policy": False},
    )


def _chalice_config(stage: Stage, environment: Mapping[str, Any]) -> Json:
    config: Json = copy.deepcopy(dict(stage.config))
    of_stage = config["stages"][stage.name]
    functions = of_stage.setdefault("lambda_functions", {})
    for function in stage.functions:
        options = functions.setdefault(function, {})
        options["environment_variables"] = {} if function == STDIO_RUNNER else dict(environment)
        options["autogen_policy"] = False
    for place in (config, of_stage, *functions.values(), *config["lambda_functions"].values()):
        for name in _OURS:
            place.pop(name, None)
    return config


def _app(queue_url: str) -> Any:
    """The app of this checkout, as it registers its functions where there is a queue."""
    os.environ["SWEEP_QUEUE_URL"] = queue_url
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    return importlib.import_module("app").app


def handlers_of(app: Any) -> dict[str, str]:
    """Where Lambda finds each function, as the sources say it now."""
    found = {"api_handler": "app.app"}
    found |= {each.name: each.handler_string for each in app.event_sources}
    return found | {each.name: each.handler_string for each in app.pure_lambda_functions}
