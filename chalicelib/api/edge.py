"""The edge: what happens to every request before a view sees it, and to every answer after.

A view declares itself on an :class:`Api` and speaks values only: it takes what its signature names (``caller``,
``body``, ``query``, ``idempotency``, ``request_id`` and the parts of its path) and returns what its answer model can be
made from, or raises one of our errors. Chalice never sees an exception: it would answer in its own words, or crash.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

from chalice.app import Chalice, Request, Response
from pydantic import BaseModel

from chalicelib.api import cors, problems, requests
from chalicelib.api.routes import Answers, Reply, Route, View, read_route
from chalicelib.api.tokens import Caller, TokenVerifier
from chalicelib.errors import AppError, BadRequest, MethodNotAllowed, UnsupportedMedia
from chalicelib.watch import metrics_line

logger = logging.getLogger("integrations")

#: The metrics in each request's line.
UNITS = {"ms": "Milliseconds", "round_trips": "Count", "server_errors": "Count", "refused": "Count"}

#: What Chalice answers by itself once a path is known, in our words.
_CHALICE_ANSWERS: dict[int, AppError] = {
    400: BadRequest("The request cannot be read."),
    405: MethodNotAllowed("This path does not know this method; the Allow header lists those that it knows."),
    415: UnsupportedMedia("Send JSON: 'Content-Type: application/json'."),
}


@dataclass(frozen=True)
class Door:
    """What the edge needs of a deployment. ``round_trips`` is a running count, of this thread, of database calls;
    ``metrics_of`` is the environment that metrics are written for, if they are."""

    verifier: TokenVerifier
    origins: tuple[str, ...]
    key: bytes
    round_trips: Callable[[], int] = int
    metrics_of: str | None = None


GetDoor = Callable[[], Door]


class Contract(TypedDict, total=False):
    """``problems``: statuses beyond those that follow from the signature. ``etag``: the answer rarely changes."""

    problems: tuple[int, ...]
    open: bool
    etag: bool


class Api:
    """The routes of one noun, declared; :func:`mount` guards them and gives them to an app.

    Not a ``chalice.Blueprint``, which knows one app at a time: the last that it was registered with.
    """

    def __init__(self) -> None:
        self.routes: list[Route] = []

    def get(self, path: str, *, answers: Answers, **how: Unpack[Contract]) -> Callable[[View], View]:
        return self._declare("GET", path, answers, how)

    def post(self, path: str, *, answers: Answers, **how: Unpack[Contract]) -> Callable[[View], View]:
        return self._declare("POST", path, answers, how)

    def put(self, path: str, *, answers: Answers, **how: Unpack[Contract]) -> Callable[[View], View]:
        return self._declare("PUT", path, answers, how)

    def patch(self, path: str, *, answers: Answers, **how: Unpack[Contract]) -> Callable[[View], View]:
        return self._declare("PATCH", path, answers, how)

    def delete(self, path: str, *, answers: Answers = None, **how: Unpack[Contract]) -> Callable[[View], View]:
        return self._declare("DELETE", path, answers, how)

    def _declare(self, method: str, path: str, answers: Answers, how: Contract) -> Callable[[View], View]:
        def declare(view: View) -> View:
            route = read_route(
                method, path, view, answers, how.get("problems", ()), how.get("open", False), how.get("etag", False)
            )
            self.routes.append(route)
            return view

        return declare


class Guarded:
    """A view as Chalice may call it: always a ``Response``, never an exception."""

    def __init__(self, route: Route, app: Chalice, get_door: GetDoor) -> None:
        functools.update_wrapper(self, route.view)
        self.route = route
        self._app = app
        self._get_door = get_door

    def __call__(self, **path: str) -> Response:
        request = self._app.current_request
        assert request is not None  # Chalice sets it before it calls a view
        return _Exchange(self.route, request, self._get_door).serve(path)


class _Exchange:
    """One request and its answer."""

    def __init__(self, route: Route, request: Request, get_door: GetDoor) -> None:
        self._route = route
        self._request = request
        self._get_door = get_door
        self._started = time.perf_counter()
        self._id = _id_for(request)
        self._user: str | None = None
        self._door: Door | None = None
        self._round_trips = 0
        self._verdict: str | None = None

    def serve(self, path: dict[str, str]) -> Response:
        code = None
        try:
            response = self._answer(path)
        except Exception as error:
            problem = problems.problem_of(error, self._id)
            if problem.status == 500:
                problems.log_unexpected(error, self._id)
            response, code = problems.answer(problem, error), problem.code
        origins = self._door.origins if self._door else ()
        _finish(response, self._id, cors.headers_for(_origin(self._request), origins))
        self._log(response.status_code, code)
        return response

    def _answer(self, path: dict[str, str]) -> Response:
        door = self._door = self._get_door()
        self._round_trips = door.round_trips()
        given: dict[str, object] = {}
        if not self._route.open:
            given["caller"] = self._check_in(door)
        given["request_id"] = self._id
        given |= {name: requests.path_value(name, text) for name, text in path.items()}
        if self._route.query is not None:
            given["query"] = requests.parse_query(self._request, self._route.query)
        if self._route.body is not None:
            given["body"] = requests.parse_body(self._request, self._route.body)
        if "idempotency" in self._route.takes:
            given["idempotency"] = requests.parse_idempotency(self._request, door.key)
        returned = self._route.view(**{name: given[name] for name in self._route.takes})
        reply = returned if isinstance(returned, Reply) else Reply(self._route.usual_status, returned)
        return self._presented(reply)

    def _check_in(self, door: Door) -> Caller:
        caller = door.verifier.verify(self._request.headers.get("authorization"))
        self._user = hashlib.sha256(caller.user_id.bytes).hexdigest()[:16]
        return caller

    def _presented(self, reply: Reply) -> Response:
        model = self._route.answers[reply.status]
        if model is None:
            return Response("", {"Cache-Control": "no-store"}, reply.status)
        shown = reply.value if type(reply.value) is model else model.model_validate(reply.value, from_attributes=True)
        self._verdict = _verdict_in(shown)
        text = shown.model_dump_json()
        if self._route.etag:
            return _revalidated(self._request, text, reply.status)
        return Response(text, {"Content-Type": "application/json", "Cache-Control": "no-store"}, reply.status)

    def _log(self, status: int, code: str | None) -> None:
        line = {
            "request_id": self._id,
            "user": self._user,
            "method": self._route.method,
            "route": self._route.path,
            "status": status,
            "code": code,
            "verdict": self._verdict,
            "ms": round((time.perf_counter() - self._started) * 1000, 1),
            "round_trips": self._door.round_trips() - self._round_trips if self._door else 0,
        }
        environment = self._door.metrics_of if self._door else None
        if environment:
            counts = {"server_errors": int(status >= 500), "refused": int(400 <= status < 500)}
            logger.info(metrics_line("request", environment, counts, UNITS, line))
        else:
            logger.info(json.dumps({"event": "request", **line}))


def _verdict_in(shown: BaseModel) -> str | None:
    """Of an answer that is, or holds, the result of a test."""
    answer = getattr(shown, "root", shown)
    return getattr(getattr(answer, "test_result", answer), "verdict", None)


def _revalidated(request: Request, text: str, status: int) -> Response:
    """The answer with its ``ETag``, or 304 if the caller has it already (RFC 9110 §13.1.2)."""
    tag = f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'
    headers: dict[str, str | list[str]] = {"ETag": tag, "Cache-Control": "public, max-age=60"}
    held = [part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")]
    if tag in held or held == ["*"]:
        return Response("", headers, 304)
    return Response(text, {**headers, "Content-Type": "application/json"}, status)


def _finish(response: Response, request_id: str, cors_headers: dict[str, str]) -> None:
    response.headers["X-Request-Id"] = request_id
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.update(cors_headers)


def mount(app: Chalice, apis: Sequence[Api], get_door: GetDoor) -> None:
    """Give the routes to the app, with an ``OPTIONS`` for each path and a middleware for Chalice's own answers.

    ``get_door`` is called once a request; whoever gives it remembers its result.
    """
    # No content types: Chalice would judge them in its own words.
    for route in (route for api in apis for route in api.routes):
        app.route(route.path, methods=[route.method], content_types=[])(Guarded(route, app, get_door))
    for path, methods in app.routes.items():
        # As a route of ours, since API Gateway's own preflight answers (and Chalice's) can name one origin only.
        preflight = _preflight_of(app, get_door, sorted(methods))
        app.route(path, methods=["OPTIONS"], content_types=[])(preflight)
    app.register_middleware(functools.partial(_reshape, get_door), "http")


def _preflight_of(app: Chalice, get_door: GetDoor, methods: list[str]) -> Callable[..., Response]:
    """A view that says which origins, methods and headers a path is open to."""

    def preflight(**_: str) -> Response:
        request = app.current_request
        response = Response("", {"Allow": ", ".join([*methods, "OPTIONS"])}, 204)
        _finish(response, _id_for(request), cors.preflight_headers(_origin(request), _origins(get_door), methods))
        return response

    return preflight


def _reshape(get_door: GetDoor, request: Request | None, get_response: Callable[[Any], Response]) -> Response:
    """Chalice's own answers as problems. Ours, which have a request id, pass as they are."""
    response = get_response(request)
    if "X-Request-Id" in response.headers:
        return response
    error = _CHALICE_ANSWERS.get(response.status_code) or RuntimeError()
    request_id = _id_for(request)
    problem = problems.problem_of(error, request_id)
    reshaped = problems.answer(problem, error)
    if "Allow" in response.headers:
        reshaped.headers["Allow"] = response.headers["Allow"]
    _finish(reshaped, request_id, cors.headers_for(_origin(request), _origins(get_door)))
    line = {"event": "refused", "request_id": request_id, "status": problem.status, "code": problem.code}
    logger.info(json.dumps(line))
    return reshaped


def _id_for(request: Request | None) -> str:
    return (requests.request_id_of(request) if request else None) or str(uuid.uuid4())


def _origin(request: Request | None) -> str | None:
    return request.headers.get("origin") if request else None


def _origins(get_door: GetDoor) -> tuple[str, ...]:
    try:
        return get_door().origins
    except Exception:  # a deployment that cannot start: every other answer says so, and is logged
        return ()
