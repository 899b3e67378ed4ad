"""What a person does with the product, over HTTP as `api.md` describes it, and what must come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2


class NotAsExpected(Exception):
    """The product did something else than it promises."""


@dataclass(frozen=True)
class Case:
    """One thing to connect, and the verdict that is right for it."""

    name: str
    integration_type: str
    connection_config: Mapping[str, Any]
    expected: str
    auth_method: str = "none"
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)


class Visitor:
    """A signed-in user's HTTP client. Remembers what it read, to see at the end that no secret was shown."""

    def __init__(self, api_url: str, token: str) -> None:
        self._http = httpx2.Client(
            base_url=api_url, headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=40
        )
        self._read: list[str] = []

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **query: str) -> Any:
        return self._send("GET", path, 200, params=query)

    def post(self, path: str, status: int, body: Mapping[str, Any] | None = None) -> Any:
        return self._send("POST", path, status, json=body)

    def was_shown(self, secret: str) -> bool:
        return any(secret in text for text in self._read)

    def _send(self, method: str, path: str, status: int, **parts: Any) -> Any:
        answer = self._http.request(method, path, **parts)
        self._read.append(answer.text)
        if answer.status_code != status:
            raise NotAsExpected(f"{method} {path} answered {answer.status_code}, not {status}: {answer.text[:500]}")
        return answer.json()


def visit(visitor: Visitor, cases: Sequence[Case], say: Callable[[str], None]) -> list[str]:
    """Walk through the product, showing it as it goes. Return what was not as expected, in words."""
    mistakes = _search(visitor, "custom", cases, say)
    shown = [(case, _connect(visitor, case)) for case in cases]
    say(table("NAME PROTOCOL VERDICT MS FOUND", [_connection_row(case, after) for case, after in shown]))
    mistakes += [mistake for case, after in shown for mistake in _mistakes(case, after)]

    summaries = [
        (case, visitor.get(f"/integrations/{after['id']}/health/summary", window="24h")) for case, after in shown
    ]
    say(
        "Health of the last 24 hours\n"
        + table("NAME CHECKS SUCCESS MEDIAN STATE", [_health_row(*row) for row in summaries])
    )
    mistakes += [mistake for case, summary in summaries for mistake in _health_mistakes(case, summary)]

    logs = [(case, visitor.get(f"/integrations/{after['id']}/logs")["items"]) for case, after in shown]
    say(
        "Logs, newest first\n"
        + table("NAME EVENT MESSAGE", [row for case, entries in logs for row in _log_rows(case, entries)])
    )
    mistakes += [f"{case.name}: nothing was logged" for case, entries in logs if not entries]

    secrets = [secret for case in cases for secret in case.credentials.values()]
    if any(visitor.was_shown(secret) for secret in secrets):
        mistakes.append("An answer of the API contained a credential")
    return mistakes


def _search(visitor: Visitor, words: str, cases: Sequence[Case], say: Callable[[str], None]) -> list[str]:
    found = visitor.get("/integration-types", q=words)["items"]
    say(f'The catalogue, searched for "{words}":')
    say(table("SLUG NAME CATEGORY", [[kind["slug"], kind["name"], kind["category"]] for kind in found]))
    missing = {case.integration_type for case in cases} - {kind["slug"] for kind in found}
    return [f'A search for "{words}" does not find {slug}' for slug in sorted(missing)]


def _connect(visitor: Visitor, case: Case) -> Any:
    created = visitor.post(
        "/integrations",
        201,
        {
            "integration_type": case.integration_type,
            "name": case.name,
            "connection_config": case.connection_config,
            "auth_method": case.auth_method,
            "credentials": case.credentials,
        },
    )
    return visitor.post(f"/integrations/{created['id']}/connect", 200)


def _connection_row(case: Case, after: Any) -> list[str]:
    result = after["test_result"]
    protocol = case.connection_config.get("protocol", "vendor API")
    return [case.name, protocol, result["verdict"], str(result["response_time_ms"]), _found(result)]


def _found(result: Any) -> str:
    capabilities = result["capabilities"]
    if capabilities is None:
        return str(result["error_message"])
    if "tools" not in capabilities:
        return ", ".join(f"{name}: {value}" for name, value in capabilities.items()) or "it answers to the credential"
    server = capabilities["server"]
    return f"{server['name']} {server['version']}, {len(capabilities['tools'])} tools"


def _mistakes(case: Case, after: Any) -> list[str]:
    result, works = after["test_result"], case.expected == "ok"
    wrong = []
    if result["verdict"] != case.expected:
        wrong.append(f"the verdict is {result['verdict']}, not {case.expected} ({result['error_message']})")
    if after["status"] != ("connected" if works else "error"):
        wrong.append(f"its status is {after['status']}")
    if works and "protocol" in case.connection_config and not (result["capabilities"] or {}).get("tools"):
        wrong.append("no tools were found")
    if not works and not (result["error_message"] and after["last_error"]):
        wrong.append("nothing says what to do")
    return [f"{case.name}: {words}" for words in wrong]


def _health_row(case: Case, summary: Any) -> list[str]:
    state = f"failing since {summary['failing_since']}" if summary["failing_since"] else "healthy"
    success, median = summary["success_rate"], summary["response_time_ms"]["p50"]
    # Only checks that succeeded have a time that says something.
    shown = ["-" if success is None else f"{success:.0%}", "-" if median is None else f"{median} ms"]
    return [case.name, str(summary["checks"]), *shown, state]


def _health_mistakes(case: Case, summary: Any) -> list[str]:
    expected = 1 if case.expected == "ok" else 0
    if summary["checks"] == 1 and summary["success_rate"] == expected:
        return []
    return [f"{case.name}: its health says {summary['checks']} checks, success rate {summary['success_rate']}"]


def _log_rows(case: Case, entries: Sequence[Any]) -> list[list[str]]:
    return [[case.name, entry["event_type"], entry["message"]] for entry in entries]


def table(headings: str, rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need to be; ``headings`` are separated by blanks."""
    lines = [headings.split(), *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join(f"  {line}" for line in padded) + "\n"
