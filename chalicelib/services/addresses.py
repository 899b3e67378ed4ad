"""Reading addresses strictly: URLs, hosts and URL templates. What two parsers could read differently is refused.

The guard on outbound connections decides which addresses may be reached; here it is only settled what an address *is*.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from chalicelib.services.config_rules import MAX_URL, ROOT, SECRET_KEY_PATTERN, Problem

DEFAULT_PORTS = {"http": 80, "https": 443, "ssh": 22}

_URL = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/?#]*)(?P<rest>[!-~]*)", re.IGNORECASE)
_AUTHORITY = re.compile(r"(?P<host>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?")
_HOST_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9.])?")
PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_SEGMENT = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,126}[A-Za-z0-9_])?")


def url_problem(value: Any) -> str | None:
    """Why this is not a URL to connect to, or None."""
    if value is None or value == "":
        return "is required: the address to connect to, such as https://mcp.example.com/mcp"
    if not isinstance(value, str) or len(value) > MAX_URL:
        return f"must be a URL of at most {MAX_URL} characters"
    match = _URL.fullmatch(value)
    if match is None or "\\" in value:
        return "must be a plain http or https URL such as https://mcp.example.com/mcp"
    if "@" in match["authority"]:
        return "must not hold a user name or password: send them as credentials"
    authority = _AUTHORITY.fullmatch(match["authority"])
    if authority is None or not is_host(authority["host"]) or not 1 <= int(authority["port"] or 1) <= 65_535:
        return "must name a host in ASCII (an international name in its xn-- form) and, if any, a port up to 65535"
    if "#" in value:
        return "must not hold a fragment (#…)"
    query = match["rest"].partition("?")[2]
    if any(SECRET_KEY_PATTERN.search(name) for name, _ in parse_qsl(query, keep_blank_values=True)):
        return "holds what looks like a secret in its query: send it as a credential"
    return None


def is_host(host: str) -> bool:
    """A name, an IPv4 address or an IPv6 address in brackets; whether it may be reached is not asked here."""
    if host.startswith("["):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            return False
        return host.endswith("]")
    return _HOST_NAME.fullmatch(host) is not None and ".." not in host


def canonical_host(host: str) -> str:
    """Lower case, without a trailing dot, IPv6 compressed; punycode stays as it was given."""
    if host.startswith("["):
        return f"[{ipaddress.IPv6Address(host[1:-1]).compressed}]"
    return host.lower().rstrip(".")


def split_url(url: str) -> tuple[str, str, int]:
    """Scheme, canonical host and port of a URL in which :func:`url_problem` found nothing."""
    match = _URL.fullmatch(url)
    authority = _AUTHORITY.fullmatch(match["authority"]) if match else None
    if match is None or authority is None:
        raise ValueError("not a URL that was checked before")
    scheme = match["scheme"].lower()
    return scheme, canonical_host(authority["host"]), int(authority["port"] or DEFAULT_PORTS[scheme])


def origin_of(url: str) -> str:
    """``scheme://host:port`` with the default port written out."""
    scheme, host, port = split_url(url)
    return f"{scheme}://{host}:{port}"


def fill_template(
    template: str, values: Mapping[str, Any], patterns: Mapping[str, str | None], problems: list[Problem]
) -> str | None:
    """A URL template such as ``https://{subdomain}.example.com/{region}`` with its placeholders filled.

    No value can leave the place it stands in: in the host it is one label, in the path one plain segment. None if
    something was wrong; ``problems`` then names each field.
    """
    authority_ends = template.find("/", template.find("//") + 2)
    found: list[Problem] = []

    def fill(match: re.Match[str]) -> str:
        name, in_host = match[1], authority_ends < 0 or match.start() < authority_ends
        problem = _value_problem(values.get(name), patterns.get(name), in_host=in_host)
        if problem:
            found.append((f"{ROOT}.{name}", problem))
        return str(values.get(name))

    url = PLACEHOLDER.sub(fill, template)
    if not found and (problem := url_problem(url)):
        found.append((ROOT, f"the address made of these settings {problem}"))
    problems += dict.fromkeys(found)
    return None if found else url


def _value_problem(value: Any, pattern: str | None, *, in_host: bool) -> str | None:
    if value is None or value == "":
        return "is required"
    if not isinstance(value, str) or not (_LABEL if in_host else _SEGMENT).fullmatch(value):
        return "must be one plain name of letters, digits and hyphens"
    if pattern and not re.search(pattern, value):
        return f"must match {pattern}"
    return None
