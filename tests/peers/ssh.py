"""A real SSH server that knows some keys, and counts who tried to sign in and what was to be run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncssh

from tests.peers.raw import Handler, Loop

USER = "deploy"
VERSION = b"SSH-2.0-Test\r\n"


@dataclass
class SshPeer:
    """``connections`` counts all, ``tried`` names the users that began to authenticate, ``commands`` what was run."""

    port: int = 0
    connections: int = 0
    tried: list[str] = field(default_factory=list)
    commands: list[str | None] = field(default_factory=list)
    compressions: set[str] = field(default_factory=set)


@contextmanager
def ssh_server(
    loop: Loop,
    host_keys: Sequence[asyncssh.SSHKey],
    accounts: Mapping[str, asyncssh.SSHKey],
    *,
    exits: int | None = 0,
    **options: Any,
) -> Iterator[SshPeer]:
    """Lets in whoever owns the private half of an account's key. Every command ends with ``exits``; None refuses all."""
    peer = SshPeer()

    class Server(asyncssh.SSHServer):
        def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
            peer.connections += 1
            self._connection = conn

        def begin_auth(self, username: str) -> bool:
            peer.tried.append(username)
            peer.compressions.add(self._connection.get_extra_info("send_compression"))
            return True

        def public_key_auth_supported(self) -> bool:
            return True

        def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
            known = accounts.get(username)
            return known is not None and known.public_data == key.public_data

    def run(process: asyncssh.SSHServerProcess[str]) -> None:
        peer.commands.append(process.command)
        process.exit(exits or 0)

    async def start() -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            "127.0.0.1",
            0,
            server_factory=Server,
            server_host_keys=list(host_keys),
            **{"process_factory": None if exits is None else run, **options},
        )

    async def stop(acceptor: asyncssh.SSHAcceptor) -> None:
        acceptor.close()
        await acceptor.wait_closed()

    acceptor = loop.run(start())
    peer.port = acceptor.get_port()
    try:
        yield peer
    finally:
        loop.run(stop(acceptor))


def says(*parts: bytes, endlessly: bytes = b"", stays: bool = True) -> Handler:
    """No SSH server: raw words to whoever connects, then silence, or the end."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
        await writer.drain()
        while endlessly:
            writer.write(endlessly)
            await writer.drain()
        if stays:
            await asyncio.sleep(60)

    return handler
