"""New keys while everything runs: killed anywhere nothing is lost, and users who save meanwhile win."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from chalicelib.errors import SealError
from chalicelib.vault.kms import KmsKeys
from chalicelib.vault.local import LocalKeys
from tests.support.postgres import ROOT, Cluster
from tests.support.sealed_world import CANARY, Killed, Meddling, World, a_world, kill, whole_rotation


@pytest.fixture
def world(cluster: Cluster, tmp_path: Path) -> Iterator[World]:
    with a_world(cluster, tmp_path) as world:
        yield world


# The wrapping key.


def test_a_new_local_key_wraps_every_data_key_and_the_old_one_can_go(world: World) -> None:
    for _ in range(5):
        world.a_user(credentials=2)
    before, rows = world.values(), world.bindings()
    path = Path(world.settings.local_key_file)
    old = json.loads(path.read_text())["keys"]
    LocalKeys(path).add_key()

    world.rotation(batch=2).wrap_anew()

    content = json.loads(path.read_text())
    content["keys"] = [entry for entry in content["keys"] if entry not in old]
    path.write_text(json.dumps(content))
    assert world.values() == before
    assert world.bindings() == rows
    assert world.said[-1] == "looked at 5 of 5 data keys, wrapped 5 anew"


def test_a_new_kms_key_wraps_every_data_key_and_the_old_one_can_go(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with mock_aws():
        kms = boto3.client("kms", region_name="eu-central-1")
        old, new = (kms.create_key()["KeyMetadata"]["Arn"] for _ in range(2))
        world.provider = KmsKeys(old)
        for _ in range(5):
            world.a_user()
        before = world.values()
        world.provider = KmsKeys(new, previous=[old])
        world.a_user()  # saved after the deployment with the new key, and read all along
        assert set(before.items()) < set(world.values().items())

        world.rotation(batch=2).wrap_anew()
        again = world.rotation()
        again.wrap_anew()
        kms.disable_key(KeyId=old.rpartition("/")[2])
        world.provider = KmsKeys(new)

        assert set(before.items()) < set(world.values().items())
    assert [line for line in world.said if "of 6" in line][-2:] == [
        "looked at 6 of 6 data keys, wrapped 5 anew",
        "looked at 6 of 6 data keys, wrapped 0 anew",
    ]


def test_two_rotations_at_once_do_not_undo_each_other(world: World) -> None:
    world.a_user()
    before = world.values()
    LocalKeys(world.settings.local_key_file).add_key()

    world.rotation(Meddling(world.store, "rewrap", True, world.rotation().wrap_anew)).wrap_anew()

    assert world.said == ["looked at 1 of 1 data keys, wrapped 1 anew", "looked at 1 of 1 data keys, wrapped 0 anew"]
    assert world.values() == before


# New data keys.


def test_new_data_keys_change_the_ciphertext_and_nothing_else(world: World) -> None:
    for count in (0, 1, 3, 7):
        world.a_user(credentials=count)
    columns = "id, user_id, credential_type, row_version, destination, hint, expires_at, last_rotated_at, created_at"
    unchanged = [
        f"select {columns} from public.integration_credentials order by id",
        "select * from public.user_integrations order by id",
        "select * from public.integration_logs order by id",
    ]
    before, old_rows, old_keys = world.values(), world.bindings(), {key.id for key in world.data_keys()}
    rows = [world.sql(statement) for statement in unchanged]

    whole_rotation(world.rotation(batch=2))

    assert world.values() == before
    assert [world.sql(statement) for statement in unchanged] == rows
    assert all(new != old for (_, new, _), (_, old, _) in zip(world.bindings(), old_rows, strict=True))
    assert old_keys.isdisjoint({key.id for key in world.data_keys(current=True)})
    assert len(world.data_keys(current=True)) == 4
    assert world.all_under_current_keys()


def test_retired_keys_are_deleted_an_hour_later_unless_something_is_sealed_with_them(world: World) -> None:
    users = [world.a_user(credentials=2) for _ in range(3)]
    broken = world.bindings()[0][0]
    world.sql("update public.integration_credentials set encrypted_value = 'AAAA' where id = %s", broken.credential_id)
    whole_rotation(world.rotation())
    assert len(world.data_keys()) == 6  # requests under way may hold the old ones

    world.age_retired_keys()
    world.rotation().forget()

    assert len(world.data_keys()) == 4
    retired = {key.user_id for key in world.data_keys()} - {key.user_id for key in world.data_keys(current=True)}
    assert retired == set()
    assert broken.user_id in {user.id for user in users}
    assert world.said[-1] == "deleted 2 data keys that were in use no more"


def test_a_rotation_that_is_killed_at_any_point_ends_when_it_is_started_again(world: World) -> None:
    for count in (1, 2, 3):
        world.a_user(credentials=count)
    before = world.values()
    LocalKeys(world.settings.local_key_file).add_key()
    counting = Meddling(world.store, 0, True, kill)
    whole_rotation(world.rotation(counting, batch=2))
    assert world.values() == before

    repeated = 0
    for call in range(1, counting.calls + 1):
        for early in (True, False):
            LocalKeys(world.settings.local_key_file).add_key()
            world.age_retired_keys()
            world.rotation().forget()
            keys, rotations = len(world.data_keys()), rotations_of(world)
            with pytest.raises(Killed):
                whole_rotation(world.rotation(Meddling(world.store, call, early, kill), batch=2))
            assert world.values() == before

            whole_rotation(world.rotation(batch=2))

            assert world.values() == before
            assert world.all_under_current_keys()
            # One new key for every user and rotation, not another one for each start; a second rotation only if the
            # first one had come to its end.
            assert len(world.data_keys()) - keys == 3 * (rotations_of(world) - rotations)
            repeated += rotations_of(world) - rotations - 1
    assert 0 < repeated <= 5


def rotations_of(world: World) -> int:
    ((count,),) = world.sql("select count(*) from private.data_key_rotations")
    return int(count)


def test_a_process_that_is_killed_for_real_loses_nothing(world: World) -> None:
    for _ in range(260):
        world.a_user()
    before = world.values()
    old = {key.id for key in world.data_keys()}
    environment = {**os.environ, **world.stack.environment()}
    command = [sys.executable, "-u", "-m", "chalicelib.jobs.rotate_keys", "--new-data-keys"]
    for line_to_die_at in ("looked at 200", "made 200", "sealed 200", "Done"):
        with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(line_to_die_at):
                    process.send_signal(signal.SIGKILL)
                    break
        assert world.values() == before

    assert old.isdisjoint({key.id for key in world.data_keys(current=True)})
    assert world.all_under_current_keys()


# Users who save meanwhile.


def test_a_credential_saved_while_its_key_is_replaced_stays_as_its_owner_saved_it(world: World) -> None:
    user, other = world.a_user(), world.a_user()

    # Saved after the rotation has read and sealed the old value, before it writes.
    store = Meddling(world.store, "reseal", True, lambda: user.prepares("saved meanwhile")())
    whole_rotation(world.rotation(store))

    assert sorted(world.values().values()) == sorted([f"{CANARY} {other.id} 0", "saved meanwhile"])
    assert world.all_under_current_keys()


def test_a_save_that_was_prepared_before_the_rotation_wrote_is_not_turned_away(world: World) -> None:
    user = world.a_user()
    save = user.prepares("prepared before")

    whole_rotation(world.rotation())
    save()

    assert list(world.values().values()) == ["prepared before"]
    whole_rotation(world.rotation())
    assert list(world.values().values()) == ["prepared before"]
    assert world.all_under_current_keys()


def test_a_save_under_the_old_key_in_the_middle_of_the_rotation_is_seen_again(world: World) -> None:
    user = world.a_user()
    save = user.prepares("under the old key")
    rotation = world.rotation(Meddling(world.store, "reseal", True, save))

    whole_rotation(rotation)

    assert list(world.values().values()) == ["under the old key"]
    assert world.all_under_current_keys()


def test_a_fresh_save_under_a_retired_key_keeps_that_key(world: World) -> None:
    """However late: deleting the key would take the credential with it."""
    user = world.a_user()
    save = user.prepares("very late")
    whole_rotation(world.rotation())
    world.age_retired_keys()
    save()

    world.rotation().forget()

    assert list(world.values().values()) == ["very late"]


@pytest.mark.parametrize("call", ["replace", "reseal", "rewrap"])
def test_an_account_that_is_deleted_meanwhile_stops_nobody(world: World, call: str) -> None:
    leaving, staying = world.a_user(2), world.a_user(2)
    LocalKeys(world.settings.local_key_file).add_key()
    store = Meddling(
        world.store, call, True, lambda: world.sql("delete from auth.users where id = %s", leaving.id) and None
    )

    whole_rotation(world.rotation(store))

    assert sorted(world.values().values()) == [f"{CANARY} {staying.id} {number}" for number in range(2)]
    assert {key.user_id for key in world.data_keys()} == {staying.id}
    assert world.all_under_current_keys()


def test_deleting_an_account_leaves_nothing_that_opens_its_secrets(world: World) -> None:
    user = world.a_user(3)
    rows = world.bindings()
    world.sql("delete from auth.users where id = %s", user.id)

    assert world.data_keys() == []
    assert world.bindings() == []
    for binding, sealed, _ in rows:  # a copy of the table from before
        with pytest.raises(SealError):
            world.vault().open(sealed, binding, world.data_keys())
