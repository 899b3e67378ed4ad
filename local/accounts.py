"""People who sign up through Supabase Auth, as a frontend would do it."""

from __future__ import annotations

import httpx2

from local.processes import CannotStart

DEMO_EMAIL = "demo@example.com"


def sign_up(supabase_url: str, publishable_key: str, email: str, password: str) -> str:
    """Create the account, or sign in to it if it exists. Return an access token."""
    headers = {"apikey": publishable_key}
    account = {"email": email, "password": password}
    with httpx2.Client(base_url=f"{supabase_url}/auth/v1", headers=headers, trust_env=False, timeout=15) as auth:
        for path in ("/token?grant_type=password", "/signup"):
            answer = auth.post(path, json=account)
            if answer.is_success and "access_token" in answer.json():
                return str(answer.json()["access_token"])
    raise CannotStart(f"Supabase Auth did not accept {email}: HTTP {answer.status_code} {answer.text[:200]}")
