"""SSH against a real server: every kind of key, the host's key pinned on first use, and what goes wrong."""

from __future__ import annotations

import asyncio
import base64
import secrets
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import asyncssh
import pytest

from chalicelib.model import CheckResult, Target, Verdict
from chalicelib.probes import run_check
from tests.peers.raw import Handler, Loop, background, listening
from tests.peers.ssh import USER, VERSION, SshPeer, says, ssh_server
from tests.peers.targets import a_prober, a_target

PASSPHRASE = secrets.token_urlsafe(12)
KINDS = {
    "ed25519": asyncssh.generate_private_key("ssh-ed25519"),
    "ecdsa p256": asyncssh.generate_private_key("ecdsa-sha2-nistp256"),
    "ecdsa p521": asyncssh.generate_private_key("ecdsa-sha2-nistp521"),
    "rsa": asyncssh.generate_private_key("ssh-rsa", key_size=2048),
}
KEY = KINDS["ed25519"]
HOST_KEYS = {name: asyncssh.generate_private_key(key.algorithm.decode()) for name, key in KINDS.items()}
HOST = HOST_KEYS["ed25519"]


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    with background() as running:
        yield running


@pytest.fixture(scope="module")
def server(loop: Loop) -> Iterator[SshPeer]:
    with ssh_server(loop, [HOST], {USER: KEY}) as peer:
        yield peer


def private(key: asyncssh.SSHKey, form: str = "openssh", passphrase: str | None = None) -> str:
    return key.export_private_key(form, passphrase, rounds=50).decode()


def public(key: asyncssh.SSHKey) -> str:
    return " ".join(key.export_public_key().decode().split()[:2])


def an_ssh_target(port: int, *, key: str = private(KEY), command: str | None = None, **how: Any) -> Target:
    given = {"username": USER, "private_key": key, **how.pop("secrets", {})}
    definition = {"ssh": {"port": 22, "command": command}}
    config = {"host": "127.0.0.1", "port": port}
    return a_target("custom", config, method="ssh_key", secrets=given, definition=definition, **how)


def check(port: int, mode: Any = "full", *, total_s: float = 5, **how: Any) -> CheckResult:
    return run_check(a_prober(total_s), an_ssh_target(port, **how), mode)


def steps(result: CheckResult) -> list[tuple[str, bool]]:
    return [(step.name, step.ok) for step in result.steps]


@pytest.mark.parametrize("mode", ["full", "bare"])
def test_opening_and_signing_in_is_enough_and_nothing_is_run(server: SshPeer, mode: str) -> None:
    result = check(server.port, mode)

    assert result.verdict is Verdict.OK
    assert steps(result) == [("policy", True), ("tcp", True), ("tls", True), ("auth", True)]
    assert server.commands == []


@pytest.mark.parametrize("form", ["openssh", "pkcs8-pem", "pkcs1-pem"])
@pytest.mark.parametrize("passphrase", [None, PASSPHRASE], ids=["open", "locked"])
@pytest.mark.parametrize("kind", KINDS)
def test_keys_of_every_kind_and_form_sign_in(loop: Loop, kind: str, form: str, passphrase: str | None) -> None:
    if kind == "ed25519" and form == "pkcs1-pem":
        form = "openssh"  # there is no older form of this kind
    given = {"private_key_passphrase": passphrase} if passphrase else {}
    with ssh_server(loop, [HOST_KEYS[kind]], {USER: KINDS[kind]}) as peer:
        result = check(peer.port, key=private(KINDS[kind], form, passphrase), secrets=given)

    assert (result.verdict, result.error_message) == (Verdict.OK, None)


def test_an_open_key_signs_in_though_a_passphrase_is_saved_too(server: SshPeer) -> None:
    assert check(server.port, secrets={"private_key_passphrase": PASSPHRASE}).success


def test_the_key_of_the_host_is_told_on_first_use(server: SshPeer) -> None:
    found = dict(check(server.port).capabilities or {})

    assert found["ssh"]["host_key"] == {
        "public_key": public(HOST),
        "fingerprint": HOST.get_fingerprint(),
        "destination": f"ssh://127.0.0.1:{server.port}",
    }
    assert found["ssh"]["server"].startswith("SSH-2.0-") or "AsyncSSH" in found["ssh"]["server"]


@pytest.mark.parametrize("kind", HOST_KEYS)
def test_a_host_with_several_keys_is_asked_for_the_one_that_is_known(loop: Loop, kind: str) -> None:
    with ssh_server(loop, list(HOST_KEYS.values()), {USER: KEY}) as peer:
        for how in (
            {"secrets": {"host_key": public(HOST_KEYS[kind]) + " root@host"}},
            {"capabilities": seen(peer, kind)},
        ):
            result = check(peer.port, **how)

            assert result.verdict is Verdict.OK
            assert dict(result.capabilities or {})["ssh"]["host_key"]["public_key"] == public(HOST_KEYS[kind])


def seen(peer: SshPeer, kind: str = "ed25519") -> dict[str, Any]:
    key = HOST_KEYS[kind]
    known = {"public_key": public(key), "fingerprint": "", "destination": f"ssh://127.0.0.1:{peer.port}"}
    return {"ssh": {"server": "", "host_key": known}}


@pytest.mark.parametrize("mode", ["full", "bare"])
@pytest.mark.parametrize("other", ["ed25519", "rsa"])
def test_a_changed_host_key_is_told_and_no_key_of_ours_is_shown(loop: Loop, other: str, mode: str) -> None:
    impostor = asyncssh.generate_private_key(KINDS[other].algorithm.decode())
    with ssh_server(loop, [impostor], {USER: KEY}) as peer:
        remembered = check(peer.port, mode, capabilities=seen(peer))
        saved = check(peer.port, mode, secrets={"host_key": public(HOST)})

        assert (peer.connections, peer.tried) == (2, [])
    for result, words in ((remembered, "than at the first connection"), (saved, "than the one saved as 'host_key'")):
        assert (result.verdict, result.capabilities) == (Verdict.TLS, None)
        assert steps(result) == [("policy", True), ("tcp", True), ("tls", False)]
        assert words in str(result.error_message)
        assert result.steps[-1].detail == f"host key changed to {impostor.get_fingerprint()}"


def test_saving_the_new_key_is_how_a_change_is_accepted(server: SshPeer) -> None:
    changed = seen(server, "rsa")
    result = check(server.port, capabilities=changed, secrets={"host_key": public(HOST)})

    assert result.verdict is Verdict.OK
    assert dict(result.capabilities or {})["ssh"]["host_key"]["public_key"] == public(HOST)


def test_what_was_seen_at_another_address_is_no_reason_for_alarm(server: SshPeer) -> None:
    elsewhere = seen(server, "rsa")
    elsewhere["ssh"]["host_key"]["destination"] = "ssh://git.example.com:22"

    assert check(server.port, capabilities=elsewhere).verdict is Verdict.OK


@pytest.mark.parametrize("what", ["key", "user"])
def test_a_refused_key_is_blamed(server: SshPeer, what: str) -> None:
    stranger = private(asyncssh.generate_private_key("ssh-ed25519"))
    result = check(server.port, key=stranger) if what == "key" else check(server.port, secrets={"username": "root"})

    assert (result.verdict, steps(result)[-1]) == (Verdict.AUTH_REJECTED, ("auth", False))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"private_key": "no key"}, "private_key"),
        ({"private_key": private(KEY, passphrase=PASSPHRASE)}, "private_key_passphrase"),
        ({"private_key": private(KEY, passphrase=PASSPHRASE), "private_key_passphrase": "wrong"}, "private_key"),
        ({"private_key": ""}, "private_key"),
        ({"username": ""}, "username"),
        ({"username": "de\x00ploy"}, "username"),
        ({"host_key": "ssh-ed25519"}, "host_key"),
    ],
)
def test_a_credential_that_cannot_be_used_is_named_and_nothing_is_opened(
    server: SshPeer, given: dict[str, str], named: str
) -> None:
    before = server.connections
    result = check(server.port, secrets=given)

    assert (result.verdict, steps(result)) == (Verdict.MISCONFIGURED, [("policy", False)])
    assert f"'{named}'" in str(result.error_message)
    assert server.connections == before
    assert PASSPHRASE not in str(result.as_json())


def test_a_key_that_asks_for_hours_of_derivation_is_refused(server: SshPeer) -> None:
    """A key whose passphrase was saved before is not opened at save, so its cost is seen here only."""
    first, *lines, last = private(KEY, passphrase=PASSPHRASE).strip().split("\n")
    data = base64.b64decode("".join(lines))
    rounds = struct.pack(">I", 50)
    at = data.index(rounds, data.index(b"bcrypt") + 30)
    costly = base64.encodebytes(data[:at] + struct.pack(">I", 2**31) + data[at + 4 :]).decode()
    result = check(server.port, key=f"{first}\n{costly}{last}\n", secrets={"private_key_passphrase": PASSPHRASE})

    assert result.verdict is Verdict.MISCONFIGURED
    assert "key derivation rounds" in str(result.error_message)


def test_the_types_own_command_is_run_and_no_other(loop: Loop) -> None:
    with ssh_server(loop, [HOST], {USER: KEY}, exits=0) as peer:
        result = check(peer.port, command="uptime")

        assert (result.verdict, peer.commands) == (Verdict.OK, ["uptime"])
        assert steps(result)[-1] == ("call", True)
    with ssh_server(loop, [HOST], {USER: KEY}, exits=3) as peer:
        result = check(peer.port, command="uptime")

        assert (result.verdict, steps(result)[-1]) == (Verdict.PROTOCOL, ("call", False))
        assert result.steps[-1].detail == "exit status 3"
    with ssh_server(loop, [HOST], {USER: KEY}, exits=None) as peer:
        assert check(peer.port, command="uptime").verdict is Verdict.FORBIDDEN_SCOPE


def test_nothing_of_the_machine_itself_plays_a_part(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the configuration, nor the agent, nor the known hosts of whoever runs this service."""
    folder = tmp_path / ".ssh"
    folder.mkdir()
    folder.joinpath("config").write_text("Host *\n  User root\n  Compression yes\n  SendEnv *\n")
    folder.joinpath("known_hosts").write_text(f"127.0.0.1 {public(HOST_KEYS['rsa'])}\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    with socket.socket(socket.AF_UNIX) as agent, ssh_server(loop, [HOST], {USER: KEY}) as peer:
        agent.bind(str(tmp_path / "agent"))
        agent.listen()
        agent.settimeout(0)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        good, refused = check(peer.port), check(peer.port, secrets={"username": "nobody"})

        assert (good.verdict, refused.verdict) == (Verdict.OK, Verdict.AUTH_REJECTED)
        assert (peer.tried, peer.compressions) == ([USER, "nobody"], {"none"})
        with pytest.raises(BlockingIOError):
            agent.accept()


def test_a_configuration_cannot_name_a_command(server: SshPeer) -> None:
    target = an_ssh_target(server.port)
    config = {**target.config, "command": "id", "args": ["-u"], "ssh": {"command": "id"}}
    how = {"method": "ssh_key", "secrets": {"username": USER, "private_key": private(KEY)}}
    result = run_check(a_prober(), a_target("custom", config, **how))

    assert (result.verdict, server.commands) == (Verdict.OK, [])


@pytest.mark.parametrize("config", [{"protocol": "ssh"}, {"protocol": "ssh", "url": "http://{}"}, {}])
def test_an_ssh_target_is_never_spoken_to_in_mcp(loop: Loop, config: dict[str, str]) -> None:
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\n"))

    with listening(loop, listen) as peer:
        address = {name: text.format(f"127.0.0.1:{peer.port}") for name, text in config.items()}
        where = {"host": "127.0.0.1", "port": peer.port, **address}
        given = {"username": USER, "private_key": private(KEY)}
        for mode in ("full", "bare"):
            run_check(a_prober(1), a_target("custom", where, method="ssh_key", secrets=given), mode)  # type: ignore[arg-type]

    assert len(heard) == 2
    assert all(line.startswith(b"SSH-2.0-") for line in heard)


@pytest.mark.parametrize(
    ("method", "config"),
    [("ssh_key", {"protocol": "http", "url": "http://127.0.0.1:1"}), ("none", {"host": "127.0.0.1", "port": 1})],
)
def test_a_method_that_does_not_fit_the_address_is_the_owners_to_mend(method: str, config: dict[str, Any]) -> None:
    given = {"username": USER, "private_key": private(KEY)}
    result = run_check(a_prober(), a_target("custom", config, method=method, secrets=given))

    assert (result.verdict, steps(result)) == (Verdict.MISCONFIGURED, [("policy", False)])


FAULTS: dict[str, tuple[Handler, Verdict, str]] = {
    "silence": (says(), Verdict.TIMEOUT, "tls"),
    "a version and silence": (says(VERSION), Verdict.TIMEOUT, "tls"),
    "closes at once": (says(stays=False), Verdict.NETWORK, "tls"),
    "a version, then closes": (says(VERSION, stays=False), Verdict.NETWORK, "tls"),
    "HTTP": (says(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", stays=False), Verdict.NETWORK, "tls"),
    "an old protocol": (says(b"SSH-1.5-Old\r\n"), Verdict.PROTOCOL, "protocol"),
    "a version of odd bytes": (says(b"SSH-2.0-\xff\xfe\r\n"), Verdict.PROTOCOL, "protocol"),
    "garbage after the version": (says(VERSION, endlessly=b"\xff" * 65_536), Verdict.PROTOCOL, "protocol"),
    "endless words before the version": (says(endlessly=b"welcome\r\n" * 1_000), Verdict.PROTOCOL, "protocol"),
    "an endless line": (says(endlessly=b"w" * 65_536), Verdict.PROTOCOL, "protocol"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_answers_it_is_judged_in_time(loop: Loop, fault: str) -> None:
    handler, verdict, step = FAULTS[fault]
    with listening(loop, handler) as peer:
        began = perf_counter()
        result = check(peer.port, total_s=0.7)
        took = perf_counter() - began

    assert (result.verdict, steps(result)[-1]) == (verdict, (step, False))
    assert took < 0.7 + 0.5


def key_exchange_of(method: str = "curve25519-sha256", compression: str = "none") -> bytes:
    """A server's SSH_MSG_KEXINIT (RFC 4253 §7.1)."""
    ciphers, codes = ["aes128-ctr"] * 2, ["hmac-sha2-256"] * 2
    lists = [method, "ssh-ed25519", *ciphers, *codes, compression, compression, "", ""]
    body = bytes([20]) + bytes(16) + b"".join(struct.pack(">I", len(text)) + text.encode() for text in lists) + bytes(5)
    padding = 16 - (len(body) + 5) % 8
    return struct.pack(">IB", len(body) + padding + 1, padding) + body + bytes(padding)


@pytest.mark.parametrize(
    "offer",
    [key_exchange_of("diffie-hellman-group1-sha1"), key_exchange_of(compression="zlib@openssh.com")],
    ids=["outdated methods", "compression, which unfolds without bound"],
)
def test_a_server_with_no_method_that_we_accept_is_told_from_one_that_is_down(loop: Loop, offer: bytes) -> None:
    with listening(loop, says(VERSION, offer)) as peer:
        result = check(peer.port, total_s=1)

    assert (result.verdict, steps(result)[-1]) == (Verdict.TLS, ("tls", False))


def test_a_command_that_never_ends_or_floods_ends_with_the_deadline(loop: Loop) -> None:
    async def flood(process: asyncssh.SSHServerProcess[str]) -> None:
        while True:
            process.stdout.write("x" * 65_536)
            await process.stdout.drain()

    with ssh_server(loop, [HOST], {USER: KEY}, exits=None, process_factory=flood) as peer:
        began = perf_counter()
        result = check(peer.port, command="yes", total_s=0.7)

    assert (result.verdict, steps(result)[-1]) == (Verdict.TIMEOUT, ("call", False))
    assert perf_counter() - began < 0.7 + 0.5


def test_neither_keys_nor_names_are_logged(server: SshPeer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    check(server.port, secrets={"username": "root"})

    assert "root" not in caplog.text
