"""What the command for new keys says, and what it leaves alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from chalicelib.errors import SealError, Unavailable
from tests.support.postgres import ROOT, Cluster
from tests.support.sealed_world import CANARY, Meddling, World, a_world, whole_rotation
from tests.support.vaults import CountingKeys


@pytest.fixture
def world(cluster: Cluster, tmp_path: Path) -> Iterator[World]:
    with a_world(cluster, tmp_path) as world:
        yield world


def test_the_rotation_does_not_bind_a_credential_to_where_its_integration_leads_now(world: World) -> None:
    world.a_user()
    ((binding, *_),) = world.bindings()
    world.sql('update public.user_integrations set connection_config = \'{"api_url": "https://attacker.example"}\'')

    whole_rotation(world.rotation())

    ((moved, sealed, _),) = world.bindings()
    assert moved == binding
    with pytest.raises(SealError):
        world.vault().open(sealed, replace(binding, destination="https://attacker.example:443"), world.data_keys())
    assert CANARY in world.vault().open(sealed, binding, world.data_keys()).reveal()


@pytest.mark.parametrize(
    "damage",
    [
        "update public.integration_credentials set destination = 'https://attacker.example:443' where id = %s",
        "update public.integration_credentials set row_version = row_version + 1 where id = %s",
        "update public.integration_credentials set encrypted_value = 'AAAA' where id = %s",
    ],
    ids=["destination", "version", "value"],
)
def test_what_does_not_open_is_named_and_left_alone_and_the_rest_moves_on(world: World, damage: str) -> None:
    user, _ = world.a_user(2), world.a_user(2)
    broken = user.integrations[0]
    ((credential_id,),) = world.sql(
        "select id from public.integration_credentials where user_integration_id = %s", broken
    )
    world.sql(damage, credential_id)
    row = [each for each in world.bindings() if each[0].credential_id == credential_id]
    rotation = world.rotation()

    whole_rotation(rotation)

    assert len(rotation.unreadable.lines) == 1
    assert f"integration {broken}, credential api_key: credential_" in rotation.unreadable.lines[0]
    assert [each for each in world.bindings() if each[0].credential_id == credential_id] == row
    current = {key.id for key in world.data_keys(current=True)}
    assert sum(key_id in current for *_, key_id in world.bindings()) == 3


def test_a_dry_run_opens_everything_changes_nothing_and_names_what_is_broken(world: World) -> None:
    users = [world.a_user(3) for _ in range(3)]
    broken = users[1].integrations[2]
    environment = {**os.environ, **world.stack.environment()}
    command = [sys.executable, "-m", "chalicelib.jobs.rotate_keys", "--dry-run"]
    healthy = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    world.sql(
        "update public.integration_credentials set encrypted_value = 'AAAA' where user_integration_id = %s", broken
    )
    rows, keys = world.bindings(), world.data_keys()

    run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert (healthy.returncode, healthy.stdout.splitlines()[-1]) == (0, "Done.")
    assert run.returncode == 1
    assert run.stdout.splitlines() == [
        "opened 9 of 9 credentials, 1 do not open",
        f"does not open: integration {broken}, credential api_key: credential_unreadable",
        "1 do not open, see above.",
    ]
    assert CANARY not in run.stdout + run.stderr + healthy.stdout + healthy.stderr
    assert (world.bindings(), world.data_keys()) == (rows, keys)


def test_a_dry_run_unwraps_each_key_once(world: World) -> None:
    for _ in range(4):
        world.a_user(6)
    world.provider = CountingKeys(world.provider)

    world.rotation(batch=5).rehearse()

    assert world.provider.unwraps == 4
    assert world.said[-1] == "opened 24 of 24 credentials, 0 do not open"


def test_a_lost_key_file_is_reported_for_every_key_and_nothing_is_changed(world: World) -> None:
    world.a_user()
    Path(world.settings.local_key_file).unlink()
    rows, keys = world.bindings(), world.data_keys()
    rotation = world.rotation()

    rotation.wrap_anew()

    assert rotation.unreadable.lines == [f"data key {keys[0].id} of user {keys[0].user_id}: credential_key_missing"]
    assert (world.bindings(), world.data_keys()) == (rows, keys)


def test_a_key_service_that_goes_away_stops_the_command_and_it_can_be_started_again(world: World) -> None:
    for _ in range(3):
        world.a_user()
    before = world.values()
    provider = world.provider = CountingKeys(world.provider)

    def fails() -> None:
        provider.failure = Unavailable("The key service is busy. Try again in a moment.")

    with pytest.raises(Unavailable):
        whole_rotation(world.rotation(Meddling(world.store, "replace", False, fails), batch=2))
    provider.failure = None
    assert world.values() == before

    whole_rotation(world.rotation())

    assert world.values() == before
    assert world.all_under_current_keys()


def test_the_command_makes_a_new_local_key_only_where_there_is_a_key_file(world: World) -> None:
    world.a_user()
    path = Path(world.settings.local_key_file)
    without = {**world.stack.environment(), "LOCAL_KEY_FILE": "", "KMS_KEY_ID": "alias/credentials"}
    command = [sys.executable, "-m", "chalicelib.jobs.rotate_keys", "--new-local-key"]

    runs = [
        subprocess.run(
            command, env={**os.environ, **env}, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
        for env in (world.stack.environment(), without)
    ]

    assert [run.returncode for run in runs] == [0, 2]
    assert runs[0].stdout.splitlines() == ["looked at 1 of 1 data keys, wrapped 1 anew", "Done."]
    assert "LOCAL_KEY_FILE is not set" in runs[1].stdout
    assert len(json.loads(path.read_text())["keys"]) == 2


def test_the_command_says_why_it_cannot_start() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "chalicelib.jobs.rotate_keys"],
        env={"PATH": os.environ["PATH"]}, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert run.returncode == 2
    assert "SUPABASE_URL is missing" in run.stdout
    assert "Traceback" not in run.stderr
