"""Whether a user's address may be reached. Pure: resolving and connecting are ``guard.py``'s work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address, ip_network

from chalicelib.egress.rules import RULES, Address, Network, Place, Rules, place, take_apart
from chalicelib.errors import Blocked


@dataclass(frozen=True)
class ParsedTarget:
    """An address that passed every rule which can be judged before its name is resolved.

    ``origin`` is ``scheme://host:port``, the port always written out. With ``only_opened``, an ordinary rule was
    waived in the hope that every answer lies in a network that the operator opened; :meth:`Policy.check_answers` sees.
    """

    scheme: str
    host: str
    port: int
    origin: str
    is_literal: bool = False
    only_opened: bool = False


@dataclass(frozen=True)
class Policy:
    """``allow`` are networks that the operator opened (``EGRESS_ALLOW``); ``hosted`` refuses plain http elsewhere.

    Every refusal is the same :class:`Blocked`: it tells neither the rule nor what a name resolved to.
    """

    allow: tuple[str, ...] = ()
    hosted: bool = False
    rules: Rules = RULES

    @cached_property
    def _opened(self) -> tuple[Network, ...]:
        return tuple(ip_network(text) for text in self.allow)

    def check_url(self, url: str) -> ParsedTarget:
        """The target of an http(s) URL. Raises :class:`Blocked`."""
        found = take_apart(url)
        if found is None or found.scheme == "ssh":
            raise Blocked()
        return self._check(found)

    def check_host_port(self, host: str, port: int) -> ParsedTarget:
        """The target of an SSH connection; an IPv6 literal with or without brackets. Raises :class:`Blocked`."""
        return self._check(place("ssh", f"[{host}]" if ":" in host and not host.startswith("[") else host, port))

    def address_allowed(self, ip: str) -> bool:
        """Public, or in a network that the operator opened. False for what is no address."""
        address = _address(ip)
        return address is not None and self._is_allowed(address)

    def check_answers(self, target: ParsedTarget, answers: Sequence[str]) -> None:
        """Raises :class:`Blocked` if any answer is forbidden: one bad answer refuses the whole name."""
        addresses = [_address(answer) for answer in answers]
        may = self._is_opened if target.only_opened else self._is_allowed
        if not all(address is not None and may(address) for address in addresses):
            raise Blocked()

    def _check(self, found: Place) -> ParsedTarget:
        if not self.rules.has_shape(found) or found.port is None:
            raise Blocked()
        public = (
            self.rules.is_public_port(found)
            and self.rules.is_public_name(found)
            and not (self.hosted and found.scheme == "http")
        )
        if not public and not self._opened:
            raise Blocked()
        target = ParsedTarget(
            found.scheme,
            found.host,
            found.port,
            f"{found.scheme}://{_canonical(found)}:{found.port}",
            is_literal=found.literal is not None,
            only_opened=not public,
        )
        if found.literal is not None:
            self.check_answers(target, [found.host])
        return target

    def _is_opened(self, address: Address) -> bool:
        return any(address in network for network in self._opened)

    def _is_allowed(self, address: Address) -> bool:
        return self._is_opened(address) or self.rules.is_public_address(address)


def _address(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _canonical(found: Place) -> str:
    if found.literal is None:
        return found.host.removesuffix(".")
    return f"[{found.literal.compressed}]" if found.literal.version == 6 else found.host
