"""TLS for the PostgreSQL of a running stack, for the length of a test: connections without it go on as they are."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import asyncpg
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from deploy.local.ports import HOST
from deploy.local.stack import LocalStack
from tests.integration.events_rig import PATIENCE_S

LIFETIME = timedelta(hours=1)


@contextlib.asynccontextmanager
async def postgres_with_tls(stack: LocalStack, ca_file: Path) -> AsyncIterator[None]:
    """The server offers TLS with a certificate of its own, which ``ca_file`` vouches for."""
    admin = await asyncpg.connect(stack.servers.postgres_admin_dsn)
    try:
        folder = Path(await admin.fetchval("SHOW data_directory"))
        key, certificate = _authority()
        _write(ca_file, certificate)
        _write(folder / "server.key", key)
        _write(folder / "server.crt", certificate)
        await _switch(admin, "ALTER SYSTEM SET ssl = on", "on")
        try:
            yield
        finally:
            await _switch(admin, "ALTER SYSTEM RESET ssl", "off")
    finally:
        await admin.close()


def other_authority(ca_file: Path) -> None:
    """A certificate that vouches for nobody here."""
    ca_file.write_bytes(_authority()[1])


async def _switch(admin: asyncpg.Connection[asyncpg.Record], statement: str, wanted: str) -> None:
    await admin.execute(statement)
    await admin.execute("SELECT pg_reload_conf()")
    async with asyncio.timeout(PATIENCE_S):
        while await admin.fetchval("SHOW ssl") != wanted:
            pass


def _write(path: Path, content: bytes) -> None:
    """PostgreSQL wants a key that its own account alone can read."""
    path.touch(mode=0o600)
    path.write_bytes(content)
    folder = path.parent.stat()
    os.chown(path, folder.st_uid, folder.st_gid)


def _authority() -> tuple[bytes, bytes]:
    """A key, and a certificate that it signs for itself and for this machine."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test's PostgreSQL")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - LIFETIME)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(HOST))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem, certificate.public_bytes(Encoding.PEM)
