"""A Secret shows itself to `reveal()` and to nobody else."""

import copy
import io
import json
import logging
import pickle
import pprint
import string
import sys
import traceback
from base64 import b64encode
from dataclasses import asdict, dataclass
from urllib.parse import quote

import pydantic
import pytest

from chalicelib.errors import AppError, Invalid, KeyMissing, SealError, StaleVersion, Unavailable
from chalicelib.model import AuthMethod, Secret
from chalicelib.vault.inspection import inspect_credentials
from tests.support.vaults import CountingKeys, a_binding, a_vault

CANARY = "canary/7d41+c5e09b2f≠of the secret tests"


@pytest.fixture
def secret():
    return Secret(CANARY)


def hides(text: str) -> bool:
    """Whether the canary, or a good part of it, is in the text in any usual encoding."""
    forms = [CANARY, json.dumps(CANARY)[1:-1], quote(CANARY), quote(CANARY, safe=""), repr(CANARY.encode())[2:-1]]
    forms += [b64encode(CANARY.encode()).decode().rstrip("="), CANARY.encode().hex(), "7d41+c5e09b2f"]
    return not any(form in text for form in forms)


def test_the_search_itself_finds_what_it_should():
    for shown in (
        CANARY,
        json.dumps({"a": CANARY}),
        f"x={quote(CANARY)}",
        repr(CANARY.encode()),
        CANARY.encode().hex(),
    ):
        assert not hides(f"before {shown} behind")
    assert hides("Secret(…)")


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        ascii,
        pprint.pformat,
        lambda secret: f"{secret} {secret!s} {secret!r} {secret!a} {secret=}",
        lambda secret: f"{secret:}",
        lambda secret: "{0} {0!r}".format(secret),  # noqa: UP032
        lambda secret: "%s %r" % (secret, secret),  # noqa: UP031
        lambda secret: string.Template("$a").substitute(a=secret),
        lambda secret: f"{[secret]} {(secret,)} { {'a': secret} } { {secret} }",
        lambda secret: str(dir(secret)),
        lambda secret: str(sys.getsizeof(secret)),
        lambda secret: repr(secret.__reduce_ex__),
        lambda secret: str(hash(secret)),
    ],
)
def test_no_way_of_printing_shows_it(secret, show):
    assert hides(show(secret))


@pytest.mark.parametrize(
    "use",
    [
        pickle.dumps,
        lambda secret: pickle.dumps({"a": [secret]}),
        lambda secret: pickle.dumps(secret, protocol=0),
        copy.copy,
        copy.deepcopy,
        lambda secret: copy.deepcopy({"a": secret}),
        json.dumps,
        lambda secret: json.dumps({"a": secret}),
        lambda secret: json.dumps({secret: 1}),
        vars,
        iter,
        len,
        int,
        bytes,
        lambda secret: f"{secret:>40}",
        lambda secret: secret + "x",
        lambda secret: "x" + secret,
        lambda secret: "".join([secret]),
        lambda secret: secret[0],
        lambda secret: secret < secret,
        lambda secret: CANARY[:3] in secret,
        lambda secret: "abc".index(secret),
        lambda secret: setattr(secret, "other", 1),
        lambda secret: asdict(_Holder(secret)),
        lambda secret: io.StringIO().write(secret),
    ],
)
def test_what_would_copy_it_elsewhere_fails_without_showing_it(secret, use):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        use(secret)

    assert hides("".join(traceback.format_exception(caught.value)))
    assert hides(repr(caught.value.args))


@dataclass(frozen=True)
class _Holder:
    secret: Secret


def test_a_dataclass_that_holds_one_shows_nothing(secret):
    assert hides(f"{_Holder(secret)!r}")


def test_secrets_are_compared_and_hashed_by_value():
    assert Secret("a") == Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a"), "a"}) == 2
    assert Secret("a")
    assert not Secret("")


def test_a_hint_is_the_last_four_characters_of_more_than_twelve():
    assert Secret("0123456789abc").hint() == "9abc"
    assert Secret("0123456789ab").hint() is None
    assert Secret("").hint() is None


def test_logs_show_nothing_at_any_level(secret, caplog):
    caplog.set_level(logging.DEBUG)
    log = logging.getLogger("test")
    log.debug("%s %r", secret, secret)
    log.info({"a": secret}, extra={"secret": secret})
    try:
        raise RuntimeError(f"with {secret}")
    except RuntimeError:
        log.exception("failed for %s", [secret])

    assert "Secret(…)" in caplog.text
    assert hides(caplog.text)
    assert hides(" ".join(str(vars(record)) for record in caplog.records))


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    secret: Secret
    number: int = 0


def test_pydantic_shows_nothing_in_models_errors_and_dumps(secret):
    model = _Model(secret=secret)
    with pytest.raises(pydantic.ValidationError) as of_type:
        _Model(secret=secret, number=secret)
    with pytest.raises(pydantic.ValidationError) as of_other:
        _Model(secret=secret, number="x")
    with pytest.raises(pydantic.ValidationError) as of_mapping:
        _Model.model_validate({"secret": {"nested": secret}})
    with pytest.raises(Exception, match="serialize") as of_json:
        model.model_dump_json()

    assert hides(f"{model!r} {model} {model.model_dump()}")
    for caught in (of_type, of_other, of_mapping):
        error = caught.value
        assert hides(f"{error} {error!r} {error.errors()}")
    assert hides(f"{of_json.value}")


def test_chains_of_exceptions_show_nothing(secret):
    def chained() -> None:
        try:
            raise KeyError(secret)
        except KeyError as cause:
            raise Unavailable("down") from cause

    with pytest.raises(Unavailable) as caught:
        chained()

    assert hides(everything_about(caught.value))


def everything_about(error: BaseException) -> str:
    """The error with all causes and contexts, also suppressed ones, and what each carries."""
    parts, seen = [], set()
    queue: list[BaseException | None] = [error]
    while queue:
        each = queue.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        parts.append(f"{each!r} {each} {each.args!r} {vars(each)!r}")
        parts.append(f"{getattr(each, 'object', '')!r} {getattr(each, 'doc', '')!r}")
        queue += [each.__cause__, each.__context__]
    return "\n".join(parts) + "".join(traceback.format_exception(error))


def test_no_failure_of_the_vault_carries_it(tmp_path):
    """Half characters make UnicodeEncodeError, which holds the whole text: not even as a suppressed context."""
    vault, mine = a_vault(tmp_path), a_binding(row_version=3)
    key = vault.new_key(mine.user_id)
    stale = vault.seal(Secret(CANARY), a_binding(**{**vars(mine), "row_version": 2}), key)
    sealed = vault.seal(Secret(CANARY), mine, key)
    failing = [
        (Invalid, lambda: vault.seal(Secret(f"{CANARY}\ud800"), mine, key)),
        (Invalid, lambda: vault.seal(Secret(CANARY * 5_000), mine, key)),
        (ValueError, lambda: vault.seal(Secret(CANARY), a_binding(), key)),
        (SealError, lambda: vault.open(sealed, a_binding(user_id=mine.user_id), [key])),
        (SealError, lambda: vault.open(CANARY, mine, [key])),
        (StaleVersion, lambda: vault.open(stale, mine, [key])),
        (KeyMissing, lambda: vault.open(sealed, mine, [])),
    ]
    for kind, attempt in failing:
        with pytest.raises(kind) as caught:
            attempt()
        assert hides(everything_about(caught.value))


def test_nothing_is_sealed_in_a_weaker_way_when_the_key_service_is_away(tmp_path):
    mine = a_binding()
    provider = CountingKeys(a_vault(tmp_path)._provider)
    vault = a_vault(tmp_path)
    key = vault.new_key(mine.user_id)
    away = type(vault)(provider, app="integrations", environment="test")
    provider.failure = Unavailable("The key service is busy.", 5)

    with pytest.raises(Unavailable) as caught:
        away.seal(Secret(CANARY), mine, key)
    assert hides(everything_about(caught.value))


@pytest.mark.parametrize("method", list(AuthMethod))
@pytest.mark.parametrize("end", ["", "\n", "\x00", "\ud800", "\u20ac", "x" * 70_000], ids=repr)
def test_no_inspection_carries_it(method, end):
    from chalicelib.vault.inspection import allowed_credential_types

    for kind in [*allowed_credential_types(method), "env.A", "header.A", "env.PATH", "nonsense", CANARY[:3]]:
        for value in (CANARY + end, f"-----BEGIN PRIVATE KEY-----\n{CANARY}{end}", f"{CANARY}.{CANARY}.{CANARY}{end}"):
            try:
                inspect_credentials(method, {kind: Secret(value)})
            except AppError as error:
                assert hides(everything_about(error) + repr(getattr(error, "errors", "")))  # noqa: PT017
