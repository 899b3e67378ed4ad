"""Private keys, certificates and host keys that people paste are read, matched and bounded."""

import base64
import struct
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.pasted import (
    DAY,
    FORMATS,
    PASSPHRASE,
    PRIVATE_KEYS,
    RSA_KEY,
    certificate,
    halved,
    inspect,
    pem,
    problems,
    refusals,
)

# Private keys.


@pytest.mark.parametrize("kind", PRIVATE_KEYS)
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("passphrase", [None, PASSPHRASE], ids=["open", "locked"])
def test_ssh_keys_of_every_usual_form_are_read(kind, form, passphrase):
    if kind == "ed25519" and form == "traditional":
        form = "openssh"  # there is no traditional form of this kind
    values = {"private_key": pem(PRIVATE_KEYS[kind], FORMATS[form], passphrase)}
    if passphrase:
        values["private_key_passphrase"] = passphrase

    assert inspect("ssh_key", username="git", **values) == {"username": None, **dict.fromkeys(values)}
    crlf = {name: value.replace("\n", "\r\n") for name, value in values.items()}
    assert inspect("ssh_key", **crlf) == dict.fromkeys(values)


@pytest.mark.parametrize("form", FORMATS)
def test_a_locked_key_needs_its_passphrase(form):
    locked = pem(PRIVATE_KEYS["p256"], FORMATS[form], PASSPHRASE)

    assert "give it as private_key_passphrase" in problems("ssh_key", private_key=locked)["credentials.private_key"]
    wrong = problems("ssh_key", private_key=locked, private_key_passphrase="not this one")
    assert "does not open with this passphrase" in wrong["credentials.private_key"]
    assert inspect("ssh_key", private_key=locked, stored=["private_key_passphrase"]) == {"private_key": None}


def test_an_open_key_with_a_passphrase_is_a_mistake():
    found = problems("ssh_key", private_key=pem(RSA_KEY), private_key_passphrase="needless words")

    assert "has no passphrase" in found["credentials.private_key"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n", "PuTTYgen"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n", "damaged"),
        ("-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n", "damaged"),
        ("-----BEGIN PRIVATE KEY-----\n%%%%\n-----END PRIVATE KEY-----\n", "damaged"),
        ("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n", "passphrase"),
        ("just some words, no key at all", "not a private key"),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGs somebody", "public half"),
        (RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(), "public half"),
        (certificate(RSA_KEY), "is a certificate"),
        (pem(RSA_KEY).replace("\n", "\\n"), "\\n written out"),
        (pem(RSA_KEY) + pem(RSA_KEY), "not a private key"),
        (halved(pem(RSA_KEY)), "damaged"),
        (halved(pem(RSA_KEY, PrivateFormat.OpenSSH)), "damaged"),
        (pem(RSA_KEY)[:-40], "not a private key"),
    ],
)
def test_what_is_no_private_key_is_named(value, words):
    assert words in problems("ssh_key", private_key=value)["credentials.private_key"]


@pytest.mark.parametrize(
    ("key", "words"),
    [(dsa.generate_private_key(1024), "not supported"), (rsa.generate_private_key(65537, 1024), "1024 bits")],
    ids=["dsa", "short rsa"],
)
@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_weak_keys_are_refused(key, words, form):
    assert words in problems("ssh_key", private_key=pem(key, form))["credentials.private_key"]


def test_a_key_with_a_compressed_point_is_refused_as_one_that_is_not_supported():
    """cryptography reads no such key: it is not damaged, and no passphrase would help."""
    key = ec.generate_private_key(ec.SECP256R1())
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    public = ssh(b"ecdsa-sha2-nistp256") + ssh(b"nistp256") + ssh(point)
    private = b"same" * 2 + public + ssh(b"\0" + key.private_numbers().private_value.to_bytes(32, "big")) + ssh(b"")
    private += bytes(range(1, 1 + -len(private) % 8))
    body = b"openssh-key-v1\0" + b"".join(ssh(part) for part in (b"none", b"none", b"")) + struct.pack(">I", 1)

    told = problems("ssh_key", private_key=openssh(body + ssh(public) + ssh(private)))["credentials.private_key"]

    assert "not supported" in told


def test_a_dsa_key_in_openssh_form_is_refused():
    body = b"openssh-key-v1\0" + b"".join(ssh(part) for part in (b"none", b"none", b"")) + struct.pack(">I", 1)
    body += ssh(ssh(b"ssh-dss") + b"".join(ssh(b"\1") for _ in range(4)))

    assert "not supported" in problems("ssh_key", private_key=openssh(body))["credentials.private_key"]


def test_an_rsa_key_whose_numbers_do_not_fit_is_damaged():
    n = RSA_KEY.private_numbers()
    mixed = rsa.RSAPrivateNumbers(n.p, n.q, n.d + 2, n.dmp1, n.dmq1, n.iqmp, n.public_numbers)
    broken = pem(mixed.private_key(unsafe_skip_rsa_key_validation=True))

    assert "damaged" in problems("ssh_key", private_key=broken)["credentials.private_key"]


def ssh(part: bytes) -> bytes:
    return struct.pack(">I", len(part)) + part


def openssh(body: bytes) -> str:
    lines = base64.encodebytes(body).decode()
    return f"-----BEGIN OPENSSH PRIVATE KEY-----\n{lines}-----END OPENSSH PRIVATE KEY-----\n"


def test_a_key_that_asks_for_hours_of_derivation_is_refused_before_it_is_tried():
    """Four thousand million rounds of bcrypt, of PBKDF2, and scrypt with N = 2⁴⁰: this test ends, or it does not."""
    locked = pem(PRIVATE_KEYS["p256"], PrivateFormat.OpenSSH, PASSPHRASE)
    body = base64.b64decode("".join(locked.split("\n")[1:-2]))
    options_at = body.index(b"bcrypt") + 6 + 4 + 20
    bcrypt = openssh(body[:options_at] + b"\xff\xff\xff\xff" + body[options_at + 4 :])
    pbkdf2 = sequence(oid("2a864886f70d01050c"), sequence(octets(16), integer(2**32 - 1)))
    long_salt = sequence(oid("2a864886f70d01050c"), sequence(octets(3_000), integer(2**32 - 1), integer(32)))
    scrypt = sequence(oid("2b06010401da47040b"), sequence(octets(16), integer(2**40), integer(8), integer(1)))
    memory = sequence(oid("2b06010401da47040b"), sequence(octets(16), integer(2**17), integer(64), integer(1)))
    pkcs12 = sequence(oid("2a864886f70d010c0103"), sequence(octets(8), integer(2**31 - 1)))
    locked_keys = [bcrypt, encrypted(pkcs12), *(encrypted(pbes2(each)) for each in (pbkdf2, long_salt, scrypt, memory))]

    for key in locked_keys:
        found = problems("ssh_key", private_key=key, private_key_passphrase="does not matter")
        assert "too many key derivation rounds" in found["credentials.private_key"]


def test_a_second_key_hidden_beside_the_first_is_not_what_gets_loaded():
    """The rounds of one block must not vouch for another that the parser finds first."""
    locked = pem(PRIVATE_KEYS["p256"], PrivateFormat.OpenSSH, PASSPHRASE)
    body = base64.b64decode("".join(locked.split("\n")[1:-2]))
    at = body.index(b"bcrypt") + 6 + 4 + 20
    slow = base64.b64encode(body[:at] + b"\xff\xff\xff\xff" + body[at + 4 :]).decode()
    hidden = f"-----BEGIN OPENSSH PRIVATE KEY-----{slow}-----END OPENSSH PRIVATE KEY-----\n{locked}"
    inside = locked.replace("KEY-----\n", f"KEY-----\nx: -----BEGIN OPENSSH PRIVATE KEY-----{slow}\n", 1)

    for value in (hidden, inside):  # either answer is fine; it must come at once
        assert refusals("ssh_key", private_key=value, private_key_passphrase=PASSPHRASE) <= {"credentials.private_key"}


def encrypted(algorithm: bytes) -> str:
    lines = base64.encodebytes(sequence(algorithm, octets(64))).decode()
    return f"-----BEGIN ENCRYPTED PRIVATE KEY-----\n{lines}-----END ENCRYPTED PRIVATE KEY-----\n"


def pbes2(derivation: bytes) -> bytes:
    aes = sequence(oid("60864801650304012a"), octets(16))
    return sequence(oid("2a864886f70d01050d"), sequence(derivation, aes))


def der(tag: int, body: bytes) -> bytes:
    size = len(body)
    return bytes([tag]) + (bytes([size]) if size < 128 else b"\x82" + struct.pack(">H", size)) + body


def sequence(*parts: bytes) -> bytes:
    return der(0x30, b"".join(parts))


def octets(size: int) -> bytes:
    return der(0x04, b"s" * size)


def integer(value: int) -> bytes:
    return der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def oid(body: str) -> bytes:
    return der(0x06, bytes.fromhex(body))


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(list(FORMATS)), st.booleans(), st.integers(0, 2_000), st.binary(min_size=1, max_size=4))
def test_a_damaged_key_is_refused_or_read_but_breaks_nothing(form, locked, place, junk):
    text = pem(PRIVATE_KEYS["p256"], FORMATS[form], "pass" if locked else None)
    lines = text.split("\n")
    body = bytearray(base64.b64decode("".join(line for line in lines[1:-2] if line and ": " not in line)))
    at = place % len(body)
    body[at : at + len(junk)] = junk
    headers = [line for line in lines[1:-2] if ": " in line]
    middle = [*headers, ""] * bool(headers) + [base64.b64encode(body).decode()]
    values = {"private_key": "\n".join([lines[0], *middle, *lines[-2:]])}
    if locked:
        values["private_key_passphrase"] = "pass"
    assert refusals("ssh_key", **values) <= {"credentials.private_key"}


# Certificates.


def test_a_certificate_and_its_key_give_the_expiry():
    for key in (*PRIVATE_KEYS.values(), ed448.Ed448PrivateKey.generate()):
        expires = inspect("certificate", client_certificate=certificate(key), client_key=pem(key))
        assert expires["client_key"] is None
        assert timedelta(0) < expires["client_certificate"] - datetime.now(UTC) <= 30 * DAY
        assert expires["client_certificate"].tzinfo is UTC


def test_a_chain_ends_with_its_first_end_and_trusted_authorities_with_their_last():
    key = PRIVATE_KEYS["p256"]
    chain = certificate(key, ends=30 * DAY) + certificate(RSA_KEY, ends=10 * DAY)
    trusted = certificate(key, ends=-DAY) + certificate(RSA_KEY, ends=10 * DAY)

    expires = inspect("certificate", client_certificate=chain, client_key=pem(key), ca_certificate=trusted)

    assert {(end - datetime.now(UTC)).days for end in expires.values() if end} == {9}
    assert inspect("certificate", ca_certificate=chain)["ca_certificate"] > datetime.now(UTC) + 29 * DAY


@pytest.mark.parametrize("kind", ["client_certificate", "ca_certificate"])
def test_an_expired_certificate_is_refused_with_its_date(kind):
    ended = datetime.now(UTC).replace(microsecond=0) - DAY

    found = problems("certificate", **{kind: certificate(RSA_KEY, ends=-DAY)})

    assert f"expired on {ended:%Y-%m-%d}" in found[f"credentials.{kind}"]


@pytest.mark.parametrize("kind", [*PRIVATE_KEYS, "another ed25519"])
def test_a_key_of_another_certificate_is_refused(kind):
    owner = ed25519.Ed25519PrivateKey.generate()
    other = PRIVATE_KEYS.get(kind) or ed25519.Ed25519PrivateKey.generate()

    found = problems("certificate", client_certificate=certificate(owner), client_key=pem(other))

    assert "does not belong" in found["credentials.client_key"]


def test_a_locked_client_key_is_opened_to_see_whether_it_belongs():
    key = PRIVATE_KEYS["p384"]
    locked = {"client_key": pem(key, passphrase=PASSPHRASE), "client_key_passphrase": PASSPHRASE}

    assert set(inspect("certificate", client_certificate=certificate(key), **locked)) == {"client_certificate", *locked}
    found = problems("certificate", client_certificate=certificate(RSA_KEY), **locked)
    assert "does not belong" in found["credentials.client_key"]


def test_one_of_a_pair_may_be_replaced_alone():
    key = PRIVATE_KEYS["p256"]
    assert inspect("certificate", client_key=pem(key), stored=["client_certificate"]) == {"client_key": None}
    assert inspect("certificate", client_certificate=certificate(key), stored=["client_key"])["client_certificate"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("no certificate at all", "not a certificate"),
        (pem(RSA_KEY), "is a private key"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "damaged"),
        (halved(certificate(RSA_KEY)), "damaged"),
        (certificate(RSA_KEY) + halved(certificate(RSA_KEY)), "damaged"),
        (certificate(RSA_KEY).replace("\n", "\\n"), "\\n written out"),
    ],
)
@pytest.mark.parametrize("kind", ["client_certificate", "ca_certificate"])
def test_what_is_no_certificate_is_named(kind, value, words):
    assert words in problems("certificate", **{kind: value})[f"credentials.{kind}"]


def test_a_client_key_in_openssh_form_is_refused_because_tls_cannot_read_it():
    found = problems("certificate", client_key=pem(RSA_KEY, PrivateFormat.OpenSSH))

    assert "OpenSSH form" in found["credentials.client_key"]


# Host keys.


@pytest.mark.parametrize("kind", PRIVATE_KEYS)
def test_a_host_key_is_one_line(kind):
    line = PRIVATE_KEYS[kind].public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()

    for value in (line, f"{line} comment", f"{line}\n"):
        assert inspect("ssh_key", host_key=value) == {"host_key": None}
    for value in (
        f"host.example {line}",
        f"{line}\n{line}",
        line[:-20],
        "SHA256:abcdefghijkl",
        "ssh-dss AAAAB3NzaC1kc3M=",
    ):
        problems("ssh_key", host_key=value)
