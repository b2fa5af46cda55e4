"""Rubbish to throw at every edge: values, bodies, headers, paths and records that no honest caller sends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from random import Random
from typing import Any
from uuid import uuid4

from weelo_common.events import Event, encode, seal

VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**31,
    2**63,
    10**400,
    -0.0,
    1e308,
    5e-324,
    "",
    " ",
    "a" * 70_000,
    "x" * 65,
    "\x00",
    "a\x00b",
    "\ud800",
    "\U0001f69a",
    "\u202e\u0000",
    "null",
    "NaN",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59.999Z",
    "9999-12-31T23:59:59-23:59",
    "2026-02-30T00:00:00Z",
    "2026-02-03T10:08:28",
    "00000000-0000-0000-0000-000000000000",
    "{00000000-0000-0000-0000-000000000000}",
    "'; DROP TABLE orders; --",
    [],
    {},
    [[]],
    {"": {"": []}},
    ["a"] * 300,
)
TEXTS = tuple(value for value in VALUES if isinstance(value, str))
RAW_BODIES: tuple[bytes, ...] = (
    b"",
    b"{",
    b"[]",
    b"null",
    b'"text"',
    b"\xff\xfe",
    b"\x00",
    b"NaN",
    b'{"a":Infinity}',
    b"[" * 60_000,
    b'{"a":' * 12_000,
    b"[" * 900 + b'"\\u0000"' + b"]" * 900,
    b"[" * 400 + b'"\\u0000"' + b"]" * 400,
    b'{"a":"\\ud800"}',
    b'{"\\ud800":1}',
    b'{"\\ud800":"\\u0000"}',
    b'{"quantity":' + b"9" * 5000 + b"}",
    b"{" + b" " * 65_500 + b"}",
    b"{" + b" " * 70_000 + b"}",
    json.dumps({"a" * 60_000: 1}).encode(),
)


def spoiled(body: Any, random: Random) -> Any:
    """The body with one value somewhere in it replaced, dropped or doubled by rubbish."""
    if isinstance(body, dict) and body and random.random() < 0.85:
        name = random.choice(sorted(body))
        changed = dict(body)
        if random.random() < 0.15:
            del changed[name]
        else:
            changed[name] = spoiled(body[name], random)
        return changed
    if isinstance(body, list) and body and random.random() < 0.85:
        at = random.randrange(len(body))
        return [*body[:at], spoiled(body[at], random), *body[at + 1 :]]
    return random.choice(VALUES)


Headers = list[tuple[str, bytes | None]]


def spoiled_records(example: Event, random: Random) -> Iterator[tuple[bytes | None, Headers, bytes | None]]:
    """Records (key, headers, value) that are nearly the example, or nothing like it."""
    sealed_headers, value = encode(seal(example, source="rubbish", time=datetime.now(UTC)))
    good: Headers = [*sealed_headers]
    key = example.key().encode()

    def fresh(**changes: bytes | None) -> Headers:
        named = dict(good) | {"ce_id": str(uuid4()).encode()} | changes
        return list(named.items())

    yield b"", [], None
    yield key, fresh(), None
    yield None, fresh(), value
    yield b"\xff\xfe", fresh(), value
    yield b"a\x00b", fresh(), value
    yield b"k" * 5_000, fresh(), value
    yield key, fresh(), b"\xff" * 100
    yield key, fresh(), b"[" * 100_000
    yield key, fresh(), b"\x00" * 2_000_000  # small on the wire, large once unpacked
    yield key, fresh(ce_id=b"i" * 10_000), value
    yield key, fresh(ce_id=b"\xff"), value
    yield key, fresh(ce_time=b"9999-12-31T23:59:59-23:59"), value
    yield key, fresh(ce_time=b"0001-01-01T00:00:00Z"), value
    yield key, fresh(ce_time=b"yesterday"), value
    yield key, fresh(ce_type=b""), value
    yield key, fresh(ce_type=b"t" * 100_000), value
    yield key, fresh(ce_specversion=b"0.3"), value
    yield key, fresh(traceparent=b"00-rubbish"), value
    yield key, [*fresh(), ("nothing", None), ("", b""), ("h" * 30_000, b"v" * 30_000)], value
    yield key, [*fresh(), *[(f"h{number}", b"v") for number in range(2_000)]], value
    body = json.loads(value)
    for _ in range(60):
        text = json.dumps(spoiled(body, random))
        spoiled_key = key if random.random() < 0.5 else random.choice(TEXTS)[:200].encode(errors="replace")
        yield spoiled_key, [*fresh(), ("nothing", None)], text.encode(errors="surrogatepass")
