"""Reading requests: from bytes, query and path to validated values, or to errors that never quote what was sent."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar
from uuid import UUID

from chalice.app import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from chalicelib.api.models import CREDENTIAL_TYPE, SLUG
from chalicelib.errors import (
    BadRequest,
    CredentialNotFound,
    IntegrationNotFound,
    IntegrationTypeNotFound,
    Invalid,
    NotFound,
    TooLarge,
    UnsupportedMedia,
)
from chalicelib.services.drafts import Idempotency

#: Above the longest text that is answered with "this field is too long" rather than with "this request is too large".
MAX_BODY_BYTES = 1536 * 1024
MAX_DEPTH = 50
MAX_ERRORS = 20

Model = TypeVar("Model", bound=BaseModel)

# Postgres stores neither NUL nor half of a surrogate pair.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_JSON = re.compile(r'application/json\s*(;\s*charset="?utf-8"?\s*)?', re.IGNORECASE)
_NAME_TO_SHOW = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")

#: In plain words, by pydantic's error type; filled in with the limits of the model, never with the input.
_MESSAGES = {
    "plain": "{message}",
    "missing": "This field is required.",
    "extra_forbidden": "There is no such field.",
    "string_type": "Must be text.",
    "string_too_short": "Must have {min_length} or more characters.",
    "string_too_long": "Must have {max_length} or fewer characters.",
    "string_pattern_mismatch": "Does not have the right form.",
    "bool_type": "Must be true or false.",
    "int_parsing": "Must be a whole number.",
    "greater_than_equal": "Must be {ge} or more.",
    "less_than_equal": "Must be {le} or less.",
    "enum": "Must be one of {expected}.",
    "literal_error": "Must be one of {expected}.",
    "uuid_type": "Must be a UUID.",
    "uuid_parsing": "Must be a UUID.",
    "dict_type": "Must be an object.",
    "too_long": "Must have {max_length} or fewer entries.",
}
_MOMENT = "Must be a moment with its time zone, such as 2026-01-02T03:04:05Z."
_OTHERWISE = "This value is not acceptable."


@dataclass(frozen=True)
class PathParameter:
    """A part of a path: its form, its type, and the 404 for everything that cannot be one."""

    form: re.Pattern[str]
    kind: type[UUID] | type[str]
    missing: Callable[[], NotFound]


PATH_PARAMETERS = {
    "integration_id": PathParameter(
        re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE), UUID, IntegrationNotFound
    ),
    "slug": PathParameter(re.compile(SLUG), str, IntegrationTypeNotFound),
    "credential_type": PathParameter(re.compile(CREDENTIAL_TYPE), str, CredentialNotFound),
}


def request_id_of(request: Request) -> str | None:
    """The caller's own id, if it is well formed; else the gateway's; None when there is neither."""
    given = request.headers.get("x-request-id", "")
    gateway = request.context.get("requestId")
    return given if _REQUEST_ID.fullmatch(given) else gateway


def path_value(name: str, text: str) -> UUID | str:
    parameter = PATH_PARAMETERS[name]
    if len(text) > 128 or not parameter.form.fullmatch(text):
        raise parameter.missing()
    return parameter.kind(text)


def parse_body(request: Request, model: type[Model]) -> Model:
    """The body as ``model``. Raises the error (400, 413, 415 or 422) that says what to mend."""
    text = _json_text(request)
    value = _load(text)
    if not isinstance(value, dict):
        raise _invalid([("body", "Must be a JSON object.")])
    _check_values(value)
    return _validated(lambda: model.model_validate_json(text))


def parse_query(request: Request, model: type[Model]) -> Model:
    """The query as ``model``; a repeated or unknown parameter is 422, an empty one (``?status=&q=x``) is left out."""
    given = request.query_params
    lists = {} if given is None else {name: given.getlist(name) for name in given}
    errors = [(_name_to_show(name), "Give this parameter once.") for name, values in lists.items() if len(values) != 1]
    for name, values in lists.items():
        if any(_UNSTORABLE.search(text) for text in (name, *values)):
            errors.append((_name_to_show(name), "Holds a character that cannot be stored."))
    if errors:
        raise _invalid(errors)
    known = {name: values[0] for name, values in lists.items() if values[0] or name not in model.model_fields}
    return _validated(lambda: model.model_validate(known))


def parse_idempotency(request: Request, key: bytes) -> Idempotency | None:
    """None without the header. The fingerprint is keyed: a plain hash would let guesses at a weak secret be tried."""
    given = request.headers.get("idempotency-key")
    if given is None:
        return None
    if not _IDEMPOTENCY_KEY.fullmatch(given):
        raise _invalid([("Idempotency-Key", "Must be 1 to 255 visible ASCII characters.")])
    same = json.dumps(_load(_json_text(request)), sort_keys=True)
    return Idempotency(given, hmac.digest(key, b"body" + same.encode(), hashlib.sha256).hex())


def _json_text(request: Request) -> str:
    try:
        raw = request.raw_body
        if len(raw) > MAX_BODY_BYTES:
            raise TooLarge(f"A request body may have {MAX_BODY_BYTES} bytes at most.")
        # A missing content type passes for JSON, as it does in Chalice.
        content_type = request.headers.get("content-type", "application/json").strip()
        if not _JSON.fullmatch(content_type) or request.headers.get("content-encoding", "identity") != "identity":
            raise UnsupportedMedia("Send JSON: 'Content-Type: application/json', in UTF-8 and not compressed.")
        return raw if isinstance(raw, str) else raw.decode("utf-8")
    except ValueError:
        raise _not_json() from None


def _load(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_refuse)
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        raise _not_json() from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) != len(pairs):
        raise ValueError("a name is there twice")
    return read


def _refuse(_: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


def _not_json() -> BadRequest:
    return BadRequest("The body is not JSON (RFC 8259, UTF-8, each name once).", code="not_json")


def _too_deep() -> Invalid:
    return _invalid([("body", f"Must not be nested deeper than {MAX_DEPTH} levels.")])


def _check_values(body: dict[str, Any]) -> None:
    """What no field may hold: depth, numbers beyond all bounds, texts that cannot be stored. Without recursion."""
    level: list[tuple[tuple[str | int, ...], Any]] = [((), body)]
    for _ in range(MAX_DEPTH + 1):
        below: list[tuple[tuple[str | int, ...], Any]] = []
        for loc, node in level:
            if isinstance(node, dict):
                if any(_UNSTORABLE.search(name) for name in node):
                    raise _invalid([(_field(loc), "Holds a name with a character that cannot be stored.")])
                below += (((*loc, name), child) for name, child in node.items())
            elif isinstance(node, list):
                below += (((*loc, index), child) for index, child in enumerate(node))
            elif isinstance(node, str) and _UNSTORABLE.search(node):
                raise _invalid([(_field(loc), "Holds a character that cannot be stored.")])
            elif isinstance(node, float) and not math.isfinite(node):
                raise _invalid([(_field(loc), "Must be a number of ordinary size.")])
        level = below
    if level:
        raise _too_deep()


def _validated(validate: Callable[[], Model]) -> Model:
    try:
        return validate()
    except ValidationError as failure:
        found = failure.errors(include_url=False, include_input=False)[:MAX_ERRORS]
    # Outside of the except block: a chained ValidationError would carry the input along.
    raise _invalid([(_field(error["loc"]), _message(error)) for error in found])


def _invalid(errors: list[tuple[str, str]]) -> Invalid:
    return Invalid("Some values are not acceptable; 'errors' says which.", errors[:MAX_ERRORS])


def _message(error: ErrorDetails) -> str:
    kind, limits = error["type"], error.get("ctx", {})
    if error["loc"][-1:] == ("[key]",):
        return "Holds a name of the wrong form."
    if kind.startswith(("datetime_", "timezone_")):
        return _MOMENT
    return _MESSAGES.get(kind, _OTHERWISE).format_map(_only_plain(limits))


def _only_plain(limits: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in limits.items() if isinstance(value, str | int | float)}


def _field(loc: tuple[str | int, ...]) -> str:
    """``("connection_config", "args", 0)`` as ``connection_config.args[0]``.

    Names are the caller's: long or strange ones are not repeated, and a name that was refused as a name never is.
    """
    if loc and loc[-1] == "[key]":
        loc = loc[:-2]
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{_name_to_show(part)}"
    return text.lstrip(".") or "body"


def _name_to_show(name: str) -> str:
    return name if _NAME_TO_SHOW.fullmatch(name) else "…"
