"""The lease on renewing tokens, and storing what came of it: who gets it, what is kept, and what stays as it is."""

from __future__ import annotations

import json
import threading
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.conftest import AsRole, Connection
from tests.support import rows
from tests.support.postgres import Database, add_user
from tests.support.rows import Json, call, one
from tests.support.versions import on_both_versions

database = on_both_versions()


class Signed:
    """An integration with tokens, and the calls of its workers."""

    def __init__(self, db: Connection) -> None:
        self.db = db
        self.owner = add_user(db)
        self.id = rows.add_integration(db, self.owner, rows.add_type(db), auth_method="oauth")
        self.access = self.add("access_token", expires_at=datetime.now(UTC) + timedelta(minutes=1))
        self.refresh = self.add("refresh_token")

    def add(self, kind: str, **columns: Any) -> uuid.UUID:
        return rows.add_credential(self.db, self.owner, self.id, credential_type=kind, **columns)

    def claims(self, version: int | None = 1, **more: Any) -> Any:
        given = {} if version is None else {"p_access_version": version}
        return call(self.db, "claim_refresh", p_user_id=self.owner, p_integration_id=self.id, **given, **more)

    def stores(self, lease: object, *credentials: Json) -> Any:
        payload = json.dumps({"credentials": credentials} if credentials else {}, default=str)
        return call(self.db, "store_refreshed", p_user_id=self.owner, p_integration_id=self.id,
                    p_lease_token=lease or uuid.uuid4(), p_payload=payload)  # fmt: skip

    def issued(self, kind: str = "access_token", version: int = 2, **more: Any) -> Json:
        return {
            "id": self.access if kind == "access_token" else self.refresh,
            "credential_type": kind,
            "encrypted_value": "bmV3",
            "data_key_id": one(self.db, "select id from public.user_data_keys where user_id = %s", [self.owner]),
            "row_version": version,
            "destination": "https://example.com:443",
            "hint": "new4",
            "expires_at": datetime.now(UTC) + timedelta(hours=1),
            **more,
        }

    def row(self, kind: str) -> Json | None:
        found: Json | None = one(
            self.db,
            "select to_jsonb(c) from public.integration_credentials c where user_integration_id = %s and credential_type = %s",
            [self.id, kind],
        )
        return found

    def integration(self) -> Json:
        return rows.integration(self.db, self.id)


@pytest.fixture
def signed(db: Connection) -> Signed:
    return Signed(db)


def versions(answer: Json) -> dict[str, int]:
    return {row["credential_type"]: row["row_version"] for row in answer["credentials"]}


def test_the_first_worker_gets_the_lease_and_the_next_hears_that_somebody_is_at_it(signed: Signed) -> None:
    first, second = signed.claims(), signed.claims()

    assert (uuid.UUID(first["lease_token"]).version, first["held"]) == (4, False)
    assert versions(first) == {"access_token": 1, "refresh_token": 1}
    assert [key["current"] for key in first["keys"]] == [True]
    assert second == {"lease_token": None, "held": True}


def test_a_lease_that_ran_out_is_free_again(signed: Signed) -> None:
    signed.claims(p_lease_s=0)

    assert signed.claims()["lease_token"] is not None


@pytest.mark.parametrize("version", [None, 2, 7])
def test_whoever_has_read_another_version_gets_no_lease_but_the_rows_as_they_are(
    signed: Signed, version: int | None
) -> None:
    answer = signed.claims(version)

    assert (answer["lease_token"], answer["held"]) == (None, False)
    assert versions(answer) == {"access_token": 1, "refresh_token": 1}
    assert signed.claims()["lease_token"] is not None


def test_without_an_access_token_the_lease_is_for_whoever_saw_none(signed: Signed, db: Connection) -> None:
    db.execute("delete from public.integration_credentials where id = %s", [signed.access])

    assert signed.claims(1)["lease_token"] is None
    assert signed.claims(None)["lease_token"] is not None


def test_what_was_issued_is_stored_and_the_lease_ends(signed: Signed) -> None:
    lease = signed.claims()["lease_token"]
    answer = signed.stores(lease, signed.issued(), signed.issued("refresh_token", expires_at=None))

    assert versions(answer) == {"access_token": 2, "refresh_token": 2}
    access = signed.row("access_token")
    assert access is not None
    assert (access["encrypted_value"], access["hint"]) == ("bmV3", "new4")
    assert one(signed.db, "select lease_token is null and leased_until is null from private.token_refreshes")


def test_nothing_that_a_person_did_is_logged_or_counted(signed: Signed) -> None:
    rows.schedule(signed.db, signed.id, signed.owner)
    before, logged, access = signed.integration(), rows.logs(signed.db, signed.id), signed.row("access_token")
    signed.stores(signed.claims()["lease_token"], signed.issued(), signed.issued("refresh_token"))
    after, renewed = signed.integration(), signed.row("access_token")

    assert after["next_expiry_at"] != before["next_expiry_at"]
    assert after | {"next_expiry_at": ""} == before | {"next_expiry_at": ""}
    assert rows.logs(signed.db, signed.id) == logged
    assert access is not None
    assert renewed is not None
    assert renewed["last_rotated_at"] == access["last_rotated_at"]
    kept = signed.row("refresh_token")
    assert kept is not None
    # The one that its owner has to see to.
    assert after["next_expiry_at"] == kept["expires_at"] != renewed["expires_at"]


def test_a_token_without_an_end_takes_the_end_away(signed: Signed) -> None:
    signed.stores(signed.claims()["lease_token"], signed.issued(expires_at=None))

    assert signed.integration()["next_expiry_at"] is None


def test_a_check_that_is_under_way_counts_although_the_token_was_renewed(signed: Signed, db: Connection) -> None:
    rows.schedule(db, signed.id, signed.owner)
    checks = rows.claim(db)
    signed.stores(signed.claims()["lease_token"], signed.issued())

    assert rows.record_claimed(db, checks) == [str(signed.id)]


def test_the_first_token_of_a_client_is_added(signed: Signed, db: Connection) -> None:
    db.execute("delete from public.integration_credentials where user_integration_id = %s", [signed.id])
    version, logged = signed.integration()["config_version"], rows.logs(db, signed.id)
    answer = signed.stores(signed.claims(None)["lease_token"], signed.issued(version=1))

    assert versions(answer) == {"access_token": 1}
    assert [row["issued"] for row in answer["credentials"]] == [True]
    assert signed.integration()["config_version"] == version
    assert rows.logs(db, signed.id) == logged


def test_whether_a_value_was_issued_or_typed_is_told(signed: Signed, db: Connection) -> None:
    def told() -> dict[str, bool]:
        found = call(db, "sealed_credentials", p_user_id=signed.owner, p_integration_id=signed.id)
        return {row["credential_type"]: row["issued"] for row in found["credentials"]}

    assert told() == {"access_token": False, "refresh_token": False}
    signed.stores(signed.claims()["lease_token"], signed.issued())
    assert told() == {"access_token": True, "refresh_token": False}
    db.execute(
        "update public.integration_credentials set row_version = 3, last_rotated_at = clock_timestamp() where id = %s",
        [signed.access],
    )
    assert told() == {"access_token": False, "refresh_token": False}
    assert rows.events(db, signed.id)[-1] == "credential_saved"


def test_repeating_a_store_changes_nothing(signed: Signed) -> None:
    lease = signed.claims()["lease_token"]
    first = signed.stores(lease, signed.issued(), signed.issued("refresh_token"))
    row = signed.row("access_token")

    assert signed.stores(lease, signed.issued(), signed.issued("refresh_token")) == first
    assert signed.row("access_token") == row


def test_what_an_owner_typed_meanwhile_stays_and_the_rest_is_stored(signed: Signed, db: Connection) -> None:
    lease = signed.claims()["lease_token"]
    db.execute("update public.integration_credentials set row_version = 2, encrypted_value = 'dHlwZWQ=', "
               "last_rotated_at = clock_timestamp() where id = %s", [signed.access])  # fmt: skip
    answer = signed.stores(lease, signed.issued(), signed.issued("refresh_token"))

    assert {row["credential_type"]: row["encrypted_value"] for row in answer["credentials"]} == {
        "access_token": "dHlwZWQ=",
        "refresh_token": "bmV3",
    }


def test_what_an_owner_deleted_meanwhile_stays_deleted(signed: Signed, db: Connection) -> None:
    lease = signed.claims()["lease_token"]
    db.execute("delete from public.integration_credentials where user_integration_id = %s", [signed.id])

    answer = signed.stores(lease, signed.issued(), signed.issued("refresh_token"))

    assert answer["credentials"] == []


def test_a_refresh_token_is_never_added_nor_any_other_credential_touched(signed: Signed) -> None:
    signed.add("client_secret")
    secret = signed.row("client_secret")
    assert secret is not None
    fake = signed.issued("client_secret", id=secret["id"])
    signed.stores(
        None,
        fake,
        signed.issued("refresh_token", version=1, id=uuid.uuid4()),
        signed.issued("api_key", version=1, id=uuid.uuid4()),
    )

    assert signed.row("client_secret") == secret
    assert signed.row("api_key") is None
    assert versions(signed.claims(9)) == {"access_token": 1, "refresh_token": 1, "client_secret": 1}


def test_a_late_worker_still_stores_while_the_rows_are_as_it_read_them(signed: Signed) -> None:
    """Nobody can get its tokens again; and the lease of whoever came after it stays."""
    late = signed.claims(p_lease_s=0)["lease_token"]
    other = signed.claims()["lease_token"]

    assert versions(signed.stores(late, signed.issued()))["access_token"] == 2
    assert str(one(signed.db, "select lease_token from private.token_refreshes")) == other


def test_a_late_worker_does_not_overwrite_what_the_next_one_stored(signed: Signed) -> None:
    late = signed.claims(p_lease_s=0)["lease_token"]
    signed.stores(signed.claims()["lease_token"], signed.issued(encrypted_value="bmV4dA=="))
    answer = signed.stores(late, signed.issued())

    assert {row["encrypted_value"] for row in answer["credentials"]} == {"bmV4dA==", "bm9pc2U="}


@pytest.mark.parametrize(
    ("lives_s", "age_s", "leased"),
    [(3600, 59, False), (3600, 61, True), (None, 59, False), (None, 61, True), (20, 9, False), (20, 11, True)],
)
def test_a_token_is_not_renewed_twice_within_a_minute_or_half_its_life(
    signed: Signed, db: Connection, lives_s: int | None, age_s: int, leased: bool
) -> None:
    born = datetime.now(UTC) - timedelta(seconds=age_s)
    ends = None if lives_s is None else born + timedelta(seconds=lives_s)
    db.execute(
        "update public.integration_credentials set refreshed_at = %s, expires_at = %s where id = %s",
        [born, ends, signed.access],
    )

    answer = signed.claims()

    assert ((answer["lease_token"] is not None), answer["held"]) == (leased, False)


def test_nobody_else_gets_anything(signed: Signed, db: Connection, as_role: AsRole) -> None:
    stranger = add_user(db)
    with as_role("service_role"):
        for owner, integration in ((stranger, signed.id), (signed.owner, uuid.uuid4())):
            assert call(db, "claim_refresh", p_user_id=owner, p_integration_id=integration) is None
            assert (
                call(db, "store_refreshed", p_user_id=owner, p_integration_id=integration, p_lease_token=uuid.uuid4())
                is None
            )
        assert signed.claims()["lease_token"] is not None

    with as_role("service_role"):
        signed.stores(None, signed.issued(id=signed.access))
        other = rows.add_integration(db, stranger, rows.add_type(db))
        payload = json.dumps({"credentials": [signed.issued(version=3)]}, default=str)
        call(
            db,
            "store_refreshed",
            p_user_id=stranger,
            p_integration_id=other,
            p_lease_token=uuid.uuid4(),
            p_payload=payload,
        )
    assert versions(signed.claims(9))["access_token"] == 2


def test_of_many_at_once_one_gets_the_lease(database: Database) -> None:
    with database.connect() as db:
        signed = Signed(db)
    gate, answers = threading.Barrier(12), []

    def claim() -> None:
        with database.connect() as db:
            gate.wait(30)
            answers.append(
                call(db, "claim_refresh", p_user_id=signed.owner, p_integration_id=signed.id, p_access_version=1)
            )

    threads = [threading.Thread(target=claim) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(answer["held"] for answer in answers) == [False] + [True] * 11
    assert [answer["lease_token"] is not None for answer in answers].count(True) == 1


def test_the_lease_goes_with_its_integration(signed: Signed, db: Connection) -> None:
    lease = signed.claims()["lease_token"]
    db.execute("delete from public.user_integrations where id = %s", [signed.id])

    assert one(db, "select count(*) from private.token_refreshes where user_id = %s", [signed.owner]) == 0
    assert signed.stores(lease, signed.issued()) is None


def test_claims_wait_in_line_before_they_look(database: Database) -> None:
    """Two that had looked at once would both find the lease free."""
    with database.connect() as db:
        signed = Signed(db)
        signed.stores(signed.claims()["lease_token"])
    answers: list[Any] = []

    def claim() -> None:
        with database.connect() as db:
            answers.append(
                call(db, "claim_refresh", p_user_id=signed.owner, p_integration_id=signed.id, p_access_version=1)
            )

    waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    threads = [threading.Thread(target=claim) for _ in range(2)]
    with database.connect() as db, database.connect(autocommit=True) as watcher:
        db.execute("select from private.token_refreshes where user_integration_id = %s for update", [signed.id])
        for thread in threads:
            thread.start()
        while one(watcher, waiting) < len(threads):
            assert all(thread.is_alive() for thread in threads)
        db.commit()
        for thread in threads:
            thread.join()

    assert sorted(answer["held"] for answer in answers) == [False, True]
