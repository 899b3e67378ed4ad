"""Loaded by schemathesis: lets half of the good requests meet things that exist, and accepts what no schema can say."""

from __future__ import annotations

import json
import os
from random import Random
from typing import Any

import schemathesis
from schemathesis.core.failures import Failure
from schemathesis.core.transport import Response
from schemathesis.generation import GenerationMode
from schemathesis.hooks import HookContext

FACTS = json.loads(os.environ["FUZZ_FACTS"])
random = Random(7)

#: Only this server makes cursors, and only it knows what an idempotency key was used with before.
BEYOND_ONE_REQUEST = ("bad_cursor", "idempotency_key_reused")
#: Rules that depend on the type of an integration, or on how characters behave: 422 names one of these fields.
BEYOND_SCHEMAS = ("connection_config", "credentials", "auth_method", "integration_type", "value", "expires_at")
BEYOND_PATTERNS = ("Must not hold control characters", "Holds a character that cannot be stored", "Holds a name with")


@schemathesis.hook
def map_case(_context: HookContext, case: Any) -> Any:
    if case.meta.generation.mode is not GenerationMode.POSITIVE or random.random() < 0.5:
        return case
    if "integration_id" in (case.path_parameters or {}):
        case.path_parameters["integration_id"] = random.choice(FACTS["integrations"])
    if "credential_type" in (case.path_parameters or {}):
        case.path_parameters["credential_type"] = "api_key"
    if isinstance(case.body, dict) and "integration_type" in case.body:
        case.body["integration_type"] = "custom-vendor"
        if random.random() < 0.7:
            case.body["connection_config"] = FACTS["config"]
            case.body["auth_method"] = "api_key"
            case.body["credentials"] = FACTS["credentials"]
            case.body.pop("integration_id", None)
    return case


@schemathesis.hook
def filter_failure(_context: HookContext, failure: Failure, _case: Any, response: Response) -> bool:
    """Keep everything but refusals of requests that fit the schema, where they say what else did not fit."""
    if failure.title != "Schema-valid request rejected":
        return True
    problem = response.json()
    if problem["code"] in BEYOND_ONE_REQUEST:
        return False
    errors = problem.get("errors", [])
    return not errors or not all(_is_beyond_schemas(each) for each in errors)


def _is_beyond_schemas(error: dict[str, str]) -> bool:
    return error["field"].startswith(BEYOND_SCHEMAS) or error["message"].startswith(BEYOND_PATTERNS)
