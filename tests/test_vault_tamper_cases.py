"""Each case of `cases/crypto_tamper_cases.json` names the tests that try it and its family."""

import ast
import json
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CASES = {case["id"]: case for case in json.loads((HERE / "cases" / "crypto_tamper_cases.json").read_text())}

TRIED_BY = {
    "tamper-03": ["test_every_single_bit_is_guarded", "test_every_single_bit_of_the_stored_text_is_guarded"],
    "tamper-05": ["test_no_beginning_of_a_value_opens"],
    "tamper-07": ["test_a_shortened_tag_is_no_tag"],
    "tamper-08": ["test_what_was_never_sealed_does_not_open", "test_no_rubbish_makes_another_error"],
    "tamper-09": ["test_a_value_opens_in_its_own_place_only"],
    "tamper-10": [
        "test_another_users_value_does_not_open_whatever_is_forged",
        "test_a_row_that_lies_about_its_owner_does_not_open",
        "test_kms_enforces_every_part_of_the_context",
    ],
    "tamper-12": ["test_a_value_opens_in_its_own_place_only", "test_two_places_never_share_an_encoding"],
    "tamper-13": ["test_a_value_opens_in_its_own_place_only"],  # a field is a credential type here: each has its row
    "tamper-17": ["test_only_version_1_and_algorithm_1_are_known"],
    "tamper-18": ["test_plaintext_in_the_column_is_not_returned"],
    "tamper-19": ["test_an_older_value_of_the_same_row_is_called_stale"],
    "tamper-24": [
        "test_throttled_for_a_minute_cached_users_go_on_and_a_revoked_grant_counts_within_300_seconds",
        "test_cached_users_go_on_while_the_key_service_is_away_until_their_keys_age_out",
    ],
    "tamper-25": ["test_another_users_question_misses_the_cache_and_gets_nothing"],
    "tamper-26": ["test_throttled_for_a_minute_cached_users_go_on_and_a_revoked_grant_counts_within_300_seconds"],
    "tamper-28": ["test_a_credential_saved_while_its_key_is_replaced_stays_as_its_owner_saved_it"],
    "tamper-31": [
        "test_nonces_differ_between_copies_of_one_process",
        "test_nonces_come_from_the_system_and_from_no_generator_with_a_state",
    ],
}


def written_tests() -> set[str]:
    modules = [ast.parse(path.read_text()) for path in HERE.glob("test_*.py")]
    return {node.name for module in modules for node in ast.walk(module) if isinstance(node, ast.FunctionDef)}


def test_no_case_is_left_out():
    assert set(TRIED_BY) == set(CASES)


@pytest.mark.parametrize("case", TRIED_BY)
def test_the_tests_of_each_case_exist(case):
    assert set(TRIED_BY[case]) <= written_tests()
