"""The services' loop breaks a lost connection as asyncio's does, whatever uvloop says of it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from weelo_common.event_loop import new_event_loop

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: a close with this is a reset


@contextlib.asynccontextmanager
async def reset_connection() -> AsyncIterator[asyncio.StreamWriter]:
    """The writing side of a connection that the other side has reset while nobody used it."""
    gone = asyncio.Event()

    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw: socket.socket = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()
        gone.set()

    server = await asyncio.start_server(reset, "127.0.0.1", 0)
    try:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await gone.wait()
        with contextlib.suppress(OSError):
            await reader.read()  # the reset has arrived
        yield writer
    finally:
        server.close()


async def write_to_it(many: bool) -> None:
    async with reset_connection() as writer:
        if many:
            writer.writelines([b"x", b"y"])
        else:
            writer.write(b"x")


@pytest.mark.parametrize("many", [False, True])
def test_writing_to_a_connection_that_was_reset_is_an_os_error(many: bool) -> None:
    with asyncio.Runner(loop_factory=new_event_loop) as runner, pytest.raises(ConnectionResetError):
        runner.run(write_to_it(many))


@pytest.mark.parametrize("many", [False, True])
def test_uvloop_itself_still_calls_it_a_runtime_error(many: bool) -> None:
    """When this fails, ``weelo_common.event_loop`` has become needless."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, pytest.raises(RuntimeError):
        runner.run(write_to_it(many))


def test_everything_else_of_a_connection_is_as_ever() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(4))
        writer.close()

    async def ask() -> bytes:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.writelines([b"pi", b"ng"])
        await writer.drain()
        writer.write_eof()
        assert writer.get_extra_info("peername")[0] == "127.0.0.1"
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        assert writer.is_closing()
        server.close()
        return answer

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        assert runner.run(ask()) == b"ping"


def test_a_connection_can_be_upgraded_to_tls_as_asyncpg_does(tmp_path: Path) -> None:
    trusted, serving = tls_contexts(tmp_path)

    async def upgrade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(1))
        await writer.start_tls(serving)
        writer.write(await reader.readexactly(4))
        await writer.drain()
        writer.close()

    async def ask() -> bytes:
        server = await asyncio.start_server(upgrade, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"S")
            await reader.readexactly(1)
            async with asyncio.timeout(20):
                await writer.start_tls(trusted, server_hostname="localhost")
                writer.write(b"ping")
                answer = await reader.readexactly(4)
            assert writer.get_extra_info("ssl_object") is not None
            writer.close()
            return answer

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        assert runner.run(ask()) == b"ping"


def tls_contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of a client that trusts, and of the server that is, ``localhost``."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM)
    both = folder / "server.pem"
    both.write_bytes(pem + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    trusted = ssl.create_default_context(cadata=pem.decode())
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(both)
    return trusted, serving
