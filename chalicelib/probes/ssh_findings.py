"""What an SSH connection can end with, in the words of its owner."""

from __future__ import annotations

from chalicelib.model import Verdict
from chalicelib.probes.verdicts import Finding, Reason, cut_off
from chalicelib.probes.visit import Visit

NOT_SSH = Reason(
    Verdict.PROTOCOL,
    "protocol",
    "What answers at this address does not speak SSH as it should. Check the host and the port.",
    "not SSH",
)
NO_COMMON_GROUND = Reason(
    Verdict.TLS,
    "tls",
    "Agreeing on a secure SSH connection failed: the server offers only outdated methods, or broke off. Ask its "
    "operator to update its SSH settings.",
    "no common key exchange",
)
REFUSED_KEY = Reason(
    Verdict.AUTH_REJECTED,
    "auth",
    "Signing in failed: the server refused the SSH key for this user name. Add its public half to the account at the "
    "server, or save another 'username' or 'private_key'.",
    "key refused",
)
NO_SESSION = Reason(
    Verdict.FORBIDDEN_SCOPE,
    "call",
    "Signing in succeeded, but the server does not let this account call a command. Ask its operator to allow it.",
    "no session allowed",
)
COMMAND_FAILED = Reason(
    Verdict.PROTOCOL,
    "call",
    "Signing in succeeded, but the call of the command that proves the connection failed. Check with the server's "
    "operator what this account may run.",
    "command failed",
)


def changed_host_key(fingerprint: str, *, saved: bool) -> Finding:
    """``saved``: the expected key is the owner's credential, not what an earlier check has seen."""
    known = "the one saved as 'host_key'" if saved else "at the first connection"
    message = (
        f"Connecting securely was stopped: the server shows another host key than {known}, so it may be an impostor, "
        "and your key was not shown to it. Ask its operator; if the key was changed on purpose, save the new one as "
        "the credential 'host_key'."
    )
    return Finding(Verdict.TLS, "tls", message, detail=f"host key changed to {fingerprint}")


def finding_of_ssh(visit: Visit, error: Exception) -> Finding:
    """What an exception of asyncssh means. Its text may hold the far side's words, or the address: never shown."""
    import asyncssh

    if isinstance(error, asyncssh.PermissionDenied | asyncssh.IllegalUserName):
        return REFUSED_KEY.finding()
    if isinstance(error, asyncssh.ConnectionLost):
        return cut_off(visit.under_way)
    if isinstance(error, asyncssh.KeyExchangeFailed | asyncssh.HostKeyNotVerifiable):
        return NO_COMMON_GROUND.finding()
    return NOT_SSH.finding()
