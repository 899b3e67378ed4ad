"""What opening a credential costs beyond bare AES-GCM, and how often KMS is asked. `python -m bench.vault`"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from uuid import uuid4

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from chalicelib.model import Binding, DataKey, Secret
from chalicelib.vault.local import LocalKeys
from chalicelib.vault.vault import Vault

OPENS = 50_000
PER_UNWRAP = 900  # below the 1,000 uses of a cached key, so that the rounds measure opening only


def a_binding() -> Binding:
    return Binding(uuid4(), uuid4(), uuid4(), "api_key", "https://api.example.com:443", 3)


def microseconds(work: Callable[[], object], rounds: int) -> float:
    start = time.perf_counter()
    for _ in range(rounds):
        work()
    return (time.perf_counter() - start) / rounds * 1e6


def opening() -> None:
    """Bare and vault by turns in small rounds, so that both meet the same machine; the middle round counts."""
    with tempfile.TemporaryDirectory() as folder:
        provider = LocalKeys(Path(folder) / "keys.json")
        vault = Vault(provider, app="bench", environment="bench")
        binding = a_binding()
        key = vault.new_key(binding.user_id)
        keys = {key.id: key}
        text = "s" * 200
        sealed = vault.seal(Secret(text), binding, key)
        bare = AESGCM(os.urandom(32))
        nonce, associated = os.urandom(12), os.urandom(200)
        body = bare.encrypt(nonce, text.encode(), associated)
        differences, ours, theirs = [], [], []
        for _ in range(OPENS // PER_UNWRAP):
            vault = Vault(provider, app="bench", environment="bench")
            vault.open(sealed, binding, keys)  # unwraps
            theirs.append(microseconds(partial(bare.decrypt, nonce, body, associated), PER_UNWRAP))
            ours.append(microseconds(partial(vault.open, sealed, binding, keys), PER_UNWRAP))
            differences.append(ours[-1] - theirs[-1])
    middle = len(ours) // 2
    open_us, bare_us, more_us = (sorted(each)[middle] for each in (ours, theirs, differences))
    print(f"open, key cached, 200 bytes: {open_us:.2f} µs, {1e6 / open_us:,.0f} per second and core")
    print(f"bare AESGCM.decrypt:         {bare_us:.2f} µs; the difference is {more_us:.2f} µs per open")


def kms_calls() -> None:
    """10,000 credentials of 100 users in any order, each opened once by a process that has no key yet."""
    import boto3
    from moto import mock_aws

    from chalicelib.vault.kms import KmsKeys

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        os.environ[name] = "bench"
    os.environ["AWS_DEFAULT_REGION"] = "eu-central-1"
    with mock_aws():
        client = boto3.client("kms")
        key_id = client.create_key()["KeyMetadata"]["Arn"]
        api = Vault(KmsKeys(key_id), app="bench", environment="bench")
        rows: list[tuple[Binding, DataKey, str]] = []
        for _ in range(100):
            owner = uuid4()
            key = api.new_key(owner)
            for _ in range(100):
                binding = Binding(owner, uuid4(), uuid4(), "api_key", "https://api.example.com:443", 1)
                rows.append((binding, key, api.seal(Secret("s" * 200), binding, key)))
        random.Random(1).shuffle(rows)
        calls: list[str] = []
        worker_keys = KmsKeys(key_id)
        worker_keys._client().meta.events.register("before-call.kms", lambda model, **_: calls.append(model.name))
        worker = Vault(worker_keys, app="bench", environment="bench")
        keys = {key.id: key for _, key, _ in rows}
        start = time.perf_counter()
        for binding, _, sealed in rows:
            worker.open(sealed, binding, keys)
        elapsed = time.perf_counter() - start
    made = ", ".join(f"{calls.count(name)} {name}" for name in sorted(set(calls)))
    print(f"10,000 credentials of 100 users: {made}, counted at the client, in {elapsed:.2f} s with moto's KMS")


def report() -> None:
    opening()
    kms_calls()


if __name__ == "__main__":
    report()
