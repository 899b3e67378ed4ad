"""SSH: opening a connection, knowing the host by its key, and signing in with the user's key.

A host whose key is not saved is trusted on first use: a good check tells the key it saw in its capabilities, and later
checks hold the host to it. A credential ``host_key`` counts more than what is remembered, so saving one is how an owner
accepts that a host has changed its key. A host with another key gets the verdict ``tls``: the far side is not who it
should be, as with a certificate of a wrong name. That proves nothing about the user's key, which is not shown to it.

No command is run unless the integration type names one (``ssh.command``).
"""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from chalicelib.probes.kept import shortened
from chalicelib.probes.private_keys import unlocked, unusable
from chalicelib.probes.ssh_findings import COMMAND_FAILED, NO_SESSION, changed_host_key, finding_of_ssh
from chalicelib.probes.visit import Visit

if TYPE_CHECKING:
    from asyncssh import SSHClient, SSHClientConnection, SSHClientConnectionOptions, SSHKey

GOODBYE_S = 0.3

#: No host certificates, whose authorities nobody could name here, and no SHA-1.
HOST_KEY_ALGORITHMS = (
    "ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "rsa-sha2-512", "rsa-sha2-256",
)  # fmt: skip

# It logs addresses and user names.
logging.getLogger("asyncssh").setLevel(logging.CRITICAL)


async def check(visit: Visit) -> None:
    """Finds the host's key and the server's version. Raises :class:`Finding`, or what opening a connection raises."""
    visit.under_way = "policy"
    host = _known_host(visit)
    options = _options(visit, host, await _private_key(visit))
    visit.passed("policy", "tcp")
    sock = await visit.guard.open_tcp(visit.endpoint.host or "", visit.endpoint.port or 22, trace=visit.trace)
    visit.under_way = "tls"
    async with _signed_in(visit, host, sock, options) as connection:
        await _run_command(visit, connection)
        visit.conclude(_found(visit, connection))


@dataclass
class _Host:
    """Whom we expect and whom we meet, as ``type base64``. ``saved``: the owner says so, not an earlier check."""

    expected: str | None = None
    saved: bool = False
    seen: SSHKey | None = None

    def meet(self, key: SSHKey) -> bool:
        self.seen = key
        return self.expected in (None, _line(key))

    def algorithms(self) -> list[str]:
        """A host may have several keys: ask for the one that is known."""
        kind = self.expected.split()[0] if self.expected else ""
        wanted = "rsa-" if kind == "ssh-rsa" else kind
        return sorted(HOST_KEY_ALGORITHMS, key=lambda name: not name.startswith(wanted))


def _known_host(visit: Visit) -> _Host:
    saved = visit.target.secrets.get("host_key")
    if saved:
        words = saved.reveal().split()
        if len(words) < 2:
            raise unusable("host_key", "is not an SSH public key")
        return _Host(" ".join(words[:2]), saved=True)
    known = ((visit.target.capabilities or {}).get("ssh") or {}).get("host_key") or {}
    # What was seen at another address says nothing about this one.
    return _Host(known["public_key"] if known.get("destination") == visit.endpoint.origin else None)


async def _private_key(visit: Visit) -> SSHKey:
    import asyncssh

    # In a thread, as trying a passphrase takes long by design, and other checks share this loop.
    pem = await anyio.to_thread.run_sync(unlocked, visit.target.secrets, "private_key", abandon_on_cancel=True)
    try:
        return asyncssh.import_private_key(pem.reveal(), unsafe_skip_rsa_key_validation=True)
    except asyncssh.KeyImportError:
        raise unusable("private_key", "is of a kind that SSH does not use") from None


def _options(visit: Visit, host: _Host, private_key: SSHKey) -> SSHClientConnectionOptions:
    """Nothing of the machine's own: no configuration, agent, known hosts or further keys."""
    import asyncssh

    try:
        return asyncssh.SSHClientConnectionOptions(
            config=None,
            client_factory=_client(visit, host),
            username=visit.target.secrets["username"].reveal(),
            client_keys=[private_key],
            known_hosts=([], [], []),
            server_host_key_algs=host.algorithms(),
            preferred_auth="publickey",
            password_auth=False,
            kbdint_auth=False,
            host_based_auth=False,
            gss_auth=False,
            gss_kex=False,
            agent_path=None,
            pkcs11_provider=None,
            x509_trusted_certs=None,
            compression_algs=None,  # a small packet could unfold to a large one
            request_pty=False,
            login_timeout=0,  # the check has its own deadline
        )
    except ValueError:
        raise unusable("username", "holds a character that cannot be sent") from None


def _client(visit: Visit, host: _Host) -> Callable[[], SSHClient]:
    import asyncssh

    class Client(asyncssh.SSHClient):
        def validate_host_public_key(self, name: str, addr: str, port: int, key: SSHKey) -> bool:
            met = host.meet(key)
            if met:
                visit.passed("tls", "auth")
            return met

    return Client


@asynccontextmanager
async def _signed_in(
    visit: Visit, host: _Host, sock: socket.socket, options: SSHClientConnectionOptions
) -> AsyncIterator[SSHClientConnection]:
    """A connection that has authenticated, closed when the block ends."""
    import asyncssh

    try:
        connection = await asyncssh.connect(visit.endpoint.host or "", sock=sock, config=None, options=options)
    except BaseException as error:
        sock.close()
        if host.seen and host.expected not in (None, _line(host.seen)):
            raise changed_host_key(host.seen.get_fingerprint(), saved=host.saved) from None
        if isinstance(error, asyncssh.Error | UnicodeDecodeError):
            raise finding_of_ssh(visit, error) from None
        raise
    visit.passed("auth", "call")
    try:
        yield connection
    finally:
        connection.close()
        with anyio.move_on_after(GOODBYE_S, shield=True):
            await connection.wait_closed()
        connection.abort()


async def _run_command(visit: Visit, connection: SSHClientConnection) -> None:
    import asyncssh

    command = visit.target.type.definition.get("ssh", {}).get("command")
    if not command:
        return
    nothing = {"stdin": asyncssh.DEVNULL, "stdout": asyncssh.DEVNULL, "stderr": asyncssh.DEVNULL}
    try:
        done = await connection.run(command, check=False, **nothing)
    except asyncssh.ChannelOpenError:
        raise NO_SESSION.finding() from None
    if done.exit_status != 0:
        raise COMMAND_FAILED.finding(detail=f"exit status {done.exit_status}")
    visit.passed("call", "call")


def _found(visit: Visit, connection: SSHClientConnection) -> dict[str, Any]:
    key = connection.get_server_host_key()
    assert key is not None  # there is always one without GSS
    host_key = {
        "public_key": _line(key),
        "fingerprint": key.get_fingerprint(),
        "destination": visit.endpoint.origin,
    }
    return {"ssh": {"server": shortened(connection.get_extra_info("server_version")), "host_key": host_key}}


def _line(key: SSHKey) -> str:
    return " ".join(key.export_public_key("openssh").decode().split()[:2])
