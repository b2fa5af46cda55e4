"""Rubbish on every HTTP path and on the socket: a named error each time, never a 500, a hang or a crash."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from random import Random
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.e2e.city import City, new_subtype, order_body
from tests.faults.rubbish import RAW_BODIES, TEXTS, VALUES, spoiled
from tools.demo.phone import API
from weelo_common.http import BODY_DEADLINE_S
from weelo_common.ids import new_id

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

ROUNDS = 60  # of rubbish at each path and method
ANSWERED_WITHIN_S = 8.0  # on a busy machine; nothing here may hang
ROLES = ("customer", "captain", "transporter", "ops")
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
ENCODINGS = ("utf-8",) * 9 + ("utf-16",)  # JSON is UTF-8, but Python's reader takes more
REASONABLE = {200, 201, 202, 400, 401, 403, 404, 405, 409, 413, 415, 422, 429}
# What an honest caller sends, by how the path ends: rubbish that is nearly right gets furthest in.
BODIES: dict[str, tuple[str, Any]] = {
    "/orders": ("customer", order_body("S_RUBBISH", trucks=2)),
    "/cancel": ("customer", {"reason": "x"}),
    "/accept": ("captain", {"offerToken": "e30.e30.e30"}),
    "/release": ("captain", {"reason": "x"}),
    "/decline": ("captain", {"reason": "OTHER"}),
    "/availability": ("captain", {"available": True}),
    "/locations": (
        "captain",
        {
            "locations": [
                {
                    "latitude": 1.0,
                    "longitude": 2,
                    "recordedAt": "2026-02-03T10:08:28.123Z",
                    "accuracyM": 1,
                    "headingDeg": 2,
                    "speedMps": 0.1,
                }
            ]
        },
    ),
    "/captains/me": (
        "captain",
        {
            "transporterId": "t",
            "name": "n",
            "vehicleType": "TRUCK",
            "vehicleSubtype": "S",
            "vehicleNumber": "DL",
        },
    ),
    "/captains/{captain_id}": ("ops", {"confirmed": True}),
    "/transporters/{transporter_id}": ("ops", {"name": "n", "phone": "p", "active": True, "verified": True}),
}


def fitting_role(path: str, random: Random) -> str:
    """Mostly the role that the path is for."""
    found = [role for end, (role, _) in BODIES.items() if path.endswith(end)]
    if found and random.random() < 0.8:
        return found[0]
    return random.choice(ROLES)


def fitting_body(path: str, random: Random) -> Any:
    """Mostly the body that the path takes."""
    found = [body for end, (_, body) in BODIES.items() if path.endswith(end)]
    if found and random.random() < 0.9:
        return found[0]
    return random.choice([body for _, body in BODIES.values()])


BAD_HEADERS: tuple[dict[str, str | bytes], ...] = (
    {},
    {"authorization": "Bearer"},
    {"authorization": "Basic eDp5"},
    {"authorization": b"Bearer \xff\xfe"},
    {"authorization": "Bearer " + "e30." * 5000},
    {"authorization": "Bearer e30.e30.e30"},
    {"content-type": "text/plain"},
    {"content-type": b"application/json; charset=\xff"},
    {"content-type": "application/json; charset=utf-16"},
    {"content-encoding": "gzip"},
    {"x-idempotency-key": "k", "idempotency-key": "l"},
    {"x-idempotency-key": "k" * 300},
    {"x-idempotency-key": b"\xe2\x82\xac"},
    {"x-idempotency-key": '"unclosed'},
    {"x-idempotency-key": '""'},
    {"x-request-id": b"\x80" * 20},
    {"x-request-id": "x" * 5000},
    {"traceparent": "00-" + "g" * 32 + "-0-0"},
    {"traceparent": "ff-" + "f" * 32 + "-" + "f" * 16 + "-01"},
    {"x-forwarded-for": "::::", "host": ""},
)


async def paths_of(city: City, service: str) -> list[str]:
    answer = await city.client.get(f"{city.services[service].base_url}/openapi.json")
    return sorted(answer.json()["paths"])


@pytest.mark.parametrize("service", ["order-api", "dispatcher", "notifier"])
async def test_rubbish_on_every_path_gets_a_named_error(city: City, service: str) -> None:
    random = Random(service)
    base = city.services[service].base_url
    tokens = {
        role: [city.phone(role, person).token for person in (f"r-{role}", "r\u20ac'; --")] for role in ROLES
    }
    at_once = asyncio.Semaphore(8)
    wrong: list[str] = []
    seen: Counter[int] = Counter()

    async def one(method: str, path: str) -> None:
        def segment(_: str) -> str:
            pick = random.random()
            if pick < 0.4:
                return new_id()
            return quote(random.choice(TEXTS)[:300].encode(errors="surrogatepass"), safe="")

        parts = path.split("/")
        url = base + "/".join(segment(part) if part.startswith("{") else part for part in parts)
        if random.random() < 0.4:
            names = ("status", "page", "limit", "after", "rubbish")
            values = [
                quote(str(random.choice(VALUES))[:200].encode(errors="surrogatepass")) for _ in range(3)
            ]
            url += "?" + "&".join(f"{random.choice(names)}={value}" for value in values)
            url += random.choice(["", "&%ff", "&=&", "&a[]=%00", "#x"])
        headers: dict[str, str | bytes] = {
            "authorization": f"Bearer {random.choice(tokens[fitting_role(path, random)])}",
            "content-type": "application/json",
        }
        if random.random() < 0.3:
            headers |= random.choice(BAD_HEADERS)
        content: bytes | None = None
        if method in ("POST", "PUT", "PATCH", "DELETE"):
            if random.random() < 0.3:
                content = random.choice(RAW_BODIES)
            else:
                text = json.dumps(spoiled(fitting_body(path, random), random))
                content = text.encode(random.choice(ENCODINGS), errors="surrogatepass")
        raw_headers = [(k.encode(), v if isinstance(v, bytes) else v.encode()) for k, v in headers.items()]
        async with at_once:
            try:
                answer = await city.client.request(
                    method, url, content=content, headers=raw_headers, timeout=ANSWERED_WITHIN_S
                )
            except httpx.InvalidURL:
                return
            except httpx.TransportError as error:
                wrong.append(
                    f"{type(error).__name__} {method} {url[:150]} {str(headers)[-200:]} {(content or b'')[:100]!r}"
                )
                return
        seen[answer.status_code] += 1
        where = (
            f"{answer.status_code} {method} {url[:150]} {(content or b'')[:150]!r}: {answer.content[:200]!r}"
        )
        refused = answer.status_code >= 400 and method != "HEAD"
        if answer.status_code not in REASONABLE or (refused and not named(answer)):
            wrong.append(where)

    calls = [
        (method, path)
        for path in [*await paths_of(city, service), f"{API}/%00", "/", "//", "/health/../x"]
        for method in METHODS
        for _ in range(ROUNDS if method in ("GET", "POST", "PUT") else 3)
    ]
    random.shuffle(calls)
    await asyncio.gather(*(one(method, path) for method, path in calls))
    assert not wrong, "\n".join(wrong[:20])
    assert seen[200] + seen[201] + seen[202] > 20, f"hardly anything got through: {seen}"
    assert city.services[service].running


def named(answer: httpx.Response) -> bool:
    try:
        error = answer.json()["error"]
        return bool(error["code"].isupper() and error["message"] and answer.headers["x-request-id"])
    except (ValueError, KeyError, TypeError):
        return False


LINES: tuple[bytes, ...] = (
    b"\x00" * 2000,
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"RUBBISH / HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /\xff\x00 HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /%zz HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET http://[ HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET * HTTP/1.1\r\nhost: x\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /api/v1/orders HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
    b"POST /api/v1/orders HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\n{}",
    b"POST /api/v1/orders HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b"POST /api/v1/orders HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    b"fff\r\n" + b"a" * 4095 + b"\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"a: " + b"b" * 200_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000 + b"\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500,
)


@pytest.mark.parametrize("service", ["order-api", "notifier", "notifier-ws"])
async def test_what_is_no_http_at_all_harms_nobody_else(city: City, service: str) -> None:
    process = city.services[service.removesuffix("-ws")]
    port = process.ports.ws if service.endswith("-ws") else process.ports.http
    for line in LINES:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(line)
        writer.write_eof()
        try:
            answer = await asyncio.wait_for(reader.read(), ANSWERED_WITHIN_S)
        except ConnectionResetError:
            answer = b"RESET"
        except TimeoutError:
            answer = b"HUNG"
        status = answer.split(b"\r\n")[0]
        assert answer != b"HUNG", line[:80]
        assert b" 500 " not in status, (line[:80], answer[:300])
        writer.close()
    assert await asyncio.to_thread(process.ready)


async def test_who_announces_a_body_and_sends_none_is_sent_away(city: City) -> None:
    process = city.services["order-api"]
    reader, writer = await asyncio.open_connection("127.0.0.1", process.ports.http)
    token = city.customer().phone.token
    writer.write(
        f"POST {API}/orders HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n"
        "content-type: application/json\r\ncontent-length: 500\r\n\r\n{".encode()
    )
    answer = await asyncio.wait_for(reader.read(), BODY_DEADLINE_S + ANSWERED_WITHIN_S)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"VALIDATION_ERROR" in answer


FRAMES: tuple[str | bytes, ...] = (
    "",
    "{",
    "null",
    "[]",
    "[" * 60_000,
    '{"a":' * 10_000,
    '{"type":',
    '{"type": 1}',
    '{"type": "auth"}',
    '{"type": "auth", "token": 5}',
    '{"type": "auth", "token": "\\ud800"}',
    '{"type": "auth", "token": "\\u0000"}',
    '{"type": "auth", "token": "x"}',
    '{"type": "ping", "x": ' + "9" * 5000 + "}",
    '{"type": "ack", "offset": 99999999999999999999999}',
    '{"type": "ack", "offset": -1}',
    '{"type": "ack", "offset": 1e400}',
    '{"type": "ack", "offset": true}',
    '{"type": "ack"}',
    '{"type": "' + "t" * 60_000 + '"}',
    '{"type": "auth", "token": "T", "resume": []}',
    '{"type": "auth", "token": "T", "resume": {"epoch": "e", "offset": -1}}',
    '{"type": "auth", "token": "T", "resume": {"epoch": "\\u0000", "offset": 9223372036854775807}}',
    '{"type": "auth", "token": "T", "resume": {"epoch": "' + "e" * 50_000 + '", "offset": 1}}',
    "a" * 70_000,
    b"",
    b"\xff\xfe",
    b'{"type": "ping"}',
)
CLOSE_CODES = {1000, 1002, 1003, 1006, 1007, 1009, 4400, 4401, 4408, 4429}


async def test_rubbish_on_the_socket_is_closed_with_the_code_that_says_so(city: City) -> None:
    customer = city.customer()
    url = city.services["notifier"].ws_url
    wrong: list[tuple[bool, str | bytes, object]] = []
    for authenticated in (False, True):
        for frame in FRAMES:
            text = frame.replace('"T"', json.dumps(customer.phone.token)) if isinstance(frame, str) else frame
            try:
                async with connect(url, open_timeout=5, close_timeout=1, proxy=None, compression=None) as ws:
                    if authenticated:
                        await ws.send(json.dumps({"type": "auth", "token": customer.phone.token}))
                        assert json.loads(await asyncio.wait_for(ws.recv(), 5))["type"] == "ready"
                    await ws.send(text)
                    await ws.send('{"type": "ping"}')
                    async with asyncio.timeout(ANSWERED_WITHIN_S):
                        while json.loads(await ws.recv())["type"] != "pong":
                            pass
            except ConnectionClosed as closed:
                code = closed.rcvd.code if closed.rcvd else 1006
                if code not in CLOSE_CODES:
                    wrong.append((authenticated, frame[:80], code))
            except (TimeoutError, InvalidHandshake) as error:
                wrong.append((authenticated, frame[:80], repr(error)))
    assert not wrong
    subtype = new_subtype()
    async with city.captain(subtype) as captain:
        created = await city.customer().create(order_body(subtype))
        await captain.offer(created.data["orderId"])
