"""Every fault through every way of checking: one verdict, the step at fault, a sentence to act on, and in time."""

from __future__ import annotations

import ast
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from chalicelib.probes import ssh_findings, verdicts
from chalicelib.probes.verdicts import Finding, Reason
from tests.fault_table import CASES, FAULTS, GRACE_S, KEY, KINDS, Case, Outcome, outcomes
from tests.peers.raw import background
from tests.sentences import NEXT, STEPS, assert_can_be_acted_on

IDS = [" - ".join(case) for case in CASES]


def standing() -> dict[str, object]:
    """What this process holds: nothing of it may be left by a check."""
    return {
        "threads": {thread.name for thread in threading.enumerate()},
        "sockets": sum(os.readlink(entry).startswith("socket:") for entry in _descriptors()),
        "processes": psutil.Process().children(recursive=True),
        "files": sorted(os.listdir(tempfile.gettempdir())),
    }


def _descriptors() -> list[str]:
    return [entry for name in os.listdir("/proc/self/fd") if os.path.lexists(entry := f"/proc/self/fd/{name}")]


@pytest.fixture(scope="module")
def before_and_after() -> list[dict[str, object]]:
    return []


@pytest.fixture(scope="module")
def table(before_and_after: list[dict[str, object]], tmp_path_factory: pytest.TempPathFactory) -> dict[Case, Outcome]:
    """All cases, run once, several at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("faults")))
        before_and_after.append(standing())
        with background() as loop:
            found = outcomes(loop, CASES)
        before_and_after.append(standing())
    return found


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_fault_has_one_verdict_whatever_the_way_of_checking(table: dict[Case, Outcome], case: Case) -> None:
    fault, result = FAULTS[case[0]], table[case].result
    last = result.steps[-1]

    assert (result.verdict, result.capabilities, last.ok) == (fault.verdict, None, False)
    assert last.name == (fault.step or ("call" if case[1] == "vendor" else "protocol"))
    assert fault.detail in str(last.detail)
    assert result.retry_after_s == fault.retry_after_s
    assert all(step.ok for step in result.steps[:-1])


@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_of_checking_agree_on_every_fault(table: dict[Case, Outcome], kind: str) -> None:
    for name, fault in FAULTS.items():
        if kind in fault.kinds:
            full, bare = (table[name, kind, mode].result for mode in ("full", "bare"))
            assert (name, full.verdict, full.error_message) == (name, bare.verdict, bare.error_message)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_no_check_outlives_its_deadline(table: dict[Case, Outcome], case: Case) -> None:
    outcome = table[case]

    assert outcome.in_time, outcome
    assert outcome.result.response_time_ms < (outcome.deadline_s + GRACE_S) * 1_000


def test_nothing_is_left_of_all_these_checks(
    table: dict[Case, Outcome], before_and_after: list[dict[str, object]]
) -> None:
    before, after = before_and_after

    assert after == before


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_every_sentence_names_the_step_and_the_next_thing_to_do(table: dict[Case, Outcome], case: Case) -> None:
    result = table[case].result

    assert_can_be_acted_on(result.steps[-1].name, str(result.error_message))
    assert KEY not in str(result.as_json())
    assert "127.0.0.1" not in str(result.error_message)


def _reasons() -> list[Finding]:
    found = [value.finding() for module in (verdicts, ssh_findings) for value in vars(module).values() if _is(value)]
    found += [Finding(verdicts.TOO_LARGE.verdict, "tls", text) for text in verdicts._TLS_REASONS.values()]
    found += [verdicts.timeout_finding(step, 10) for step in STEPS]
    found += [verdicts.cut_off(step) for step in STEPS]
    found += [verdicts.client_certificate_finding("", missing=missing) for missing in (True, False)]
    return found + [ssh_findings.changed_host_key("SHA256:x", saved=saved) for saved in (True, False)]


def _is(value: object) -> bool:
    return isinstance(value, Reason)


@pytest.mark.parametrize("finding", _reasons(), ids=lambda finding: f"{finding.step} {finding.message[:40]}")
def test_so_does_every_sentence_that_could_be_said(finding: Finding) -> None:
    assert_can_be_acted_on(finding.step, finding.message)


def _sentences(path: Path) -> Iterator[str]:
    """Texts of a source that are sentences for people: they end with a full stop, and are no docstrings."""
    tree = ast.parse(path.read_text())
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        text = ""
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings | parts:
            text = node.value
        if " " in text and text.endswith("."):
            yield text


PROBES = sorted(Path(verdicts.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", PROBES, ids=lambda path: path.stem)
def test_no_sentence_in_the_sources_leaves_its_reader_without_advice(path: Path) -> None:
    assert [text for text in _sentences(path) if not NEXT.search(text)] == []
