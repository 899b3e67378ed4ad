"""One check under way: what it shows, which steps it has taken, and what it may quote of the far side's words."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from time import perf_counter
from typing import Any

from chalicelib.egress.guard import Guard
from chalicelib.egress.trace import Trace
from chalicelib.model import Step, Target
from chalicelib.probes.credentials import Shown
from chalicelib.probes.echoes import HEAD, Echoes
from chalicelib.probes.kept import DETAIL, legible
from chalicelib.probes.verdicts import Finding
from chalicelib.services.endpoints import Endpoint

STEPS = ("policy", "dns", "tcp", "tls", "auth", "protocol", "call")
EXCERPT = 160
#: An excerpt comes from the first so many characters; so many are searched for secrets, as one may go beyond those.
_READ, _SEARCHED = 4_000, 8_000
#: Linear, whatever the text: a tag holds no other.
_TAG = re.compile(r"<[^<>]{0,500}>")
#: They are saved as credentials, and tell who one is, but prove nothing.
_NO_SECRETS = frozenset({"username", "client_id", "client_certificate", "ca_certificate", "host_key"})


@dataclass
class Visit:
    """``under_way`` is the step that a failure from now on belongs to; the guard's trace knows better about its own.

    ``suspicion`` is what silence until the deadline would mean, if something telling was seen before. ``refusal`` is
    what a server said to one protocol era while it is asked in the other: it stands if that gets no answer. ``found``
    is set by :meth:`conclude` as soon as all is known: however leaving goes and however long it takes, that stands.
    """

    target: Target
    endpoint: Endpoint
    shown: Shown
    guard: Guard
    total_s: float
    connect_s: float
    trace: Trace = field(default_factory=Trace)
    under_way: str = "protocol"
    suspicion: Finding | None = None
    refusal: Finding | None = None
    found: dict[str, Any] | None = None
    _began: float = field(default_factory=perf_counter)
    _concluded: float | None = None

    @property
    def elapsed_ms(self) -> int:
        return round(((self._concluded or perf_counter()) - self._began) * 1000)

    def conclude(self, found: dict[str, Any]) -> None:
        self.found = found
        self._concluded = perf_counter()

    def passed(self, step: str, next_step: str) -> None:
        """The step is done; its time is what the steps before it have not taken."""
        self.trace.note(step, ok=True, began=self._mark())
        self.under_way = next_step

    def _mark(self) -> float:
        return self._began + sum(step.ms for step in self.trace.steps) / 1000

    def step_at_fault(self) -> str:
        return next((step.name for step in self.trace.steps if not step.ok), self.under_way)

    def steps(self, finding: Finding | None) -> tuple[Step, ...]:
        """The steps in their order: all passed, or all up to the one at fault, which comes last."""
        passed = [step for step in self.trace.steps if finding is None or STEPS.index(step.name) < self._fault(finding)]
        shown = [Step(step.name, True, step.ms) for step in sorted(passed, key=lambda step: STEPS.index(step.name))]
        if finding is None:
            return tuple(shown)
        known = next((step.ms for step in self.trace.steps if step.name == finding.step and not step.ok), None)
        rest = max(0, self.elapsed_ms - sum(step.ms for step in shown))
        detail = None if finding.detail is None else legible(finding.detail, DETAIL)
        return (*shown, Step(finding.step, False, rest if known is None else known, detail))

    def _fault(self, finding: Finding) -> int:
        return STEPS.index(finding.step)

    def excerpt(self, text: str) -> str | None:
        """A short, plain piece of the far side's words, marked as theirs, without any secret of ours echoed in it."""
        # What does not show goes first: two halves of a secret with a NUL in between would read as one.
        visible = "".join(char for char in text[:_SEARCHED] if char.isprintable() or char.isspace())
        plain = " ".join(_TAG.sub(" ", self._echoes.redacted(visible)[:_READ]).split())
        plain = plain[:EXCERPT].strip()
        return f"they say: “{plain}”" if plain else None

    @cached_property
    def _echoes(self) -> Echoes:
        return Echoes([*self.shown.texts(), *(secret.reveal() for secret in self.target.secrets.values())])

    @cached_property
    def _secret_echoes(self) -> Echoes:
        named = [secret.reveal() for name, secret in self.target.secrets.items() if name not in _NO_SECRETS]
        return Echoes(text for text in [*self.shown.sent(), *named] if len(text) >= HEAD)

    def without_echoes(self, found: dict[str, Any]) -> dict[str, Any]:
        """What the far side says of itself, without any secret of ours that it repeats. Names of accounts stay."""
        return self._secret_echoes.redacted_in(found)

    def with_excerpt(self, detail: str, text: str | None) -> str:
        quoted = self.excerpt(text) if text else None
        return f"{detail}, {quoted}" if quoted else detail
