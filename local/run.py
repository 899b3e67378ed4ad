"""`make run`: Supabase and the app on this machine until Ctrl-C."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

from chalicelib.settings import BadSettings
from local.accounts import DEMO_EMAIL, sign_up
from local.api import local_settings, serve
from local.processes import CannotStart, Stopped, StopRequest, require_free
from local.state import STATE, exclusive
from local.supabase import LocalSupabase
from local.sweep import Sweeps

API_PORT, SUPABASE_PORT = 8000, 54321
CHOOSES_SUPABASE = ("SUPABASE_URL", "SUPABASE_PUBLISHABLE_KEY", "SUPABASE_SECRET_KEY")


def say(text: str) -> None:
    print(text, flush=True)


def main(state: Path = STATE, api_port: int = API_PORT, supabase_port: int = SUPABASE_PORT) -> int:
    """Return 0 after Ctrl-C or SIGTERM, 1 if something could not be started; either way nothing is left running."""
    stopping = StopRequest()
    try:
        with ExitStack() as started, suppress(Stopped):
            _start(state, api_port, supabase_port, started, stopping)
            stopping.wait()
    except (CannotStart, BadSettings) as problem:
        print(problem, file=sys.stderr)
        return 1
    say("Stopped.")
    return 0


def _start(state: Path, api_port: int, supabase_port: int, started: ExitStack, stopping: StopRequest) -> None:
    require_free(api_port, "the API")
    os.environ.update(local_settings(state, os.environ))
    if any(name in os.environ for name in CHOOSES_SUPABASE):
        welcome = _with_own_supabase(api_port)
    else:
        require_free(supabase_port, "Supabase")
        started.enter_context(exclusive(state))
        welcome = _with_local_supabase(LocalSupabase(state, supabase_port), api_port, started, stopping)
    stopping.check()
    started.callback(serve(api_port).stop)
    started.callback(Sweeps(say).stop)
    say(welcome)


def _with_local_supabase(supabase: LocalSupabase, api_port: int, started: ExitStack, stopping: StopRequest) -> str:
    say("Starting Postgres and Supabase …")
    started.callback(supabase.stop)
    supabase.start()
    stopping.check()
    os.environ.update(supabase.environment())
    keys = supabase.keys
    sign_up(supabase.url, keys.publishable_key, DEMO_EMAIL, keys.demo_password)
    return f"""
The integration system is running.

  API              http://127.0.0.1:{api_port}   (GET /openapi.json describes it)
  Supabase         {supabase.url}
  publishable key  {keys.publishable_key}
  demo user        {DEMO_EMAIL}
  password         {keys.demo_password}

Try it: this signs in, then lists the demo user's integrations.

{_curl(supabase.url, keys.publishable_key, DEMO_EMAIL, keys.demo_password, api_port)}

Ctrl-C stops everything. The data stays in .local/ until `make clean`.
"""


def _with_own_supabase(api_port: int) -> str:
    url, key = os.environ.get("SUPABASE_URL", ""), os.environ.get("SUPABASE_PUBLISHABLE_KEY", "")
    return f"""
The integration system is running, with the Supabase that your environment names.

  API              http://127.0.0.1:{api_port}   (GET /openapi.json describes it)
  Supabase         {url}

Its database needs our migrations and seed (`supabase db push --include-seed`).
Try it with an account of yours: this signs in, then lists your integrations.

{_curl(url, key, "YOUR EMAIL", "YOUR PASSWORD", api_port)}

Ctrl-C stops the API.
"""


def _curl(supabase_url: str, key: str, email: str, password: str, api_port: int) -> str:
    return f"""\
  TOKEN=$(curl -s '{supabase_url}/auth/v1/token?grant_type=password' \\
    -H 'apikey: {key}' -H 'Content-Type: application/json' \\
    -d '{{"email": "{email}", "password": "{password}"}}' \\
    | python3 -c 'import json, sys; print(json.load(sys.stdin)["access_token"])') && \\
  curl -s http://127.0.0.1:{api_port}/integrations -H "Authorization: Bearer $TOKEN\""""


if __name__ == "__main__":
    sys.exit(main())
