"""The secrets of one machine's local stack: made on its first start, kept in one file that only its owner reads."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from local.processes import open_private


def _random(prefix: str = "") -> str:
    return prefix + secrets.token_urlsafe(32)


@dataclass(frozen=True)
class Keys:
    database_password: str = field(default_factory=_random, repr=False)
    jwt_secret: str = field(default_factory=_random, repr=False)
    publishable_key: str = field(default_factory=lambda: _random("sb_publishable_"), repr=False)
    secret_key: str = field(default_factory=lambda: _random("sb_secret_"), repr=False)
    demo_password: str = field(default_factory=lambda: secrets.token_urlsafe(12), repr=False)


def load_keys(file: Path) -> Keys:
    """The keys in ``file``, which is made if it is not there."""
    if not file.exists():
        unfinished = file.with_suffix(".new")
        with open_private(unfinished) as output:
            output.write(json.dumps(asdict(Keys()), indent=2).encode())
        os.replace(unfinished, file)
    stored = json.loads(file.read_text())
    return Keys(**{entry.name: stored[entry.name] for entry in fields(Keys)})
