"""The zip that is deployed, for this machine, and a stack to run it on."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from chalice.deploy.packager import DependencyBuilder, LambdaDeploymentPackager
from chalice.utils import UI, OSUtils

from deploy.build import MACHINES, build
from tests.support.functions import PYTHON
from tests.support.postgres import Cluster
from tests.support.rows import add_integration, one
from tests.support.stack import Stack

MACHINE = {machine: architecture for architecture, machine in MACHINES.items()}[os.uname().machine]
ROWS = 50


def packed() -> Path:
    """The zip, built as for a deployment."""
    project, system = build("bench", MACHINE), OSUtils()
    with open(os.devnull, "w") as nowhere:
        builder = DependencyBuilder(system, architecture=MACHINE)
        packager = LambdaDeploymentPackager(system, builder, UI(out=nowhere), MACHINE)
        return Path(packager.create_deployment_package(str(project), PYTHON.name))


@contextmanager
def stack_with_integrations() -> Iterator[tuple[Stack, UUID, str, Path]]:
    """A stack, a user with integrations, the user's token, and a folder for files."""
    cluster = Cluster()
    cluster.start()
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(cluster, Path(folder))
        try:
            stack.start()
            user_id, token = stack.new_user()
            with stack.database.connect() as connection:
                vendor = one(connection, "select id from public.integration_types where slug = 'custom-vendor'")
                for _ in range(ROWS):
                    add_integration(connection, user_id, vendor)
            yield stack, user_id, token, Path(folder)
        finally:
            stack.stop()
            cluster.stop()


def on_lambda(stack: Stack) -> Mapping[str, str]:
    """What a function of Lambda finds in its environment. Secrets are in it: reading them is measured apart."""
    settings = {name: value for name, value in stack.environment().items() if name.startswith("SUPABASE_")}
    return {
        **settings,
        "SUPABASE_URL": "https://project.example",
        "SUPABASE_JWKS_URL": stack.issuer.key_set_url,
        "SUPABASE_JWT_ISSUER": stack.issuer.issuer,
        "APP_ENV": "bench",
        "KMS_KEY_ID": "alias/never-asked",
        "AWS_LAMBDA_FUNCTION_NAME": "integrations-bench",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1024",
        "AWS_REGION": "eu-central-1",
    }
