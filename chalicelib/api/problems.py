"""Errors as RFC 9457 problems. The only place that knows which failure is which HTTP status."""

from __future__ import annotations

import json
import logging
import traceback
from http import HTTPStatus

from chalice.app import Response

from chalicelib.api.answers import FieldError, Problem
from chalicelib.errors import (
    AppError,
    BadRequest,
    Blocked,
    Conflict,
    CredentialsBoundElsewhere,
    Forbidden,
    Invalid,
    MethodNotAllowed,
    NotFound,
    RateLimited,
    SealError,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UnsupportedMedia,
)

logger = logging.getLogger("integrations")

_CAUSES_LOGGED = 5
_FRAMES_LOGGED = 30

#: Looked up along an error's ancestry: a new error inherits the status of its kind.
STATUS: dict[type[BaseException], int] = {
    BadRequest: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    MethodNotAllowed: 405,
    Conflict: 409,
    SealError: 409,  # the owner mends it by saving the credential again
    TooLarge: 413,
    UnsupportedMedia: 415,
    Invalid: 422,
    Blocked: 422,
    RateLimited: 429,
    Unavailable: 503,
}


def status_of(error: BaseException) -> int:
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def problem_of(error: BaseException, request_id: str) -> Problem:
    """What the caller learns. Of an error that is not ours, nothing but the request id."""
    status = status_of(error)
    problem = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail="Something went wrong on our side. Try again; if it stays, report the request id.",
        code="internal_error",
        request_id=request_id,
    )
    if isinstance(error, AppError) and status != 500:
        problem.detail, problem.code = error.detail, error.code
    if isinstance(error, Invalid):
        problem.errors = [FieldError(field=name, message=message) for name, message in error.errors]
    if isinstance(error, CredentialsBoundElsewhere):
        problem.credential_types = list(error.credential_types)
    return problem


def answer(problem: Problem, error: BaseException) -> Response:
    headers: dict[str, str | list[str]] = {"Content-Type": "application/problem+json", "Cache-Control": "no-store"}
    if isinstance(error, RateLimited | Unavailable):
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    return Response(problem.model_dump_json(exclude_none=True), headers, problem.status)


def log_unexpected(error: BaseException, request_id: str) -> None:
    """Type and places of an error and its causes. Never a message: a library's may quote a header or a row."""
    chain: list[dict[str, object]] = []
    cause: BaseException | None = error
    while cause is not None and len(chain) < _CAUSES_LOGGED:
        places = [f"{frame.f_code.co_filename}:{line}" for frame, line in traceback.walk_tb(cause.__traceback__)]
        kind = f"{type(cause).__module__}.{type(cause).__qualname__}"
        chain.append({"type": kind, "stack": places[-_FRAMES_LOGGED:]})
        cause = cause.__cause__ or cause.__context__
    logger.error(json.dumps({"event": "unexpected_error", "request_id": request_id, "errors": chain}))
