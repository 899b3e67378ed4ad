"""Settings: one frozen value, read once from the environment. A bad start names everything that is wrong together."""

from __future__ import annotations

import ipaddress
import json
import os
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from chalicelib.model import Secret

STDIO_POLICIES = ("off", "catalogue", "any")
#: Of every local stack of Supabase.
LOCAL_JWT_SECRET = "super-secret-jwt-token-with-at-least-32-characters-long"  # noqa: S105 - public
#: Linux connects 0.0.0.0, :: and IPv4-mapped addresses to loopback too.
LOCAL_ONLY_NETWORKS = (
    "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "::/127", "::ffff:0:0/96", "fe80::/10",
    "64:ff9b::/96", "2002::/16", "fd00:ec2::/32",  # forms that hold an IPv4 address, and AWS's metadata
)  # fmt: skip
#: What may be kept in AWS Systems Manager instead of the environment: NAME_PARAMETER then says where.
SECRETS = ("SUPABASE_SECRET_KEY", "SUPABASE_JWT_SECRET")


class BadSettings(Exception):
    """The process cannot start; the message lists every setting to mend, never a value."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("Cannot start. Mend these settings:\n" + "\n".join(f"  - {line}" for line in problems))


@dataclass(frozen=True)
class Settings:
    """Times are seconds unless the name says otherwise. `docs/operations.md` describes each setting."""

    supabase_url: str
    supabase_publishable_key: str
    supabase_secret_key: Secret
    rest_url: str
    jwks_url: str
    jwt_issuer: str
    jwt_secret: Secret | None
    jwt_issuer_optional: bool
    allowed_origins: tuple[str, ...]
    environment: str
    kms_key_id: str | None
    kms_previous_key_ids: tuple[str, ...]
    kms_endpoint_url: str | None
    local_key_file: str
    egress_allow: tuple[str, ...]
    mcp_stdio: str
    stdio_runner_function: str | None
    tests_per_minute: int
    tests_per_day: int
    check_connect_s: float
    check_total_s: float
    check_interval_s: int
    check_backoff_cap_s: int
    sweep_queue_url: str | None
    sweep_batch: int
    sweep_lease_s: int
    sweep_work: int
    sweep_slow: int
    sweep_per_host: int
    metrics_days: int
    logs_days: int
    on_lambda: bool


@dataclass
class _Reader:
    """Collects problems instead of stopping at the first."""

    env: Mapping[str, str]
    problems: list[str] = field(default_factory=list)

    def text(self, name: str, default: str | None = None) -> str:
        value = self.env.get(name, "").strip()
        if not value and default is None:
            self.problems.append(f"{name} is missing")
        return value or default or ""

    def number(self, name: str, default: float, low: float, high: float) -> float:
        raw = self.env.get(name, "").strip()
        try:
            value = float(raw) if raw else default
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            self.problems.append(f"{name} must be a number from {low:g} to {high:g}")
            return default
        return value

    def url(self, name: str, default: str | None = None) -> str:
        value = self.text(name, default).rstrip("/")
        if value and not _is_plain_url(value):
            self.problems.append(f"{name} must be an http(s) URL without credentials, query or fragment")
        elif self.env.get("AWS_LAMBDA_FUNCTION_NAME") and value.startswith("http://"):
            # Keys and tokens go there, or stay on the machine.
            self.check(urlsplit(value).hostname == "127.0.0.1", f"{name} must be https on Lambda")
        return value

    def check(self, holds: bool, problem: str) -> None:
        if not holds:
            self.problems.append(problem)


def _is_plain_url(value: str) -> bool:
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https")
        and bool(parts.hostname)
        and "@" not in parts.netloc
        and not parts.query
        and not parts.fragment
    )


def _networks(reader: _Reader, on_lambda: bool) -> tuple[str, ...]:
    names = _list(reader, "EGRESS_ALLOW")
    for name in names:
        try:
            network = ipaddress.ip_network(name)
        except ValueError:
            reader.problems.append("EGRESS_ALLOW must be a comma-separated list of networks such as 10.1.0.0/16")
            continue
        opened = [ipaddress.ip_network(local) for local in LOCAL_ONLY_NETWORKS]
        if on_lambda and any(net.version == network.version and net.overlaps(network) for net in opened):
            reader.problems.append(
                "EGRESS_ALLOW opens loopback or link-local, which is refused on Lambda: "
                "Lambda's runtime API and the cloud's metadata listen there"
            )
    return names


def _read_keys(reader: _Reader, on_lambda: bool) -> tuple[str | None, str]:
    kms_key_id = reader.text("KMS_KEY_ID", "") or None
    local_key_file = reader.text("LOCAL_KEY_FILE", "")
    reader.check(
        bool(kms_key_id) != bool(local_key_file),
        "set exactly one of KMS_KEY_ID (a KMS key id, ARN or alias) and LOCAL_KEY_FILE (local runs only)",
    )
    reader.check(not (on_lambda and local_key_file), "LOCAL_KEY_FILE is refused on Lambda: set KMS_KEY_ID instead")
    return kms_key_id, local_key_file


def read_settings(env: Mapping[str, str] | None = None) -> Settings:
    """Read and check every setting. Raises :class:`BadSettings` with all that is wrong."""
    env = os.environ if env is None else env
    reader = _Reader(env)
    on_lambda = bool(env.get("AWS_LAMBDA_FUNCTION_NAME"))
    supabase_url = reader.url("SUPABASE_URL")
    kms_key_id, local_key_file = _read_keys(reader, on_lambda)
    mcp_stdio, runner = _read_stdio(reader, on_lambda)
    jwt_secret = reader.text("SUPABASE_JWT_SECRET", "")
    reader.check(not jwt_secret or len(jwt_secret) >= 32, "SUPABASE_JWT_SECRET must have 32 characters or more")
    reader.check(not (on_lambda and jwt_secret == LOCAL_JWT_SECRET), "SUPABASE_JWT_SECRET is the one that all know")
    issuer_optional = _flag(reader, "SUPABASE_JWT_ISSUER_OPTIONAL")
    reader.check(not (on_lambda and issuer_optional), "SUPABASE_JWT_ISSUER_OPTIONAL is refused on Lambda")
    settings = Settings(
        supabase_url=supabase_url,
        supabase_publishable_key=_key(reader, "SUPABASE_PUBLISHABLE_KEY", "sb_publishable_", "anon"),
        supabase_secret_key=Secret(_key(reader, "SUPABASE_SECRET_KEY", "sb_secret_", "service_role")),
        rest_url=reader.url("SUPABASE_REST_URL", f"{supabase_url}/rest/v1"),
        jwks_url=reader.url("SUPABASE_JWKS_URL", f"{supabase_url}/auth/v1/.well-known/jwks.json"),
        jwt_issuer=reader.text("SUPABASE_JWT_ISSUER", f"{supabase_url}/auth/v1"),
        jwt_secret=Secret(jwt_secret) if jwt_secret else None,
        jwt_issuer_optional=issuer_optional,
        allowed_origins=_read_origins(reader),
        environment=reader.text("APP_ENV", "local"),
        kms_key_id=kms_key_id,
        kms_previous_key_ids=_list(reader, "KMS_PREVIOUS_KEY_IDS"),
        kms_endpoint_url=reader.url("KMS_ENDPOINT_URL", "") or None,
        local_key_file=local_key_file,
        egress_allow=_networks(reader, on_lambda),
        mcp_stdio=mcp_stdio,
        stdio_runner_function=runner,
        tests_per_minute=int(reader.number("TESTS_PER_MINUTE", 20, 1, 10_000)),
        tests_per_day=int(reader.number("TESTS_PER_DAY", 500, 1, 1_000_000)),
        check_connect_s=reader.number("CHECK_CONNECT_S", 3, 0.1, 10),
        check_total_s=reader.number("CHECK_TOTAL_S", 10, 1, 25),
        check_interval_s=int(reader.number("CHECK_INTERVAL_S", 300, 60, 86_400)),
        check_backoff_cap_s=int(reader.number("CHECK_BACKOFF_CAP_S", 21_600, 60, 604_800)),
        sweep_queue_url=reader.url("SWEEP_QUEUE_URL", "") or None,
        sweep_batch=int(reader.number("SWEEP_BATCH", 500, 1, 2_000)),
        sweep_lease_s=int(reader.number("SWEEP_LEASE_S", 60, 20, 900)),
        sweep_work=int(reader.number("SWEEP_WORK", 64, 1, 1_000)),
        sweep_slow=int(reader.number("SWEEP_SLOW", 512, 0, 10_000)),
        sweep_per_host=int(reader.number("SWEEP_PER_HOST", 8, 1, 100)),
        metrics_days=int(reader.number("METRICS_DAYS", 30, 1, 3_650)),
        logs_days=int(reader.number("LOGS_DAYS", 90, 1, 3_650)),
        on_lambda=on_lambda,
    )
    reader.check(
        settings.sweep_lease_s >= settings.check_total_s + 10,
        "SWEEP_LEASE_S must be 10 or more above CHECK_TOTAL_S: a check that could outlast its lease is never begun",
    )
    if reader.problems:
        raise BadSettings(reader.problems)
    return settings


def _read_stdio(reader: _Reader, on_lambda: bool) -> tuple[str, str | None]:
    """The policy on commands, and the function that runs them."""
    mcp_stdio = reader.text("MCP_STDIO", "off")
    reader.check(mcp_stdio in STDIO_POLICIES, "MCP_STDIO must be one of off, catalogue, any")
    reader.check(not (on_lambda and mcp_stdio == "any"), "MCP_STDIO=any is refused on Lambda: it runs commands")
    runner = reader.text("STDIO_RUNNER_FUNCTION", "") or None
    reader.check(
        runner is not None or not (on_lambda and mcp_stdio == "catalogue"),
        "MCP_STDIO=catalogue needs STDIO_RUNNER_FUNCTION on Lambda: commands do not run where secrets are",
    )
    return mcp_stdio, runner


def _read_origins(reader: _Reader) -> tuple[str, ...]:
    origins = tuple(part.strip().rstrip("/") for part in reader.text("ALLOWED_ORIGINS", "").split(",") if part.strip())
    reader.check(
        all(_is_plain_url(origin) and urlsplit(origin).path == "" for origin in origins),
        "ALLOWED_ORIGINS must be a comma-separated list of origins such as https://app.example.com",
    )
    return origins


def parameters_of(env: Mapping[str, str]) -> dict[str, str]:
    """The secrets that are kept in parameters, with the names of those. Raises :class:`BadSettings` for one that is
    given in plain as well: the two would differ one day."""
    kept = {name: env.get(f"{name}_PARAMETER", "").strip() for name in SECRETS}
    kept = {name: parameter for name, parameter in kept.items() if parameter}
    if twice := [name for name in kept if env.get(name)]:
        raise BadSettings([f"set either {name} or {name}_PARAMETER, not both" for name in twice])
    return kept


def _key(reader: _Reader, name: str, prefix: str, role: str) -> str:
    """A key of the new form, or one of the old, which is a token and says whose it is."""
    value = reader.text(name)
    if not value:
        return value
    if not (value.startswith((prefix, "eyJ")) and value.isascii() and value.isprintable() and " " not in value):
        reader.problems.append(f"{name} must be a Supabase key that starts with {prefix} or eyJ")
    elif value.startswith("eyJ") and _role_in(value) not in (role, None):
        reader.problems.append(f"{name} is the key of another role: it must be that of {role}")
    return value


def _role_in(token: str) -> object:
    """The role that a token names; None if it cannot be read, which the database will say."""
    payload = token.split(".")[1] if token.count(".") == 2 else ""
    try:
        claims = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except ValueError:
        return None
    return claims.get("role") if isinstance(claims, dict) else None


def _list(reader: _Reader, name: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in reader.text(name, "").split(",") if part.strip())


def _flag(reader: _Reader, name: str) -> bool:
    value = reader.text(name, "false").lower()
    reader.check(value in ("true", "false"), f"{name} must be true or false")
    return value == "true"
