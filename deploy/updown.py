"""A stage into AWS, and out of it again."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx2
from chalice.cli.factory import CLIFactory
from chalice.utils import UI

from deploy.aws import Aws
from deploy.build import BUILDS, build
from deploy.policies import names_of
from deploy.project import configured, handlers_of
from deploy.stage import STDIO_RUNNER, CannotDeploy, Json, Stage
from deploy.state import SharedState

SMOKE_S = 60


def state_of(aws: Aws, bucket: str | None) -> SharedState:
    own = f"{aws.stage.app}-deployments-{aws.account}-{aws.region}"
    return SharedState(aws.s3(), bucket or own, aws.region, aws.stage)


def up(stage: Stage, *, bucket: str | None, smoke_url: str | None) -> str:
    """Deploy or update; returns the URL of an API that has answered. Raises :class:`CannotDeploy`."""
    aws = Aws(stage)
    aws.check_parameters()
    kms_keys = aws.kms_key_arns()
    state = state_of(aws, bucket)
    with state.locked():
        project = build(stage.name, stage.architecture)
        record = project / ".chalice" / "deployed" / f"{stage.name}.json"
        if not state.fetch(record) and (found := aws.deployed_functions()):
            raise CannotDeploy(
                f"{', '.join(found)} exist in {aws.region}, but the record of their deployment, {state.place}, does "
                "not: deploying would make a second API. Restore an older version of that object; or delete "
                "these functions, then deploy."
            )
        queue_url = aws.make_queues()
        config = _configured(aws, project, queue_url, kms_keys)
        session = CLIFactory(str(project)).create_botocore_session()
        deployer = CLIFactory(str(project)).create_default_deployer(session, config, UI())
        try:
            deployed = deployer.deploy(config, chalice_stage_name=stage.name)
        finally:
            state.save(record)  # also of half a deployment: the next one goes on from there
        _finish(aws, deployed["resources"], handlers_of(config.chalice_app))
    url = next(each["rest_api_url"] for each in deployed["resources"] if each["resource_type"] == "rest_api")
    smoke((smoke_url or url).rstrip("/"))
    print(f"The record of this deployment: {state.place}")
    return str(url)


def _configured(aws: Aws, project: Path, queue_url: str, kms_keys: list[str]) -> Any:
    stage = aws.stage
    environment = {
        **stage.environment,
        "SWEEP_QUEUE_URL": queue_url,
        "STDIO_RUNNER_FUNCTION": stage.function_name(STDIO_RUNNER),
    }
    runner = aws.arn("lambda", f"function:{stage.function_name(STDIO_RUNNER)}")
    where = {"partition": aws.partition, "region": aws.region, "account": aws.account}
    names = {each: names_of(stage, each, **where, kms_keys=kms_keys, runner=runner) for each in stage.functions}
    return configured(stage, project, environment, names, queue_url)


def _finish(aws: Aws, resources: list[Json], handlers: dict[str, str]) -> None:
    for moved in aws.mend_handlers(handlers):
        print(f"The code of a function has moved: {moved}")
    aws.set_partial_batches()
    aws.keep_logs()
    aws.set_alarms()
    (api,) = (each["rest_api_id"] for each in resources if each["resource_type"] == "rest_api")
    aws.open_gateway_answers(api)


def smoke(url: str) -> None:
    """Ask the deployed API how it is. Raises :class:`CannotDeploy` if it does not answer as it should."""
    last = "nothing"
    ends = time.monotonic() + SMOKE_S
    with httpx2.Client(timeout=30) as client:
        while time.monotonic() < ends:
            try:
                health = client.get(f"{url}/health")
                if health.status_code == 200:
                    checks = health.json()["checks"]
                    print("Health: " + ", ".join(f"{name} {state}" for name, state in checks.items()))
                    break
                last = f"HTTP {health.status_code}: {health.text[:300]}"
            except (httpx2.HTTPError, ValueError, KeyError) as error:
                last = type(error).__name__
            time.sleep(2)
        else:
            raise CannotDeploy(f"Deployed, but {url}/health gives {last}. Look into the log of the API's function.")
        refused = client.get(f"{url}/integrations").status_code
    if refused != 401:
        raise CannotDeploy(f"Deployed, but {url}/integrations answers {refused} to nobody; 401 is right.")


def down(stage: Stage, *, bucket: str | None) -> None:
    """Remove everything that :func:`up` has made, but for the logs."""
    aws = Aws(stage)
    state = state_of(aws, bucket)
    with state.locked():
        project = BUILDS / f"{stage.name}-removal"
        record = project / ".chalice" / "deployed" / f"{stage.name}.json"
        if state.fetch(record):
            (project / ".chalice" / "config.json").write_text(json.dumps(dict(stage.config)))
            factory = CLIFactory(str(project))
            config = factory.create_config_obj(stage.name)
            try:
                deleter = factory.create_deletion_deployer(factory.create_botocore_session(), UI())
                deleter.deploy(config, chalice_stage_name=stage.name)
            finally:
                state.save(record)
        elif found := aws.deployed_functions():
            raise CannotDeploy(
                f"{', '.join(found)} exist, but the record of their deployment, {state.place}, does not. Restore an "
                "older version of that object, or delete them by hand."
            )
        aws.delete_queues()
        aws.delete_watching()
    state.forget()
