"""Which addresses may be reached, as data: ``security.md`` §1. A test compares the tables with ``ssrf_policy.json``.

The IPv4 table and the IPv6 holes are IANA's special-purpose registries plus the cloud's own addresses. Python's
``is_global`` is not used: it is wrong both ways, and differs between patch versions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

# fmt: off
DENY_PORTS = frozenset({
    1719, 1720, 1723, 2049, 2375, 2376, 2379, 2380, 3306, 3389, 3659, 4045, 4190, 5060, 5061, 5432, 5672, 6000, 6379,
    6443, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 8086, 9092, 9200, 9300, 10080, 10250, 11211, 27017,
})
V4_DENY = tuple(IPv4Network(text) for text in (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8",
    "168.63.129.16/32",  # Azure's WireServer
    "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16",
    "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
))
V6_ALLOW_ONLY = IPv6Network("2000::/3")
V6_DENY = tuple(IPv6Network(text) for text in (
    "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "2620:4f:8000::/48",
))
DENY_SUFFIXES = (
    ".localhost", ".local", ".internal", ".localdomain", ".home.arpa", ".svc", ".lan", ".intranet", ".corp", ".onion",
)
# fmt: on

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)")
_AUTHORITY = re.compile(r"(?:.*@)?(?P<host>\[[^\]]*\]|[^:]*)(?::(?P<port>.*))?", re.DOTALL)
_PORT = re.compile(r"[0-9]{1,5}")
_QUAD = re.compile(r"(?:(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])(?:\.(?!$)|$)){4}")
_BRACKETED = re.compile(r"\[([0-9a-f:.]+)\]")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class Place:
    """A URL taken apart without judging it. ``port`` is None if it is not a number."""

    url: str
    scheme: str
    authority: str
    host: str  # lower case; an IPv6 literal without brackets
    port: int | None
    literal: Address | None

    @property
    def labels(self) -> list[str]:
        return self.host.removesuffix(".").split(".")


def take_apart(url: str) -> Place | None:
    """The parts of ``scheme://authority…``; None for anything of another form."""
    match = _URL.match(url)
    authority = _AUTHORITY.fullmatch(match["authority"]) if match else None
    if match is None or authority is None:
        return None
    scheme, port = match["scheme"].lower(), authority["port"]
    number = {"http": 80, "https": 443}.get(scheme)
    if port is not None:
        number = int(port) if _PORT.fullmatch(port) else None
    return place(scheme, authority["host"], number, url=url, authority=match["authority"])


def place(scheme: str, host: str, port: int | None, *, url: str = "", authority: str = "") -> Place:
    host = host.lower()
    literal = _literal(host)
    return Place(url, scheme, authority, host.strip("[]") if literal else host, port, literal)


def _literal(host: str) -> Address | None:
    """A strict dotted quad or a bracketed IPv6 literal: no octal, no hex, no zone."""
    if _QUAD.fullmatch(host):
        return IPv4Address(host)
    bracketed = _BRACKETED.fullmatch(host)
    try:
        return IPv6Address(bracketed[1]) if bracketed else None
    except ValueError:
        return None


def _is_name_or_literal(place: Place) -> bool:
    if place.literal:
        return True
    return len(place.host) <= 253 + place.host.endswith(".") and all(_LABEL.fullmatch(label) for label in place.labels)


def _is_plainly_spelled(place: Place) -> bool:
    """No control, separator, zero-width or backslash: whatever two parsers could read differently."""
    return place.url.isprintable() and not {" ", "\\"} & set(place.url)


#: What an address must be, whoever runs this. `%` needs no rule of its own: no host or port may hold one.
SHAPE: Mapping[str, Callable[[Place], bool]] = {
    "length": lambda place: len(place.url) <= 2048,
    "spelling": _is_plainly_spelled,
    "scheme": lambda place: place.scheme in ("http", "https", "ssh"),
    "userinfo": lambda place: "@" not in place.authority,
    "port": lambda place: place.port is not None and 1 <= place.port <= 65_535,
    "host": _is_name_or_literal,
    # getaddrinfo reads 2130706433 and 0x7f.1 as addresses, so a name must end in a word.
    "last label": lambda place: place.literal is not None or place.labels[-1][:1].isalpha(),
}


@dataclass(frozen=True)
class Rules:
    """All rules in one value. Every test of a rule takes one out of here and sees a case fail."""

    shape: Mapping[str, Callable[[Place], bool]] = field(default_factory=lambda: SHAPE)
    low_ports: frozenset[int] = frozenset({80, 443})
    deny_ports: frozenset[int] = DENY_PORTS
    deny_suffixes: tuple[str, ...] = DENY_SUFFIXES
    min_labels: int = 2
    v4_deny: tuple[IPv4Network, ...] = V4_DENY
    v6_allow_only: IPv6Network = V6_ALLOW_ONLY
    v6_deny: tuple[IPv6Network, ...] = V6_DENY
    max_redirects: int = 3

    def has_shape(self, place: Place) -> bool:
        return all(holds(place) for holds in self.shape.values())

    def is_public_port(self, place: Place) -> bool:
        port = place.port or 0
        if port < 1024:
            return port in self.low_ports or (place.scheme == "ssh" and port == 22)
        return port not in self.deny_ports

    def is_public_name(self, place: Place) -> bool:
        if place.literal:
            return True
        name = "." + ".".join(place.labels)
        return len(place.labels) >= self.min_labels and not name.endswith(self.deny_suffixes)

    def is_public_address(self, address: Address) -> bool:
        if isinstance(address, IPv4Address):
            return not any(address in network for network in self.v4_deny)
        return address in self.v6_allow_only and not any(address in network for network in self.v6_deny)


RULES = Rules()
