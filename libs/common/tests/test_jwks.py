"""Keys from a URL: fetched again for a key that is new, kept when the URL is away, never hammered."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec_key
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key

from weelo_common import jwks
from weelo_common.auth import InvalidToken, TokenVerifier
from weelo_common.jwks import KeySet, KeysUnavailable

FIRST, SECOND = generate_private_key(65537, 2048), generate_private_key(65537, 2048)
RUBBISH = (
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b'{"keys": 5}',
    b'{"keys": []}',
    b'{"keys": {"kid": "x"}}',
    *(b'{"keys": [%b]}' % entry for entry in (b"{}", b"null", b"[]", b'"x"')),
    b'{"keys":' + b"[" * 100_000,
    b"x" * 300_000,
)
NO_HTTP = (
    b"HELLO\r\n\r\n",
    b"\x15\x03\x01\x00\x02\x02\x46",  # as a TLS server answers whoever speaks plainly
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 300,
    b"HTTP/1.1 200 " + b"x" * 70_000,
)


class LoginService:
    """Publishes a key set by HTTP, and counts who asks."""

    def __init__(self) -> None:
        self.body = b""
        self.raw = b""
        """Sent as it is, head and all, where it is not empty."""
        self.asked = 0
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                service.asked += 1
                if service.raw:
                    self.wfile.write(service.raw)
                    return
                self.send_response(200 if service.body else 503)
                self.end_headers()
                self.wfile.write(service.body)

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/jwks.json"

    def publish(self, **keys: RSAPrivateKey) -> None:
        entries = [
            json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())) | {"kid": kid, "use": "sig"}
            for kid, key in keys.items()
        ]
        other = jwt.algorithms.ECAlgorithm.to_jwk(generate_ec_key(SECP256R1()).public_key())
        entries.append(json.loads(other) | {"kid": "of-another-kind", "alg": "ES256"})
        self.body = json.dumps({"keys": entries}).encode()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The login service here answers in a thread of this process, which a busy machine may hold up."""
    monkeypatch.setattr(jwks, "FETCH_DEADLINE_S", 20.0)


@pytest.fixture
def login() -> Iterator[LoginService]:
    service = LoginService()
    thread = threading.Thread(target=service.server.serve_forever, args=(0.01,))
    thread.start()
    yield service
    service.server.shutdown()
    thread.join()
    service.server.server_close()


def verifier(login: LoginService, refetch_s: float = 0.0) -> TokenVerifier:
    keys = KeySet(login.url, algorithm="RS256", refresh_s=300, refetch_s=refetch_s)
    return TokenVerifier(algorithm="RS256", key=keys, issuer="weelo", audience="weelo-apps", leeway_s=10)


def token(key: RSAPrivateKey, kid: str | None) -> str:
    claims = {
        "sub": "c-1",
        "role": "customer",
        "iss": "weelo",
        "aud": "weelo-apps",
        "exp": dt.datetime.now(dt.UTC) + dt.timedelta(hours=1),
    }
    return jwt.encode(claims, key, algorithm="RS256", headers={"kid": kid} if kid else None)


async def started(login: LoginService, refetch_s: float = 0.0) -> TokenVerifier:
    """A verifier whose loop has fetched once and was stopped."""
    taken = verifier(login, refetch_s)
    stop = asyncio.Event()
    stop_after_fetch = asyncio.create_task(taken.run(stop))
    stop.set()
    await stop_after_fetch
    return taken


async def test_a_key_that_is_new_is_fetched_and_its_token_holds(login: LoginService) -> None:
    login.publish(first=FIRST)
    taken = await started(login)
    assert (await taken.authenticate(token(FIRST, "first"))).user_id == "c-1"
    login.publish(first=FIRST, second=SECOND)
    assert (await taken.authenticate(token(SECOND, "second"))).user_id == "c-1"


async def test_unknown_keys_do_not_hammer_the_login_service(login: LoginService) -> None:
    login.publish(first=FIRST)
    taken = await started(login, refetch_s=60)
    for kid in ("a", "b", "c", "of-another-kind", None):
        with pytest.raises(InvalidToken):
            await taken.authenticate(token(SECOND, kid))
    assert login.asked == 1


async def test_known_keys_are_kept_while_the_login_service_is_away(login: LoginService) -> None:
    login.publish(first=FIRST)
    taken = await started(login)
    for rubbish in RUBBISH:
        login.body = rubbish
        with pytest.raises(InvalidToken):
            await taken.authenticate(token(SECOND, "second"))
        assert (await taken.authenticate(token(FIRST, "first"))).user_id == "c-1"


@pytest.mark.parametrize("raw", NO_HTTP, ids=lambda raw: repr(raw[:30]))
async def test_known_keys_are_kept_and_the_loop_goes_on_where_what_answers_speaks_no_http(
    login: LoginService, raw: bytes
) -> None:
    login.publish(first=FIRST)
    taken = await started(login)
    login.raw = raw
    with pytest.raises(InvalidToken):
        await taken.authenticate(token(SECOND, "second"))
    stop = asyncio.Event()
    stop.set()
    await taken.run(stop)  # fetches once more; what it raises ends the service
    assert login.asked == 3
    assert (await taken.authenticate(token(FIRST, "first"))).user_id == "c-1"


async def test_a_broken_key_of_the_set_does_not_take_the_others_along(login: LoginService) -> None:
    login.publish(first=FIRST)
    broken = [
        None,
        {"kty": "RSA", "kid": "no numbers", "n": 5, "e": "AQAB"},
        {"kty": "RSA", "kid": "too small", "n": "AQ", "e": "AQ"},
        {"kty": ["RSA"], "kid": "no kind"},
    ]
    login.body = json.dumps({"keys": [*broken, *json.loads(login.body)["keys"]]}).encode()
    taken = await started(login)
    assert (await taken.authenticate(token(FIRST, "first"))).user_id == "c-1"


async def test_a_key_of_the_set_does_not_vouch_for_another_keys_token(login: LoginService) -> None:
    login.publish(first=FIRST, second=SECOND)
    taken = await started(login)
    with pytest.raises(InvalidToken):
        await taken.authenticate(token(SECOND, "first"))


async def test_before_the_first_fetch_nobody_is_told_that_his_token_is_bad(login: LoginService) -> None:
    taken = verifier(login)
    assert taken.trouble is not None
    with pytest.raises(KeysUnavailable):
        await taken.authenticate(token(FIRST, "first"))
