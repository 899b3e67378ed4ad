"""What `make` says on a machine that lacks something."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.postgres import ROOT

Check = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Runs the check on a machine that has only these programs, each a script of one line."""

    def run(chosen: str, **programs: str) -> subprocess.CompletedProcess[str]:
        for name, line in programs.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
            (tmp_path / name).chmod(0o755)
        return subprocess.run(
            ["/bin/sh", str(ROOT / "local/check_tools.sh"), chosen],
            env={"PATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_a_machine_that_has_everything_hears_nothing(check: Check) -> None:
    done = check(sys.executable, node="exit 0", npm="exit 0")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_everything_that_is_missing_is_said_at_once(check: Check) -> None:
    done = check("")

    assert done.returncode == 1
    assert [line.split(" ")[0] for line in done.stderr.splitlines()] == ["Python", "Node.js", "npm"]


def test_an_old_node_is_named_with_its_version(check: Check) -> None:
    done = check(sys.executable, node='[ "$1" = --version ] && echo v18.19.0; exit 1', npm="exit 0")

    assert done.returncode == 1
    assert "20 or newer is needed; the one found is v18.19.0" in done.stderr


def test_a_python_without_venv_is_told_what_to_install(check: Check, tmp_path: Path) -> None:
    done = check(str(tmp_path / "python"), python="exit 1", node="exit 0", npm="exit 0")

    assert done.returncode == 1
    assert "python3-venv" in done.stderr


@pytest.mark.parametrize(("version", "status"), [(19, 1), (20, 0), (22, 0)])
def test_node_is_judged_by_its_major_version(version: int, status: int) -> None:
    script = (ROOT / "local/check_tools.sh").read_text()
    judgement = script.split("node -e '")[1].split("'")[0].replace("process.versions.node", f"'{version}.1.0'")

    assert subprocess.run(["node", "-e", judgement], check=False).returncode == status
