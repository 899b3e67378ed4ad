"""A whole sweep against the same checks made bare; and with servers that hang and drip. `make bench ARGS=sweep`

5,000 integrations of 500 users, each an MCP server over TLS that answers after 100 ms and wants an API key. The sweep
claims, opens, checks and records them in real Postgres through PostgREST, in one process; the bare run makes the same
requests with the guarded client, as many at once, and does nothing else. Both by turns, on one machine.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.sweep_processes import HOSTS, Work, host_of, serve, work
from chalicelib import wiring
from chalicelib.model import Binding, Secret
from chalicelib.vault.local import LocalKeys
from chalicelib.vault.vault import Vault
from tests.peers.certificates import Authority
from tests.support import rows
from tests.support.postgres import Cluster, add_user
from tests.support.stack import Stack

USERS, EACH = 500, 10
KNOWN = '{"protocol_version": "2025-11-25", "server": {"name": "bench", "version": "1"}, "tools": [], "tools_fingerprint": "f"}'
ROUNDS, FULL_ROUNDS = 3, 9
RATIO, TROUBLE, MEMORY_MB = 0.8, 1.3, 250


@contextmanager
def process(target: Any, *arguments: Any) -> Iterator[Any]:
    """A process of its own, and the pipe to it."""
    ours, theirs = multiprocessing.Pipe()
    started = multiprocessing.get_context("spawn").Process(target=target, args=(theirs, *arguments), daemon=True)
    started.start()
    theirs.close()  # so that we hear of its end
    try:
        yield ours
    finally:
        started.kill()
        started.join()


def ask(pipe: Any, *question: Any) -> Any:
    pipe.send(question)
    return pipe.recv()


def fill(stack: Stack, port: int) -> None:
    """Connected integrations with sealed keys, whose tools were listed today: the usual case of a scheduled check."""
    settings = stack.environment()
    vault = Vault(LocalKeys(Path(settings["LOCAL_KEY_FILE"])), app=wiring.APP_NAME, environment=settings["APP_ENV"])
    with stack.database.connect() as db:
        kind = rows.add_type(db, type="mcp")
        for user in range(USERS):
            owner = add_user(db)
            key = vault.new_key(owner)
            db.execute(
                "insert into user_data_keys (id, user_id, wrapped_key) values (%s, %s, %s)",
                [key.id, owner, key.wrapped],
            )
            for number in range(EACH):
                host = host_of(user * EACH + number)
                config = f'{{"protocol": "http", "url": "https://{host}:{port}/mcp"}}'
                one = rows.add_integration(db, owner, kind, connection_config=config, status="connected",
                                           is_connected=True, auth_method="api_key", capabilities=KNOWN)  # fmt: skip
                binding = Binding(
                    owner, one, rows.one(db, "select gen_random_uuid()"), "api_key", f"https://{host}:{port}", 1
                )
                rows.add_credential(db, owner, one, id=binding.credential_id, data_key_id=key.id,
                                    encrypted_value=vault.seal(Secret(f"key-of-{one}"), binding, key))  # fmt: skip
        # Saving a credential made the configuration another one, whose tools are not known yet.
        db.execute("update user_integrations set capabilities_listed_at = now(), usual_ms = 150, last_verdict = 'ok'")


def _make_due(stack: Stack) -> None:
    """All are due again, and well as far as anybody knows."""
    with stack.database.connect(autocommit=True) as db:
        db.execute("update user_integrations set status = 'connected', is_connected = true, last_verdict = 'ok', "
                   "consecutive_failures = 0, failing_since = null")  # fmt: skip
        db.execute(
            "update integration_schedule set lease_token = null, next_check_at = now() - random() * interval '1 minute'"
        )
        db.execute("vacuum (analyze) integration_schedule, user_integrations")


def _swept(stack: Stack, name: str, sweeper: Any) -> Work:
    _make_due(stack)
    done: Work = ask(sweeper, "sweep")
    print(f"  {name:<8} {done.seconds:5.1f} s, {done.cpu_s:5.1f} s of CPU, {done.said}", flush=True)
    return done


def report(full: bool) -> None:
    print(
        f"{USERS * EACH:,} integrations of {USERS} users on {HOSTS:,} TLS servers that answer after 100 ms, load {_load()}"
    )
    authority = Authority()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as started:
        cluster = Cluster()
        started.callback(cluster.stop)
        cluster.start()
        stack = Stack(cluster, Path(folder))
        started.callback(stack.stop)
        stack.start()
        servers = started.enter_context(process(serve, authority.issue("*.bench.test")))
        port: int = servers.recv()
        fill(stack, port)
        settings = stack.environment() | {"CHECK_INTERVAL_S": "86400"}
        sweeper = started.enter_context(process(work, settings, authority.pem, port))
        bare = started.enter_context(process(work, settings, authority.pem, port))
        _compare(stack, servers, sweeper, bare, FULL_ROUNDS if full else ROUNDS)


def _compare(stack: Stack, servers: Any, sweeper: Any, bare: Any, rounds: int) -> None:
    ratios, troubles, peak_mb = [], [], 0.0
    for _ in range(rounds):
        alone: Work = ask(bare, "bare")
        print(f"  bare     {alone.seconds:5.1f} s, {alone.cpu_s:5.1f} s of CPU", flush=True)
        clean = _swept(stack, "sweep", sweeper)
        ask(servers, True)
        troubled = _swept(stack, "troubled", sweeper)
        ask(servers, False)
        ratios.append(alone.seconds / clean.seconds)
        troubles.append(troubled.seconds / clean.seconds)
        peak_mb = troubled.peak_mb
    print(f"throughput of the sweep against bare checks: {statistics.median(ratios):.2f} (wanted: at least {RATIO})")
    print(
        f"5 % hanging, 5 % dripping: {statistics.median(troubles):.2f} times the clean sweep (wanted: at most {TROUBLE})"
    )
    print(f"memory of the sweeping process: {peak_mb:.0f} MB at the most (wanted: below {MEMORY_MB}); load {_load()}")


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
