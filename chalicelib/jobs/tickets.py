"""Tickets on the queue: nudges for workers to claim a batch. What is due stands in the rows, and nowhere else."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

log = logging.getLogger("integrations")

TICKET = json.dumps({"ticket": "sweep", "version": 1})
#: SQS takes this many messages in a call.
AT_ONCE = 10


def is_ticket(body: str) -> bool:
    try:
        return bool(json.loads(body) == json.loads(TICKET))
    except (ValueError, RecursionError):
        return False


class TicketQueue:
    """The queue of one deployment. Connects on first use."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._made: SQSClient | None = None

    def put(self, count: int) -> int:
        """Put up to ``count`` tickets on the queue; returns how many it took. Lost ones cost a minute, nothing else."""
        from botocore.exceptions import BotoCoreError, ClientError

        taken = 0
        for start in range(0, count, AT_ONCE):
            entries = [{"Id": str(n), "MessageBody": TICKET} for n in range(min(AT_ONCE, count - start))]
            try:
                answer = self._client().send_message_batch(QueueUrl=self._url, Entries=entries)  # type: ignore[arg-type]
            except (BotoCoreError, ClientError) as error:
                log.warning("the queue takes no tickets: %s", type(error).__name__)
                break
            taken += len(answer.get("Successful", ()))
        return taken

    def _client(self) -> SQSClient:
        if self._made is None:
            from boto3.session import Session
            from botocore.config import Config

            config = Config(connect_timeout=1, read_timeout=3, retries={"mode": "standard", "total_max_attempts": 2})
            self._made = Session().client("sqs", config=config)
        return self._made
