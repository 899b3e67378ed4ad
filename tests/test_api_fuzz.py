"""Two thousand generated requests of a signed-in user: nothing that the published document does not foresee."""

from __future__ import annotations

from pathlib import Path

from tests.support.fuzz import fuzz, fuzzed_world
from tests.support.stack import Stack


def test_no_generated_request_gets_an_answer_that_the_document_does_not_foresee(stack: Stack, tmp_path: Path) -> None:
    with fuzzed_world(stack) as world:
        outcome = fuzz(world, tmp_path, examples=75)

    assert not outcome.failures, outcome.output
    assert outcome.complete
    assert outcome.requests >= 2_000
