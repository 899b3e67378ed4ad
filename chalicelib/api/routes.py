"""What a route is: read once from its view's signature, then used to serve it and to document it alike."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from chalicelib.api.models import Query
from chalicelib.api.requests import PATH_PARAMETERS
from chalicelib.api.tokens import Caller
from chalicelib.services.drafts import Idempotency

View = Callable[..., object]
Answers = type[BaseModel] | Mapping[int, type[BaseModel] | None] | None

_IN_PATH = re.compile(r"{(\w+)}")
_GIVEN = {"caller": Caller, "idempotency": Idempotency | None, "request_id": str}


@dataclass(frozen=True)
class Route:
    """A view and its contract. The first of ``answers`` is what a plain return value means; None is an empty body."""

    method: str
    path: str
    view: View
    takes: frozenset[str]
    body: type[BaseModel] | None
    query: type[BaseModel] | None
    answers: Mapping[int, type[BaseModel] | None]
    problems: tuple[int, ...]
    open: bool
    etag: bool

    @property
    def path_parameters(self) -> list[str]:
        return _IN_PATH.findall(self.path)

    @property
    def usual_status(self) -> int:
        return next(iter(self.answers))


@dataclass(frozen=True)
class Reply:
    """A return value for a status other than the route's usual one."""

    status: int
    value: object


def read_route(
    method: str, path: str, view: View, answers: Answers, problems: tuple[int, ...], open: bool, etag: bool
) -> Route:
    """The contract in a view's signature. Raises ``TypeError`` for a view that could not be served as it is written."""
    hints = typing.get_type_hints(view)
    takes = frozenset(inspect.signature(view).parameters)
    route = Route(
        method=method,
        path=path,
        view=view,
        takes=takes,
        body=hints["body"] if "body" in takes else None,
        query=hints["query"] if "query" in takes else None,
        answers=answers if isinstance(answers, Mapping) else {204 if answers is None else 200: answers},
        problems=tuple(sorted({*_usual_problems(path, open, takes), *problems})),
        open=open,
        etag=etag,
    )
    _check(route, hints)
    return route


def _usual_problems(path: str, open: bool, takes: frozenset[str]) -> set[int]:
    return {
        *(() if open else (401, 503)),
        *((404,) if "{" in path else ()),
        *((400, 413, 415, 422) if "body" in takes else ()),
        *((422,) if takes & {"query", "idempotency"} else ()),
        *((400,) if "query" in takes else ()),
    }


def _check(route: Route, hints: dict[str, Any]) -> None:
    in_path = {name: PATH_PARAMETERS[name].kind if name in PATH_PARAMETERS else None for name in route.path_parameters}
    expected: dict[str, Any] = {**_GIVEN, **in_path}
    name = f"{route.view.__module__}.{getattr(route.view, '__name__', '?')}"
    for parameter in sorted(route.takes | in_path.keys()):
        if parameter in ("body", "query"):
            base = BaseModel if parameter == "body" else Query
            fits = isinstance(hints.get(parameter), type) and issubclass(hints[parameter], base)
        else:
            fits = parameter in route.takes and parameter in expected and hints.get(parameter) == expected[parameter]
        if not fits:
            raise TypeError(f"{name}: parameter {parameter} is missing, unknown, or not annotated as its kind")
    if route.open and "caller" in route.takes:
        raise TypeError(f"{name}: an open route has no caller")
    if UUID in in_path.values() and route.open:
        raise TypeError(f"{name}: a route to somebody's own things cannot be open")
