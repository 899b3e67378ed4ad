"""The search for leaked secrets finds them in every form that a leak would have."""

from __future__ import annotations

import base64
import json
import urllib.parse
from pathlib import Path

import pytest

from tests.support.canary import found_in, main

SECRET = "made-up+secret/0123456789"


@pytest.mark.parametrize(
    "shown",
    [
        f"key={SECRET}",
        json.dumps({"api_key": SECRET}),
        f"https://example.com/?key={urllib.parse.quote(SECRET, safe='')}",
        base64.b64encode(SECRET.encode()).decode(),
        base64.b64encode(f"u:{SECRET}".encode()).decode(),
        base64.b64encode(f"u{SECRET}".encode()).decode(),
        base64.b64encode(f"usr{SECRET}".encode()).decode(),
    ],
)
def test_a_leaked_secret_is_found_in_every_encoding(shown: str) -> None:
    assert found_in(shown, SECRET)


def test_other_text_is_no_leak() -> None:
    assert found_in("made-up secret", SECRET) == []


def test_a_log_with_the_canary_fails_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.support.canary import CANARY

    clean, leaky = tmp_path / "clean", tmp_path / "leaky"
    clean.write_text("all is well")
    leaky.write_text(f"oops {CANARY}")

    assert main([str(clean)]) == 0
    assert main([str(clean), str(leaky)]) == 1
    assert CANARY not in capsys.readouterr().err
