"""The Python example on records that are none of ours: it says so and goes on, and keeps nothing of them."""

from __future__ import annotations

import importlib.util
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest

from deploy.local.settings import PROJECT

PATH = PROJECT / "examples" / "python" / "consumer.py"
EVENT = {"orderId": "o-1", "orderVersion": 1, "status": "active", "trucksFilled": 0}
HEADERS = [("ce_id", b"e-1"), ("ce_type", b"weelo.order.created.v1")]


@dataclass(frozen=True)
class Record:
    """What aiokafka gives, as far as the example looks at it."""

    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    partition: int = 3
    offset: int = 7


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_consumer", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def database(example: ModuleType) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    connection.executescript(example.TABLES)
    yield connection
    connection.close()


def kept(database: sqlite3.Connection) -> list[Any]:
    return database.execute("SELECT ce_id FROM handled UNION ALL SELECT order_id FROM orders").fetchall()


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        (None, HEADERS),
        (b"\xff", HEADERS),
        (b"[]", HEADERS),
        (b"[" * 100_000, HEADERS),
        (json.dumps(EVENT | {"orderVersion": 2**70}).encode(), HEADERS),
        (json.dumps(EVENT | {"status": {"is": "no text"}}).encode(), HEADERS),
        (json.dumps(EVENT | {"status": None}).encode(), HEADERS),
        (json.dumps(EVENT).encode(), []),
        (json.dumps(EVENT).encode(), [("ce_id", None), ("ce_type", b"weelo.order.created.v1")]),
        (json.dumps(EVENT).encode(), [("ce_id", b"e-1"), ("ce_type", None)]),
        (json.dumps(EVENT).encode(), [("ce_id", b"e-1"), ("ce_type", b"weelo.order.\xff")]),
    ],
    ids=[
        "none",
        "no text",
        "a list",
        "deep",
        "huge",
        "a dict",
        "null",
        "no headers",
        "no id",
        "no type",
        "odd",
    ],
)
def test_a_record_that_cannot_be_read_is_named_by_its_place_and_leaves_nothing(
    example: ModuleType,
    database: sqlite3.Connection,
    capsys: pytest.CaptureFixture[str],
    value: bytes | None,
    headers: list[tuple[str, bytes | None]],
) -> None:
    example.take(database, Record(value, headers))
    said = capsys.readouterr()
    assert (said.out, said.err.startswith("unreadable 3/7: ")) == ("", True)
    assert kept(database) == []


def test_a_database_that_is_away_is_no_fault_of_the_record(example: ModuleType) -> None:
    connection = sqlite3.connect(":memory:")  # without its tables
    with pytest.raises(sqlite3.OperationalError):
        example.take(connection, Record(json.dumps(EVENT).encode(), list(HEADERS)))
    connection.close()
