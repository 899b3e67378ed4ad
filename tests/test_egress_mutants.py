"""Each rule of the guard taken out in turn: some case must then go wrong, or the rule is not tested."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv6Network, ip_network

import httpx2
import pytest

from chalicelib.egress.guard import Guard
from chalicelib.egress.network import CheckedBackend, CheckedStream, current_target
from chalicelib.egress.policy import ParsedTarget, Policy
from chalicelib.egress.rules import RULES, Rules
from chalicelib.egress.trace import Trace
from chalicelib.egress.transport import GuardedTransport
from chalicelib.errors import Blocked
from tests.egress_world import POLICY, Case, World, holes, shared_cases


def case(url: str, allowed: bool = False, answer: str = "93.184.215.14") -> Case:
    return {"url": url, "allowed": allowed, "category": "own", "dns": {"api.example.com": [[answer]]}}


def own_cases() -> Iterator[Case]:
    """The families of which the shared cases are a sample, spelled out from the shared policy."""
    for text in POLICY["v4_deny"] + POLICY["v6_deny"]:
        for address in (ip_network(text)[0], ip_network(text)[-1]):
            yield case("https://api.example.com/", answer=str(address))
    for port in [*POLICY["deny_ports"], 22, 70_000]:
        yield case(f"https://api.example.com:{port}/")
    for suffix in POLICY["deny_suffixes"]:
        yield {**case(f"https://x{suffix}/"), "dns": {f"x{suffix}": [["93.184.215.14"]]}}
    yield case("https://wiki/")
    yield case("https://api.example.com/a b")
    yield case("https://api.example.com/\u200b")
    yield case("https://api.example.com/" + "a" * 2048)


CASES = [*shared_cases(), *own_cases()]


def holds(policy: Policy, case: Case) -> bool:
    """Whether the rules alone, without a network, judge the first address of this case rightly."""
    try:
        target = policy.check_url(case["url"])
        if not target.is_literal:
            # A name that the case gives no answer for has a public one: the name alone must refuse it.
            policy.check_answers(target, case.get("dns", {}).get(target.host, [["93.184.215.14"]])[0])
    except Blocked:
        return not case["allowed"]
    return bool(case["allowed"])


def without(name: str, entry: object) -> Rules:
    return replace(RULES, **{name: type(getattr(RULES, name))(x for x in getattr(RULES, name) if x != entry)})


RULE_MUTANTS = {
    **{f"shape: {name}": replace(RULES, shape={**RULES.shape, name: lambda _: True}) for name in RULES.shape},
    **{f"port {port}": without("deny_ports", port) for port in RULES.deny_ports},
    **{f"name {suffix}": without("deny_suffixes", suffix) for suffix in RULES.deny_suffixes},
    **{f"range {network}": without("v4_deny", network) for network in RULES.v4_deny},
    **{f"range {network}": without("v6_deny", network) for network in RULES.v6_deny},
    "low ports": replace(RULES, low_ports=frozenset(range(1024))),
    "two labels": replace(RULES, min_labels=1),
    "only 2000::/3": replace(RULES, v6_allow_only=IPv6Network("::/0")),
}


WITHOUT_REDIRECT = [case for case in CASES if "redirects" not in case]


def test_the_rules_as_they_are_judge_every_case_rightly():
    assert [case["url"] for case in WITHOUT_REDIRECT if not holds(Policy(), case)] == []


@pytest.mark.parametrize("rules", RULE_MUTANTS.values(), ids=RULE_MUTANTS)
def test_no_rule_can_be_taken_out_unnoticed(rules):
    wrong = [case["url"] for case in WITHOUT_REDIRECT if not holds(Policy(rules=rules), case)]

    assert wrong


class FirstAnswerOnly(Policy):
    def check_answers(self, target: ParsedTarget, answers: Sequence[str]) -> None:
        super().check_answers(target, answers[:1])


class AnswersUnchecked(Policy):
    def check_answers(self, target: ParsedTarget, answers: Sequence[str]) -> None:
        if target.is_literal:
            super().check_answers(target, answers)


class NotPinned(CheckedBackend):
    """Checks the addresses, then connects to the name."""

    async def _connect(self, target: ParsedTarget, within_s: float) -> CheckedStream:
        self._policy.check_answers(target, await self._resolver(target.host, target.port))
        return CheckedStream(await self._network.connect_tcp(target.host, target.port), self._trace)


class HopsUnchecked(GuardedTransport):
    """Checks the first URL only, as a guard does that sits before the client."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if self._home is None:
            return await super().handle_async_request(request)
        url = request.url
        port = url.port or {"http": 80}.get(url.scheme, 443)
        literal = url.host.replace(".", "").isdecimal()
        return await self._exchange(request, ParsedTarget(url.scheme, url.host, port, "", is_literal=literal))


class OriginUnchecked(GuardedTransport):
    """Follows from https to http."""

    def _check_origin(self, target: ParsedTarget, request: httpx2.Request) -> None:
        self._home = target.origin


class MutantGuard(Guard):
    transport_class: type[GuardedTransport] = GuardedTransport
    backend_class: type[CheckedBackend] = CheckedBackend

    def transport(self, context: ssl.SSLContext, max_bytes: int, trace: Trace) -> httpx2.AsyncBaseTransport:
        backend = self.backend_class(self.policy, self._resolver, self._network, self._connect_s, trace)
        return self.transport_class(self.policy, backend, context, max_bytes, trace)


def mutant(
    transport: type[GuardedTransport] = GuardedTransport, backend: type[CheckedBackend] = CheckedBackend
) -> type:
    return type("Mutant", (MutantGuard,), {"transport_class": transport, "backend_class": backend})


Makes = Callable[[World], Guard]

GUARD_MUTANTS: dict[str, Makes] = {
    "any bad answer": lambda world: Guard(FirstAnswerOnly(), resolver=world.resolve, network=world),
    "answers": lambda world: Guard(AnswersUnchecked(), resolver=world.resolve, network=world),
    "pinning": lambda world: mutant(backend=NotPinned)(Policy(), resolver=world.resolve, network=world),
    "every hop": lambda world: mutant(transport=HopsUnchecked)(Policy(), resolver=world.resolve, network=world),
    "no downgrade": lambda world: mutant(transport=OriginUnchecked)(Policy(), resolver=world.resolve, network=world),
    "hop limit": lambda world: Guard(
        Policy(rules=replace(RULES, max_redirects=25)), resolver=world.resolve, network=world
    ),
}


async def _fetch(guard: Guard, url: str) -> None:
    guard.policy.check_url(url)
    async with guard.client() as client:
        await guard.send(client, client.build_request("GET", url), deadline_s=5)


def wrong_cases(make: Makes) -> list[str]:
    async def all_of_them() -> list[str]:
        wrong = []
        for one in CASES:
            world, succeeded = World(one), False
            with suppress(Blocked, httpx2.HTTPError):
                await _fetch(make(world), one["url"])
                succeeded = True
            if holes(one, world.opened) or succeeded is not one["allowed"]:
                wrong.append(one["url"])
        return wrong

    return asyncio.run(all_of_them())


def test_the_guard_as_it_is_holds_in_every_case():
    assert wrong_cases(lambda world: Guard(Policy(), resolver=world.resolve, network=world)) == []


@pytest.mark.parametrize("make", GUARD_MUTANTS.values(), ids=GUARD_MUTANTS)
def test_no_part_of_the_guard_can_be_taken_out_unnoticed(make):
    assert wrong_cases(make)


def test_a_connection_without_a_checked_request_is_refused():
    backend = CheckedBackend(Policy(), World({}).resolve, World({}), 1.0, Trace())

    async def unannounced() -> None:
        await backend.connect_tcp("93.184.215.14", 443)

    async def to_another_host() -> None:
        current_target.set(Policy().check_url("https://93.184.215.14/"))
        await backend.connect_tcp("127.0.0.1", 443)

    with pytest.raises(LookupError):
        asyncio.run(unannounced())
    with pytest.raises(Blocked):
        asyncio.run(to_another_host())
    with pytest.raises(Blocked):
        asyncio.run(backend.connect_unix_socket("/run/docker.sock"))
