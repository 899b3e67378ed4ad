"""What AWS starts by itself: the sweep every minute, workers for its tickets, and the hourly upkeep.

Deployed as ``chalicelib.jobs.handlers.<function>`` and imported without the app. So nothing here uses the API, nor
anything of a blueprint but its decorators (``bp.log`` would raise). Chalice never renames a deployed handler: these
names stay. The API imports this module too, at every cold start: what only a sweep needs is imported inside.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from chalice.app import Blueprint

from chalicelib import wiring
from chalicelib.errors import AppError

if TYPE_CHECKING:
    from chalice.app import CloudWatchEvent, SQSEvent

#: Kept between the end of the work and the end of the function.
MARGIN_S = 2.0
#: Tickets that a worker takes at once; each stands for one batch of the sweep.
TICKETS_AT_ONCE = 5
#: A minute's tickets at most: more would be stale before any worker came to them.
MOST_TICKETS = 1_000

schedules = Blueprint(__name__)
queue = Blueprint(__name__)


def queue_name() -> str | None:
    """The name in the URL of the queue, if there is one: by it Chalice finds the queue when it deploys."""
    return os.environ.get("SWEEP_QUEUE_URL", "").strip().rstrip("/").rpartition("/")[2] or None


@schedules.schedule("rate(1 minute)")
def sweep(event: CloudWatchEvent) -> None:
    """Small installations check what is due right here; with a queue, tickets call workers to it."""
    from chalicelib.jobs.running import tickets_line

    read = wiring.settings()
    due, oldest = wiring.sweep_store().count_due(read.sweep_batch * MOST_TICKETS)
    tickets = wiring.tickets()
    if tickets is None:
        _sweep(event, due=due, most=due)
        return
    wanted = -(-due // read.sweep_batch)
    taken = tickets.put(wanted)
    _say(tickets_line(due, oldest, taken, read.environment))
    if taken < wanted:
        _sweep(event, due=due, most=due)  # a little is better than nothing


@queue.on_sqs_message(queue=queue_name() or "none", batch_size=TICKETS_AT_ONCE)
def work(event: SQSEvent) -> dict[str, Any]:
    """Claim and check a batch for each ticket. Whatever is no ticket goes back, and in the end to the dead letters."""
    from chalicelib.jobs.tickets import is_ticket

    records = [(record.to_dict()["messageId"], is_ticket(record.body)) for record in event]
    tickets = [message_id for message_id, good in records if good]
    failed = [message_id for message_id, good in records if not good]
    if tickets:
        try:
            _sweep(event, most=len(tickets) * wiring.settings().sweep_batch)
        except AppError:  # told in the sweep's line already; the tickets come back
            failed += tickets
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in failed]}


def _sweep(event: Any, *, due: int | None = None, most: int | None = None) -> None:
    from chalicelib.jobs.running import raise_failure, run_sweep, sweep_line

    budget_s = event.context.get_remaining_time_in_millis() / 1000 - MARGIN_S
    summary = run_sweep(budget_s, most=most, due=due)
    _say(sweep_line(summary, wiring.settings().environment))
    raise_failure(summary)


@schedules.schedule("rate(1 hour)")
def upkeep(event: CloudWatchEvent) -> None:
    """Drop old history, tell owners what expires, forget what nobody asks for. One that fails stops no other."""
    from chalicelib.jobs.upkeep import run_upkeep

    run_upkeep(say=_say)


def _say(line: str) -> None:
    print(line, flush=True)


wiring.start()
