"""Webhook recipes are data: with a small interpreter, they reproduce the signatures that vendors publish."""

from __future__ import annotations

import hmac
import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha1, sha256, sha512
from pathlib import Path
from typing import Any

import pytest

from catalogue.__main__ import FOLDER
from catalogue.reading import read

RECIPES: dict[str, Any] = {
    path.stem: data["webhooks"]
    for path in sorted(FOLDER.glob("*.yaml"))
    if "webhooks" in (data := read(path, path.name).data)
}
#: The entry whose recipe must reproduce the deliveries of each scheme. Twilio's are left to a real verifier: it signs
#: one of several spellings of the URL.
SCHEMES = {
    "stripe": "stripe",
    "github": "github",
    "slack": "slack",
    "shopify": "shopify",
    "zendesk": "zendesk",
    "svix": "resend",
    "standard-webhooks": "replicate",
}
DELIVERIES: list[dict[str, Any]] = [
    case
    for case in json.loads((Path(__file__).parent / "cases/webhook_vectors.json").read_text(encoding="utf-8"))
    if case["provider"] in SCHEMES
]
HASHES = {"hmac-sha1": sha1, "hmac-sha256": sha256, "hmac-sha512": sha512}


def parts(part: Mapping[str, Any] | None, headers: Mapping[str, str]) -> list[str]:
    """The values that stand there, without what stands before each; what lacks its prefix is none."""
    text = headers.get(part["header"].lower()) if part else None
    if part is None or text is None:
        return []
    if "key" in part:
        pairs = (item.strip().partition("=") for item in text.split(part.get("separator", ",")))
        found = [value for key, _, value in pairs if key == part["key"]]
    else:
        found = text.split(part["separator"]) if "separator" in part else [text]
    prefix = part.get("prefix", "")
    return [value.removeprefix(prefix) for value in found if value.startswith(prefix)]


def accepts(recipe: Mapping[str, Any], delivery: Mapping[str, Any]) -> bool:
    """Whether a delivery is signed as the recipe says, and not too old or from the future."""
    headers = {name.lower(): value for name, value in delivery["headers"].items()}
    body = delivery["body"] if delivery["body"] is not None else delivery["body_repeat"][0] * delivery["body_repeat"][1]
    values = {"body": body}
    for name in ("timestamp", "id"):
        if name in recipe:
            found = parts(recipe[name], headers)
            if not found:
                return False
            values[name] = found[0]
    tolerance = recipe.get("tolerance_s", delivery.get("tolerance"))
    if "timestamp" in values and tolerance is not None:
        is_iso = recipe.get("timestamp_format") == "iso8601"
        sent = datetime.fromisoformat(values["timestamp"]).timestamp() if is_iso else int(values["timestamp"])
        if abs(delivery["now"] - sent) > tolerance:
            return False
    secret = delivery["secret"].removeprefix(recipe.get("secret_prefix", ""))
    key = b64decode(secret) if recipe.get("secret_encoding") == "base64" else secret.encode()
    digest = hmac.new(key, recipe["signed"].format(**values).encode(), HASHES[recipe["algorithm"]]).digest()
    expected = digest.hex() if recipe["encoding"] == "hex" else b64encode(digest).decode()
    return any(hmac.compare_digest(expected, given) for given in parts(recipe["signature"], headers))


@pytest.mark.parametrize("case", DELIVERIES, ids=lambda case: f"{case['id']} {case['provider']} {case['name']}")
def test_the_recipe_judges_a_published_delivery_as_the_vendor_does(case: dict[str, Any]) -> None:
    assert accepts(RECIPES[SCHEMES[case["provider"]]], case) is case["valid"]


def test_every_scheme_has_deliveries_of_both_kinds() -> None:
    late = next(case for case in DELIVERIES if case["id"] == "wh-13")
    in_time = {**late, "now": int(late["headers"]["webhook-timestamp"]), "valid": True}
    assert accepts(RECIPES["replicate"], in_time)
    seen = {(case["provider"], case["valid"]) for case in [*DELIVERIES, in_time]}
    assert {scheme for scheme, _ in seen} == set(SCHEMES)
    assert {scheme for scheme, valid in seen if valid} == set(SCHEMES)


@pytest.mark.parametrize("slug", [slug for slug, recipe in RECIPES.items() if recipe["algorithm"] in HASHES])
def test_a_recipe_is_complete_enough_to_sign_and_verify(slug: str) -> None:
    recipe = RECIPES[slug]
    values = {"body": "{}", "timestamp": "1614265330", "id": "m1", "url": "https://a.example/hook", "sorted_params": ""}
    if recipe.get("timestamp_format") == "iso8601":
        values["timestamp"] = "2021-03-25T05:09:27+00:00"
    text = recipe["signed"].format(**values)
    digest = hmac.new(b"secret", text.encode(), HASHES[recipe["algorithm"]]).digest()
    written = digest.hex() if recipe["encoding"] == "hex" else b64encode(digest).decode()
    headers: dict[str, list[str]] = {}
    for name, value in (("timestamp", values["timestamp"]), ("id", values["id"]), ("signature", written)):
        if name in recipe:
            part = recipe[name]
            piece = f"{part['key']}={value}" if "key" in part else part.get("prefix", "") + value
            headers.setdefault(part["header"], []).append(piece)
    signature = recipe["signature"]
    joined = {name: signature.get("separator", ",").join(found) for name, found in headers.items()}

    assert parts(signature, {name.lower(): value for name, value in joined.items()}) == [written]
    for name in ("timestamp", "id"):
        assert (f"{{{name}}}" in recipe["signed"]) is (name in recipe), f"{name} is signed, or it is not told"
        if name in recipe:
            assert parts(recipe[name], {key.lower(): value for key, value in joined.items()}) == [values[name]]


def test_the_other_recipes_are_a_shared_token_and_a_public_key() -> None:
    others = {slug: recipe["algorithm"] for slug, recipe in RECIPES.items() if recipe["algorithm"] not in HASHES}

    assert set(others.values()) <= {"token", "ed25519"}
    assert others["gitlab"] == "token"
