"""KMS as the key provider: moto enforces the encryption context; a troubled endpoint does what KMS does on bad days."""

import logging
import socket
from base64 import b64decode, b64encode
from dataclasses import replace
from uuid import uuid4

import boto3
import pytest
from moto import mock_aws

from chalicelib.errors import KeyMissing, SealError, Unavailable
from chalicelib.model import Secret
from chalicelib.settings import read_settings
from chalicelib.vault import provider_from
from chalicelib.vault.keys import encryption_context
from chalicelib.vault.kms import KmsKeys
from chalicelib.vault.vault import Vault
from tests.peers.kms import troubled_kms
from tests.support.vaults import Clock, a_binding

REGION = "eu-central-1"


@pytest.fixture(autouse=True)
def aws(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def kms():
    with mock_aws():
        yield boto3.client("kms", region_name=REGION)


def new_key(kms, alias: str | None = None) -> str:
    arn = kms.create_key()["KeyMetadata"]["Arn"]
    if alias:
        kms.create_alias(AliasName=alias, TargetKeyId=arn)
    return arn


def context(**changes: str) -> dict[str, str]:
    made = encryption_context(app="integrations", environment="test", user_id=uuid4(), key_id=uuid4())
    return {**made, **changes}


def vault_over(provider, clock=None) -> Vault:
    return Vault(provider, app="integrations", environment="test", **({"clock": clock} if clock else {}))


@pytest.mark.parametrize("form", ["arn", "id", "alias", "alias arn"])
def test_a_key_is_named_by_arn_id_or_alias(kms, form):
    arn = new_key(kms, "alias/credentials")
    name = {
        "arn": arn,
        "id": arn.rpartition("/")[2],
        "alias": "alias/credentials",
        "alias arn": arn.rpartition(":")[0] + ":alias/credentials",
    }[form]
    mine = context()

    plaintext, wrapped = KmsKeys(name).generate(mine)

    assert len(plaintext) == 32
    assert KmsKeys(name).unwrap(wrapped, mine) == plaintext
    assert arn.encode() in b64decode(wrapped)


def test_kms_enforces_every_part_of_the_context(kms):
    arn, mine = new_key(kms), context()
    _, wrapped = KmsKeys(arn).generate(mine)
    rotation = KmsKeys(new_key(kms), previous=[arn])
    wrong = [{**mine, name: "other"} for name in mine] + [{**mine, "more": "x"}, {}]
    wrong += [{name: value for name, value in mine.items() if name != left_out} for left_out in mine]

    for each in wrong:
        with pytest.raises(SealError):
            KmsKeys(arn).unwrap(wrapped, each)
        with pytest.raises(SealError):
            rotation.rewrap(wrapped, each)


def test_a_row_that_lies_about_its_owner_does_not_open(kms):
    arn = new_key(kms)
    mine, thief = a_binding(), a_binding()
    vault = vault_over(KmsKeys(arn))
    key = vault.new_key(mine.user_id)
    sealed = vault.seal(Secret("value"), mine, key)
    forged = replace(key, user_id=thief.user_id)

    with pytest.raises(SealError):
        vault_over(KmsKeys(arn)).open(sealed, replace(mine, user_id=thief.user_id), [forged])
    assert vault_over(KmsKeys(arn)).open(sealed, mine, [key]).reveal() == "value"


def test_another_environment_with_the_same_kms_key_opens_nothing(kms):
    arn, mine = new_key(kms), a_binding()
    vault = vault_over(KmsKeys(arn))
    key = vault.new_key(mine.user_id)
    sealed = vault.seal(Secret("value"), mine, key)

    with pytest.raises(SealError):
        Vault(KmsKeys(arn), app="integrations", environment="prod").open(sealed, mine, [key])


def test_no_damaged_wrapped_key_opens(kms):
    keys, mine = KmsKeys(new_key(kms)), context()
    _, wrapped = keys.generate(mine)
    raw = b64decode(wrapped)
    blob_at = 4 + int.from_bytes(raw[2:4], "big")
    for place in [*range(8 * blob_at, 8 * len(raw), 7), 16, 24, 31]:
        bent = bytearray(raw)
        bent[place // 8] ^= 1 << place % 8
        with pytest.raises((SealError, Unavailable)):  # moto denies a blob that names an unknown key
            keys.unwrap(b64encode(bent).decode(), mine)
    for text in ("", "K1", "not base64", wrapped[:8], b64encode(raw[:blob_at]).decode(), "é", wrapped + "="):
        with pytest.raises(SealError):
            keys.unwrap(text, mine)


def test_a_key_that_is_not_configured_never_unwraps_even_if_kms_would(kms):
    ours, foreign, mine = new_key(kms), new_key(kms), context()
    _, wrapped = KmsKeys(foreign).generate(mine)

    for keys in (KmsKeys(ours), KmsKeys(ours, previous=[new_key(kms)])):
        with pytest.raises(KeyMissing, match="KMS_PREVIOUS_KEY_IDS"):
            keys.unwrap(wrapped, mine)
        with pytest.raises(KeyMissing, match="KMS_PREVIOUS_KEY_IDS"):
            keys.rewrap(wrapped, mine)


def test_a_foreign_blob_under_our_label_is_refused_by_kms(kms):
    """What a writer to the database could plant: a data key that they know, wrapped by their own KMS key."""
    ours, foreign, mine = new_key(kms), new_key(kms), context()
    _, wrapped = KmsKeys(foreign).generate(mine)
    planted = b64encode(b64decode(wrapped).replace(foreign.encode(), ours.encode())).decode()

    with pytest.raises((SealError, Unavailable)):  # AWS: IncorrectKey, moto: AccessDenied
        KmsKeys(ours).unwrap(planted, mine)


def test_rewrapping_moves_to_the_current_key_and_the_old_one_can_go(kms):
    old, new, mine = new_key(kms), new_key(kms), context()
    plaintext, wrapped = KmsKeys(old).generate(mine)
    both = KmsKeys(new, previous=[old])

    moved = both.rewrap(wrapped, mine)

    assert both.unwrap(wrapped, mine) == plaintext
    assert both.rewrap(moved, mine) == moved
    kms.disable_key(KeyId=old.rpartition("/")[2])
    assert KmsKeys(new).unwrap(moved, mine) == plaintext


def test_an_alias_may_be_pointed_at_another_key(kms):
    old, new, mine = new_key(kms, "alias/credentials"), new_key(kms), context()
    plaintext, wrapped = KmsKeys("alias/credentials").generate(mine)
    kms.update_alias(AliasName="alias/credentials", TargetKeyId=new)
    keys = KmsKeys("alias/credentials", previous=[old.rpartition("/")[2]])

    moved = keys.rewrap(wrapped, mine)

    assert keys.unwrap(wrapped, mine) == plaintext
    assert new.encode() in b64decode(moved)
    assert KmsKeys("alias/credentials").unwrap(moved, mine) == plaintext
    assert keys.rewrap(moved, mine) == moved


def test_rewrapping_what_is_current_already_costs_one_call_at_most(kms):
    arn, mine = new_key(kms, "alias/credentials"), context()
    keys = KmsKeys("alias/credentials")
    wrapped = [keys.generate(mine)[1] for _ in range(5)]
    calls = count_calls(keys)

    assert [keys.rewrap(each, mine) for each in wrapped] == wrapped
    assert calls == ["ReEncrypt"]
    assert arn.encode() in b64decode(wrapped[0])


def count_calls(keys: KmsKeys) -> list[str]:
    calls: list[str] = []
    keys._client().meta.events.register("before-call.kms", lambda model, **_: calls.append(model.name))
    return calls


def test_a_locally_sealed_key_is_not_taken_for_damage(kms):
    with pytest.raises(KeyMissing, match="was not sealed with KMS"):
        KmsKeys(new_key(kms)).unwrap(b64encode(b"L1" + bytes(80)).decode(), context())


def test_10000_credentials_of_100_users_are_100_calls_of_kms(kms):
    arn = new_key(kms)
    api = vault_over(KmsKeys(arn))
    rows = []
    for _ in range(100):
        binding = a_binding()
        key = api.new_key(binding.user_id)
        rows += [
            (bound, key, api.seal(Secret("v"), bound, key)) for bound in [replace(binding, credential_id=uuid4())] * 100
        ]
    worker_keys = KmsKeys(arn)
    calls = count_calls(worker_keys)
    worker = vault_over(worker_keys)

    for binding, key, sealed in rows:
        worker.open(sealed, binding, [key])

    assert calls == ["Decrypt"] * 100


def test_settings_choose_the_provider(kms, tmp_path):
    base = {
        "SUPABASE_URL": "http://127.0.0.1:54321",
        "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_x",
        "SUPABASE_SECRET_KEY": "sb_secret_x",
    }
    old, new, mine = new_key(kms), new_key(kms, "alias/new"), context()
    _, wrapped = KmsKeys(old).generate(mine)

    chosen = provider_from(read_settings({**base, "KMS_KEY_ID": "alias/new", "KMS_PREVIOUS_KEY_IDS": f" {old}, "}))

    assert chosen.name == "kms"
    assert new.encode() in b64decode(chosen.rewrap(wrapped, mine))
    local = provider_from(read_settings({**base, "LOCAL_KEY_FILE": str(tmp_path / "keys.json")}))
    assert local.name == "local"
    assert not (tmp_path / "keys.json").exists()


# Bad days. The backoff is botocore's, with full jitter; these tests only count attempts.


@pytest.mark.parametrize(
    ("status", "code", "attempts", "retry_after"),
    [
        (400, "ThrottlingException", 3, 5),
        (500, "KMSInternalException", 3, 5),
        (503, "DependencyTimeoutException", 3, 5),
        (400, "AccessDeniedException", 1, 30),
        (400, "DisabledException", 1, 30),
        (400, "NotFoundException", 1, 30),
        (400, "KMSInvalidStateException", 1, 30),
        (400, "UnrecognizedClientException", 1, 30),
    ],
)
def test_when_kms_refuses_callers_hear_when_to_come_back(status, code, attempts, retry_after, caplog):
    with troubled_kms(status, code) as peer:
        keys = KmsKeys("alias/credentials", peer.url)
        with pytest.raises(Unavailable) as caught:
            keys.generate(context())

    assert peer.calls == ["GenerateDataKey"] * attempts
    assert caught.value.retry_after == retry_after
    assert code not in caught.value.detail
    assert f"KMS refused GenerateDataKey: {code}" in caplog.text


def test_when_kms_cannot_be_reached_callers_hear_when_to_come_back(caplog):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        keys = KmsKeys("alias/credentials", f"http://127.0.0.1:{taken.getsockname()[1]}")
        for attempt in (keys.generate, lambda mine: keys.unwrap(wrapped_by("alias"), mine)):
            with pytest.raises(Unavailable, match="does not answer"):
                attempt(context())

    assert "127.0.0.1" not in caplog.text


def test_without_credentials_of_its_own_the_service_says_so_and_stores_nothing(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")

    with pytest.raises(Unavailable), troubled_kms(500, "unused") as peer:
        KmsKeys("alias/credentials", peer.url).generate(context())


def test_proof_of_damage_is_not_called_an_outage():
    with troubled_kms(400, "InvalidCiphertextException") as peer:
        keys = KmsKeys("alias/credentials", peer.url)
        with pytest.raises(SealError) as caught:
            keys.unwrap(wrapped_by("alias"), context())

    assert type(caught.value) is SealError
    assert peer.calls == ["Decrypt"]


def test_an_alias_that_points_elsewhere_is_tried_and_then_named_as_missing():
    with troubled_kms(400, "IncorrectKeyException") as peer:
        keys = KmsKeys("alias/new", peer.url, previous=["alias/old", "an-id"])
        with pytest.raises(KeyMissing, match="KMS_PREVIOUS_KEY_IDS"):
            keys.unwrap(wrapped_by("somebody"), context())

    assert peer.calls == ["Decrypt", "Decrypt"]


def wrapped_by(arn: str) -> str:
    return b64encode(b"K1" + len(arn).to_bytes(2, "big") + arn.encode() + bytes(100)).decode()


def test_throttled_for_a_minute_cached_users_go_on_and_a_revoked_grant_counts_within_300_seconds():
    clock, mine = Clock(), a_binding()
    with troubled_kms(400, "ThrottlingException") as peer:
        with mock_aws():
            arn = new_key(boto3.client("kms", region_name=REGION))
            working = KmsKeys(arn)
            vault = vault_over(working, clock)
            key = vault.new_key(mine.user_id)
            sealed = vault.seal(Secret("value"), mine, key)
        working._made = None
        working._endpoint_url = peer.url

        for _ in range(60):
            clock.now += 1
            assert vault.open(sealed, mine, [key]).reveal() == "value"
        assert peer.calls == []
        with pytest.raises(Unavailable):
            vault.new_key(uuid4())
        peer.error = (400, "AccessDeniedException")
        clock.now += 240
        with pytest.raises(Unavailable):
            vault.open(sealed, mine, [key])


def test_even_at_debug_level_no_log_holds_a_data_key(kms, caplog):
    caplog.set_level(logging.DEBUG)
    keys, mine = KmsKeys(new_key(kms)), context()

    plaintext, wrapped = keys.generate(mine)
    keys.unwrap(wrapped, mine)

    assert "botocore" in caplog.text
    for form in (b64encode(plaintext).decode(), plaintext.hex(), repr(plaintext)):
        assert form not in caplog.text
