"""A whole sweep against the same checks made bare; and with servers that hang and drip. `python -m bench.sweep`

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
ROUNDS = 5
RATIO, TROUBLE, MEMORY_MB = 0.8, 1.3, 250


@contextmanager
def process(target: Any, *arguments: Any) -> Iterator[Any]:
    """A process of its own, and the pipe to it."""
    ours, theirs = multiprocessing.Pipe()
    started = multiprocessing.get_context("spawn").Process(target=target, args=(theirs, *arguments), daemon=True)
    started.start()
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
    with stack.database.connect(autocommit=True) as db:
        db.execute(
            "update integration_schedule set lease_token = null, next_check_at = now() - random() * interval '1 minute'"
        )
        # Each sweep has a day of its own: what is written into a day's row must not grow from round to round.
        db.execute("vacuum (analyze) integration_schedule, user_integrations")


def _swept(stack: Stack, sweeper: Any) -> Work:
    _make_due(stack)
    done: Work = ask(sweeper, "sweep")
    print(f"  sweep  {done.seconds:5.1f} s, {done.cpu_s:5.1f} s of CPU, {done.said}", flush=True)
    return done


def report() -> None:
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
        _compare(stack, servers, sweeper, bare)


def _compare(stack: Stack, servers: Any, sweeper: Any, bare: Any) -> None:
    sweeps, bares = [], []
    for _ in range(ROUNDS):
        done: Work = ask(bare, "bare")
        print(f"  bare   {done.seconds:5.1f} s, {done.cpu_s:5.1f} s of CPU", flush=True)
        bares.append(done)
        sweeps.append(_swept(stack, sweeper))
        assert sweeps[-1].ok == USERS * EACH, sweeps[-1].said
    ratio = statistics.median(b.seconds / s.seconds for b, s in zip(bares, sweeps, strict=True))
    print(f"throughput of the sweep against bare checks: {ratio:.2f} (wanted: at least {RATIO})")
    print(f"memory of the sweeping process: {sweeps[-1].peak_mb:.0f} MB at the most (wanted: below {MEMORY_MB})")
    ask(servers, "trouble")
    troubled = _swept(stack, sweeper)
    assert troubled.ok == USERS * EACH * 9 // 10, troubled.said
    clean = statistics.median(sweep.seconds for sweep in sweeps)
    print(
        f"5 % hanging and 5 % dripping: {troubled.seconds / clean:.2f} times the clean run (wanted: at most {TROUBLE})"
    )
    print(f"load {_load()}")


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


if __name__ == "__main__":
    report()
