"""The guard on real connections over loopback: pinned, timed, under TLS, for SSH, and deaf to the environment."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence

import asyncssh
import httpcore2
import httpx2
import pytest
from cryptography import x509

from chalicelib.egress.failures import causes
from chalicelib.egress.guard import Guard, shared_ssl_context
from chalicelib.egress.policy import Policy
from chalicelib.egress.trace import Trace
from chalicelib.errors import Blocked
from tests.egress_world import serving, web
from tests.peers.certificates import Authority, server_context
from tests.peers.raw import Loop, Request, response

LOCAL = Policy(allow=("127.0.0.0/8",))


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    running = Loop()
    yield running
    running.close()


class Names:
    """A resolver that gives the next list of answers at each lookup, and the last one for ever."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = list(answers)
        self.lookups: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.lookups.append(host)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


def ok(request: Request) -> bytes:
    return response(200, b"{}")


def get(guard: Guard, url: str, trace: Trace | None = None, *, tls: ssl.SSLContext | None = None) -> httpx2.Response:
    async def once() -> httpx2.Response:
        async with guard.client(trace=trace, ssl_context=tls) as client:
            return await guard.send(client, client.build_request("GET", url), deadline_s=5)

    return asyncio.run(once())


def found(error: BaseException, kind: type[BaseException]) -> bool:
    return any(isinstance(cause, kind) for cause in causes(error))


def test_a_name_that_changes_after_the_check_is_connected_to_where_it_was_checked(loop):
    names = Names(["127.0.0.1"], ["169.254.169.254"])

    with web(loop, ok) as peer:
        answer = get(Guard(LOCAL, resolver=names), f"http://rebinding.example.com:{peer.port}/")

    assert answer.status_code == 200
    assert names.lookups == ["rebinding.example.com"]
    assert peer.requests[0].headers["host"] == f"rebinding.example.com:{peer.port}"


def test_a_new_connection_is_a_new_lookup_and_a_new_check(loop):
    names = Names(["127.0.0.1"], ["169.254.169.254"])

    async def twice(port: int) -> None:
        guard = Guard(LOCAL, resolver=names)
        async with guard.client(headers={"connection": "close"}) as client:
            request = client.build_request("GET", f"http://rebinding.example.com:{port}/")
            assert (await guard.send(client, request, deadline_s=5)).status_code == 200
            with pytest.raises(Blocked):
                await guard.send(client, request, deadline_s=5)

    with web(loop, lambda request: response(200, b"{}", {"Connection": "close"})) as peer:
        asyncio.run(twice(peer.port))

    assert peer.connections == 1


def test_one_forbidden_answer_refuses_the_name_before_any_connection(loop):
    trace = Trace()

    with web(loop, ok) as peer, pytest.raises(Blocked):
        get(Guard(LOCAL, resolver=Names(["127.0.0.1", "10.0.0.1"])), f"http://mixed.example.com:{peer.port}/", trace)

    assert peer.connections == 0
    # Nobody learns whether a refused name resolved.
    assert [(step.name, step.ok) for step in trace.steps] == [("policy", False)]


def test_the_next_address_is_tried_when_one_refuses(loop):
    with web(loop, ok) as peer:
        url = f"http://two.example.com:{peer.port}/"
        answer = get(Guard(LOCAL, resolver=Names(["127.0.0.2", "127.0.0.1"])), url)

    assert answer.status_code == 200


class SilentAddress(httpcore2.AnyIOBackend):
    """127.0.0.3 swallows every connection attempt, as a firewall does."""

    async def connect_tcp(self, host: str, *arguments: object, **options: object) -> httpcore2.AsyncNetworkStream:
        if host == "127.0.0.3":
            await asyncio.Event().wait()
        return await super().connect_tcp(host, *arguments, **options)  # type: ignore[arg-type]


def test_a_silent_address_leaves_time_for_the_next(loop):
    with web(loop, ok) as peer:
        names = Names(["127.0.0.3", "127.0.0.1"])
        guard = Guard(LOCAL, resolver=names, network=SilentAddress(), connect_s=0.6)
        assert get(guard, f"http://two.example.com:{peer.port}/").status_code == 200


def test_silence_ends_with_the_connect_deadline():
    trace = Trace()
    guard = Guard(LOCAL, resolver=Names(["127.0.0.3"] * 3), network=SilentAddress(), connect_s=0.3)

    began = time.monotonic()
    with pytest.raises(httpx2.ConnectTimeout):
        get(guard, "http://silent.example.com/", trace)

    assert time.monotonic() - began < 0.8
    assert [(step.name, step.ok) for step in trace.steps] == [("policy", True), ("dns", True), ("tcp", False)]
    assert 250 <= trace.steps[-1].ms <= 800


def test_a_refused_connection_and_an_unknown_name_can_be_told_apart():
    for url, kind, step in [
        ("http://127.0.0.1:1/", ConnectionRefusedError, "tcp"),
        ("http://name.invalid/", socket.gaierror, "dns"),
    ]:
        trace = Trace()
        with pytest.raises(httpx2.ConnectError) as caught:
            get(Guard(LOCAL), url, trace)

        assert found(caught.value, kind)
        assert [entry.name for entry in trace.steps if not entry.ok] == [step]
        assert list(trace.failures) == [caught.value]


def test_a_name_without_any_address_is_an_unknown_name():
    with pytest.raises(httpx2.ConnectError) as caught:
        get(Guard(LOCAL, resolver=Names([])), "http://empty.example.com/")

    assert found(caught.value, socket.gaierror)


def test_a_stalled_name_server_does_not_outlive_the_deadline(monkeypatch):
    released = threading.Event()

    def stalled(*arguments: object, **options: object) -> list[object]:
        released.wait(10)
        return []

    async def hurried() -> None:
        guard = Guard(Policy())
        async with guard.client() as client:
            await guard.send(client, client.build_request("GET", "https://api.example.com/"), deadline_s=0.3)

    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", stalled)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            asyncio.run(hurried())
        took = time.monotonic() - began
        released.set()

    assert took < 0.8


def test_names_of_this_machine_are_resolved_by_the_system(loop):
    with web(loop, ok) as peer:
        opened = Policy(allow=("127.0.0.0/8", "::1/128"))
        assert get(Guard(opened), f"http://localhost:{peer.port}/").status_code == 200


AUTHORITY = Authority()


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cadata=AUTHORITY.pem)


@pytest.mark.parametrize("host", ["tls.example.com", "tls.example.com."])
def test_tls_is_checked_against_the_name_of_the_url_not_the_address(loop, host):
    shown: list[str | None] = []
    server = server_context(AUTHORITY.issue("tls.example.com"))
    server.sni_callback = lambda connection, name, context: shown.append(name)
    trace = Trace()

    with web(loop, ok, tls=server) as peer:
        url = f"https://{host}:{peer.port}/"
        answer = get(Guard(LOCAL, resolver=Names(["127.0.0.1"])), url, trace, tls=trusting())

    assert answer.status_code == 200
    assert shown == ["tls.example.com"]
    assert [(step.name, step.ok) for step in trace.steps] == [(name, True) for name in ("policy", "dns", "tcp", "tls")]
    assert trace.server_certificate is not None
    assert x509.load_der_x509_certificate(trace.server_certificate).subject.rfc4514_string() == "CN=tls.example.com"


@pytest.mark.parametrize(
    ("certificate", "trusted"),
    [("other.example.com", True), ("tls.example.com", False)],
    ids=["wrong name", "untrusted"],
)
def test_a_certificate_of_another_name_or_of_an_unknown_authority_is_refused(loop, certificate, trusted):
    trace = Trace()

    with web(loop, ok, tls=server_context(AUTHORITY.issue(certificate))) as peer:
        guard = Guard(LOCAL, resolver=Names(["127.0.0.1"]))
        with pytest.raises(httpx2.ConnectError) as caught:
            get(guard, f"https://tls.example.com:{peer.port}/", trace, tls=trusting() if trusted else None)

    assert found(caught.value, ssl.SSLCertVerificationError)
    assert [step.name for step in trace.steps if not step.ok] == ["tls"]
    assert peer.requests == []


def test_a_handshake_that_stalls_is_cut_and_its_socket_closed(loop):
    closed = threading.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1024):
            pass
        closed.set()

    async def hurried(url: str) -> None:
        guard = Guard(LOCAL)
        async with guard.client() as client:
            with pytest.raises(TimeoutError):
                await guard.send(client, client.build_request("GET", url), deadline_s=0.3)
            assert await asyncio.to_thread(closed.wait, 2)

    with serving(loop, silent) as peer:
        asyncio.run(hurried(f"https://127.0.0.1:{peer.port}/"))


@pytest.mark.parametrize("mode", [ssl.CERT_REQUIRED, ssl.CERT_NONE])
def test_a_context_that_does_not_verify_is_refused(mode):
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = mode

    with pytest.raises(ValueError, match="must verify"):
        Guard(LOCAL).client(ssl_context=context)


def test_the_roots_are_loaded_once_and_not_from_the_environment(monkeypatch, tmp_path):
    assert shared_ssl_context() is shared_ssl_context()
    shared_ssl_context.cache_clear()
    own = tmp_path / "roots.pem"
    own.write_text(AUTHORITY.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(own))
    try:
        subjects = [str(entry["subject"]) for entry in shared_ssl_context().get_ca_certs()]
    finally:
        shared_ssl_context.cache_clear()

    assert not any("Test root" in subject for subject in subjects)


def test_no_proxy_of_the_environment_is_used(loop, monkeypatch):
    with web(loop, ok) as trap, web(loop, ok) as peer:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, trap.url)
            monkeypatch.setenv(name.lower(), trap.url)
        assert get(Guard(LOCAL), peer.url).status_code == 200
    assert not Guard(LOCAL).client().trust_env

    assert (trap.connections, peer.connections) == (0, 1)


def test_an_address_with_a_key_in_its_query_is_not_logged(loop, caplog):
    caplog.set_level(logging.INFO)

    with web(loop, ok) as peer:
        get(Guard(LOCAL), f"{peer.url}/?api_key=made-up-key")

    assert peer.requests[0].target == "/?api_key=made-up-key"
    assert "made-up-key" not in caplog.text


def test_ssh_runs_over_the_checked_socket():
    async def conversation() -> tuple[str, list[tuple[str, bool]]]:
        key, trace = asyncssh.generate_private_key("ssh-ed25519"), Trace()
        guard = Guard(LOCAL, resolver=Names(["127.0.0.2", "127.0.0.1"], ["10.0.0.1"]))
        async with asyncssh.listen("127.0.0.1", 0, server_host_keys=[key]) as server:
            sock = await guard.open_tcp("git.example.com", server.get_port(), trace=trace)
            try:
                options = {"known_hosts": None, "username": "nobody", "client_keys": [], "config": None}
                async with asyncssh.connect("git.example.com", sock=sock, **options):
                    raise AssertionError("nobody has no key")
            except asyncssh.PermissionDenied as refusal:
                return type(refusal).__name__, [(step.name, step.ok) for step in trace.steps]

    assert asyncio.run(conversation()) == ("PermissionDenied", [("policy", True), ("dns", True), ("tcp", True)])


def test_a_socket_for_ssh_fails_as_sockets_do():
    async def attempt(host: str, port: int, network: Sequence[str] = ("127.0.0.1",)) -> None:
        await Guard(LOCAL, resolver=Names(network)).open_tcp(host, port)

    for arguments, kind in [
        (("git.example.com", 1), ConnectionRefusedError),
        (("git.example.com", 22, ()), socket.gaierror),
        (("git.example.com", 22, ("10.0.0.1",)), Blocked),
        (("10.0.0.1", 22), Blocked),
    ]:
        with pytest.raises(kind):
            asyncio.run(attempt(*arguments))


NETWORK_FAILURES = [
    kind
    for kind in vars(httpcore2).values()
    if isinstance(kind, type)
    and issubclass(kind, Exception)
    and kind not in (httpcore2.ConnectionNotAvailable, httpcore2.ProxyError)  # internal; and there are no proxies
]


class Failing(httpcore2.AsyncNetworkBackend):
    def __init__(self, kind: type[Exception]) -> None:
        self._kind = kind

    async def connect_tcp(self, *arguments: object, **options: object) -> httpcore2.AsyncNetworkStream:
        raise self._kind("made up")


@pytest.mark.parametrize("kind", NETWORK_FAILURES, ids=lambda kind: kind.__name__)
def test_every_exception_of_the_network_has_the_http_clients_name(kind):
    with pytest.raises(httpx2.TransportError) as caught:
        get(Guard(LOCAL, network=Failing(kind)), "http://127.0.0.1/")

    assert type(caught.value).__name__ == kind.__name__
    assert found(caught.value, kind)
