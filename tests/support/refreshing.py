"""A process of its own that needs one integration's token in many threads at once, as a busy worker does.

``python -m tests.support.refreshing USER INTEGRATION THREADS early|late``: prints ``ready``, waits for a line, then prints
what each thread got. With ``early`` the rows are read before the line comes, with ``late`` after it.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

from chalicelib import wiring
from chalicelib.model import AuthMethod, Secret, Target
from chalicelib.services.credentials import keys_of, open_all, type_of
from chalicelib.services.token_refresh import Fresh, Held
from chalicelib.store.integrations import UserStore


def read_held(user_id: UUID, integration_id: UUID) -> Held:
    """The integration as a test of it reads it: its rows, and its secrets opened."""
    store = UserStore(wiring.supabase(), user_id, Secret("of nobody: only the service is asked"))
    found = store.prepare(integration_id=integration_id, secrets=True)
    type, config = type_of(found), found["integration"]["connection_config"]
    secrets, unreadable = open_all(
        found["credentials"],
        keys_of(found, user_id),
        user_id=user_id,
        integration_id=integration_id,
        type=type,
        config=config,
        vault=wiring.vault(),
    )
    if unreadable:
        raise RuntimeError(f"unreadable: {unreadable}")
    target = Target(type, AuthMethod(found["integration"]["auth_method"]), config, secrets)
    return Held(user_id, integration_id, target, found["credentials"])


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def told(fresh: Fresh) -> dict[str, Any]:
    return {
        "token": digest(fresh.target.secrets["access_token"].reveal()),
        "renewed": fresh.renewed,
        "failure": fresh.failure and fresh.failure.verdict,
    }


def main(user_id: str, integration_id: str, threads: str, when: str) -> None:
    ids, count = (UUID(user_id), UUID(integration_id)), int(threads)
    early = [read_held(*ids) for _ in range(count)] if when == "early" else []
    refresher, gate = wiring.token_refresher(), threading.Barrier(count)

    def need(number: int) -> dict[str, Any]:
        gate.wait(30)
        return told(refresher.fresh(early[number] if early else read_held(*ids)))

    print("ready", flush=True)
    sys.stdin.readline()
    with ThreadPoolExecutor(count) as pool:
        print(json.dumps(list(pool.map(need, range(count)))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
