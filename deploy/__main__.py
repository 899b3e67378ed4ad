"""`python -m deploy up|down|package --stage dev`, as `make deploy`, `make destroy` and `make package` call it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from deploy.stage import CannotDeploy, check, read_stage


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy", description="Deploys a stage of .chalice/config.json.")
    parser.add_argument("what", choices=("up", "down", "package"))
    parser.add_argument("--stage", required=True)
    parser.add_argument("--smoke-url", help="where the API answers, if not at the address that AWS gives it")
    chosen = parser.parse_args(arguments)
    bucket = os.environ.get("DEPLOY_STATE_BUCKET") or None
    try:
        stage = read_stage(chosen.stage)
        if chosen.what != "down":
            check(stage)
        # Chalice and boto3 take a second to load: bad settings are told before.
        if chosen.what == "package":
            from deploy.package import package

            print(f"Ready for `aws cloudformation package` and `deploy`: {package(stage)}")
            return 0
        from deploy.updown import down, up

        if chosen.what == "down":
            down(stage, bucket=bucket)
            print(f"Stage {stage.name} is gone; its logs are kept as long as their retention says.")
        else:
            print(f"Stage {stage.name} answers at {up(stage, bucket=bucket, smoke_url=chosen.smoke_url)}")
    except CannotDeploy as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
