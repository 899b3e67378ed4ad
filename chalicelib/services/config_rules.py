"""What a connection config may hold: names, sizes, texts and secret-looking keys. Pure; knows no destination.

Every function returns pairs of (field, message), where a field is a dotted path from ``connection_config`` on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

Problem = tuple[str, str]

ROOT = "connection_config"
MAX_CONFIG_BYTES = 16_384
MAX_DEPTH = 8
MAX_HEADERS = 32
MAX_HEADER_VALUE = 4_096
MAX_ENV = 64
MAX_ENV_VALUE = 8_192
MAX_ARGS = 128
MAX_ARG = 4_096
MAX_URL = 2_048

#: The database refuses the same keys (``private.has_secret_key``).
SECRET_KEY_PATTERN = re.compile(
    r"(token|secret|password|passwd|passphrase|authorization|api[-_]?key|access[-_]?key|private[-_]?key"
    r"|signing[-_]?key|credentials?|cookie)$",
    re.IGNORECASE,
)

#: A credential of every auth method: it proves what the provider sends, and is never sent to where we connect.
WEBHOOK_SECRET = "webhook_secret"  # noqa: S105 - the name of a credential, not a value

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")

#: They frame the message, choose the server, or belong to the protocols that we speak ourselves.
_RESERVED_HEADERS_TEXT = """
    accept accept-encoding connection content-encoding content-length content-type cookie2 expect forwarded host
    http2-settings keep-alive last-event-id proxy-authenticate proxy-connection range te trailer trailers
    transfer-encoding upgrade via
"""
_RESERVED_HEADERS = frozenset(_RESERVED_HEADERS_TEXT.split())
_RESERVED_HEADER_PREFIXES = ("mcp-", "proxy-", "sec-", "x-forwarded-", ":")

#: They make a loader, a shell, a runtime or a package tool run other code, or send traffic elsewhere.
_DANGEROUS_ENV_TEXT = """
    ALL_PROXY BASHOPTS BASH_ENV CDPATH CLASSPATH COMSPEC CURL_CA_BUNDLE CURL_HOME DOTNET_STARTUP_HOOKS EDITOR ENV
    FTP_PROXY GCONV_PATH GLOBIGNORE HOME HOSTALIASES HTTPS_PROXY HTTP_PROXY IFS JAVA_TOOL_OPTIONS JDK_JAVA_OPTIONS
    LOCPATH NLSPATH NODE_EXTRA_CA_CERTS NODE_OPTIONS NODE_PATH NODE_REPL_EXTERNAL_MODULE
    NODE_TLS_REJECT_UNAUTHORIZED NODE_V8_COVERAGE NO_PROXY OPENSSL_CONF OPENSSL_MODULES PAGER PATH PERL5DB PERL5LIB
    PERL5OPT PERLLIB PHPRC PHP_INI_SCAN_DIR PROMPT_COMMAND PS4 REQUESTS_CA_BUNDLE RES_OPTIONS RUBYLIB RUBYOPT SHELL
    SHELLOPTS SSLKEYLOGFILE SSL_CERT_DIR SSL_CERT_FILE TEMP TMP TMPDIR VISUAL ZDOTDIR _JAVA_OPTIONS
"""
_DANGEROUS_ENV = frozenset(_DANGEROUS_ENV_TEXT.split())
_DANGEROUS_ENV_PREFIXES = (
    "AWS_LAMBDA_", "BASH_FUNC_", "BUN_", "CORECLR_", "COR_", "DENO_", "DYLD_", "GIT_", "LD_", "MALLOC_",
    "NPM_CONFIG_", "PIP_", "PYTHON", "UV_", "XDG_", "YARN_",
)  # fmt: skip


def walk(value: Any, path: str = ROOT) -> Iterator[tuple[str, str | None, Any]]:
    """Every node below ``value`` as (path, key or None for list items, value); stops below :data:`MAX_DEPTH`."""
    stack: list[tuple[str, Any, int]] = [(path, value, 0)]
    while stack:
        here, node, depth = stack.pop()
        if depth > MAX_DEPTH:
            continue
        if isinstance(node, Mapping):
            for key, child in node.items():
                yield f"{here}.{key}", str(key), child
                stack.append((f"{here}.{key}", child, depth + 1))
        elif isinstance(node, list | tuple):
            for index, child in enumerate(node):
                yield f"{here}[{index}]", None, child
                stack.append((f"{here}[{index}]", child, depth + 1))


def is_deep(value: Any) -> bool:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [child for node in level for child in _children(node)]
    return any(isinstance(node, Mapping | list | tuple) for node in level)


def _children(node: Any) -> list[Any]:
    if isinstance(node, Mapping):
        return list(node.values())
    return list(node) if isinstance(node, list | tuple) else []


def is_storable(text: str) -> bool:
    """Postgres stores neither NUL nor half of a surrogate pair."""
    return "\x00" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


def general_problems(config: Mapping[str, Any]) -> list[Problem]:
    """Size, depth, texts that cannot be stored, and keys that look like secrets, at any depth."""
    if is_deep(config):
        return [(ROOT, f"is nested deeper than {MAX_DEPTH} levels")]
    problems: list[Problem] = []
    for path, key, value in walk(config):
        texts = [text for text in (key, value) if isinstance(text, str)]
        if not all(is_storable(text) for text in texts):
            return [(ROOT, "holds a character that cannot be stored")]
        if key is not None and SECRET_KEY_PATTERN.search(key):
            problems.append((path, secret_advice(path, key)))
    try:
        size = len(json.dumps(config, ensure_ascii=False, allow_nan=False).encode())
    except (TypeError, ValueError):
        return [(ROOT, "must be plain JSON")]
    return problems if size <= MAX_CONFIG_BYTES else [(ROOT, f"is larger than {MAX_CONFIG_BYTES} bytes")]


def secret_advice(path: str, key: str) -> str:
    """Which credential to send instead of a secret-looking key."""
    for part, kind in ((f"{ROOT}.env.", "env"), (f"{ROOT}.headers.", "header")):
        if path.startswith(part):
            return f"looks like a secret: send it as the credential '{kind}.{key}', not in connection_config"
    return "looks like a secret: send it as a credential, not in connection_config"


def header_name_problem(name: str) -> str | None:
    """Why a header of this name may not be set, or None."""
    if not _HEADER_NAME.fullmatch(name):
        return "is not a header name"
    lowered = name.lower()
    if lowered in _RESERVED_HEADERS or lowered.startswith(_RESERVED_HEADER_PREFIXES):
        return "is a header that the connection sets itself"
    return None


def header_value_problem(value: str) -> str | None:
    if len(value) > MAX_HEADER_VALUE:
        return f"is longer than {MAX_HEADER_VALUE} characters"
    return None if _HEADER_VALUE.fullmatch(value) else "must be printable ASCII on one line"


def env_name_problem(name: str) -> str | None:
    """Why an environment variable of this name may not be set, or None."""
    if not _ENV_NAME.fullmatch(name):
        return "is not a name for an environment variable"
    upper = name.upper()
    if upper in _DANGEROUS_ENV or upper.startswith(_DANGEROUS_ENV_PREFIXES):
        return "is a variable that could make the command run other code"
    return None


def env_value_problem(value: str) -> str | None:
    if len(value) > MAX_ENV_VALUE:
        return f"is longer than {MAX_ENV_VALUE} characters"
    return "must not hold NUL" if "\x00" in value else None


def credential_name_problem(credential_type: str) -> str | None:
    """Why ``env.KEY`` or ``header.NAME`` may not be a credential's type, or None; other types always pass."""
    kind, dot, name = credential_type.partition(".")
    if not dot:
        return None
    if kind == "env":
        return env_name_problem(name)
    if kind == "header":
        return header_name_problem(name)
    return "must be a credential of the auth method, 'env.KEY' or 'header.NAME'"


def table_problems(config: Mapping[str, Any], part: str) -> list[Problem]:
    """What is wrong with ``env`` or ``headers``: a flat object of allowed names and text values."""
    table = config.get(part)
    if table is None:
        return []
    if not isinstance(table, Mapping):
        return [(f"{ROOT}.{part}", "must be an object of texts")]
    check_name, check_value, most = _TABLE_RULES[part]
    if len(table) > most:
        return [(f"{ROOT}.{part}", f"has more than {most} entries")]
    problems: list[Problem] = []
    for name, value in table.items():
        path = f"{ROOT}.{part}.{name}"
        if SECRET_KEY_PATTERN.search(str(name)):
            continue  # reported by general_problems, with better advice
        problem = check_name(str(name)) or (check_value(value) if isinstance(value, str) else "must be a text")
        if problem:
            problems.append((path, problem))
    return problems


_TABLE_RULES = {
    "env": (env_name_problem, env_value_problem, MAX_ENV),
    "headers": (header_name_problem, header_value_problem, MAX_HEADERS),
}


def args_problems(args: Any) -> list[Problem]:
    field = f"{ROOT}.args"
    if args is None:
        return []
    if not isinstance(args, list | tuple) or not all(isinstance(arg, str) for arg in args):
        return [(field, "must be a list of texts")]
    if len(args) > MAX_ARGS:
        return [(field, f"has more than {MAX_ARGS} entries")]
    return [
        (f"{field}[{index}]", f"must be a text without NUL of at most {MAX_ARG} characters")
        for index, arg in enumerate(args)
        if "\x00" in arg or len(arg) > MAX_ARG
    ]


def schema_problems(schema: Mapping[str, Any], config: Mapping[str, Any]) -> list[Problem]:
    """What the type's JSON Schema says. References to other documents are never fetched."""
    if not schema:
        return []
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import EMPTY_REGISTRY

    try:
        Draft202012Validator.check_schema(schema)
        errors = list(Draft202012Validator(schema, registry=EMPTY_REGISTRY).iter_errors(dict(config)))
    except (SchemaError, Unresolvable, re.error):
        return [(ROOT, "cannot be checked: the schema of this integration type is broken; tell the operator")]
    return list(dict.fromkeys(problem for error in errors[:20] for problem in _schema_error(error)))


def _schema_error(error: Any) -> list[Problem]:
    """jsonschema's own text repeats the value, which may be long or private: say the rule instead."""
    path = ROOT + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
    rule, name = error.validator_value, str(error.validator)
    if name == "required":
        return [(f"{path}.{key}", "is required") for key in rule if key not in error.instance]
    if name == "additionalProperties":
        known = error.schema.get("properties", {})
        return [
            (f"{path}.{key}", "is not known to this integration type") for key in error.instance if key not in known
        ]
    if name == "enum":
        return [(path, "must be one of " + ", ".join(str(choice) for choice in rule)[:200])]
    if name in ("pattern", "type"):
        return [(path, f"must {'match' if name == 'pattern' else 'be of type'} {rule}")]
    return [(path, f"breaks the rule {name} of this integration type")]
