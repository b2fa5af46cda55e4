"""Which files the contract is published in, and how they differ from what stands on the disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.contracts.asyncapi import document
from tools.contracts.promise import Promise
from tools.contracts.samples import samples
from tools.contracts.schema import payload_schema, shape, standalone
from weelo_common.events import Envelope, encode, event_classes

PROJECT = Path(__file__).resolve().parents[2]
SCHEMAS = Path("schemas")
BASELINE = SCHEMAS / "baseline.json"
GOLDEN = Path("tests/contract/golden")


class NoBaseline(Exception):
    """The promise made so far is missing or cannot be read."""


def published() -> dict[Path, str]:
    """Every generated file with its text; the baseline and the golden files are none of them."""
    stock = samples()
    files = {SCHEMAS / "asyncapi.json": _text(document())}
    for event_class in event_classes():
        _, value = encode(stock[event_class.TYPE])
        files[SCHEMAS / "events" / f"{event_class.TYPE}.json"] = _text(
            standalone(event_class, json.loads(value))
        )
    return files


def golden(envelope: Envelope) -> str:
    """The first version of an event: a record as it was written, and the shape that its first readers know.

    Such a file is written once, with the event's first sample, and never again.
    """
    if envelope.event is None:
        raise ValueError(f"the sample of {envelope.type} holds no event")
    headers, value = encode(envelope)
    return _text(
        {
            "topic": envelope.topic.name,
            "key": envelope.key,
            "headers": {name: raw.decode() for name, raw in headers},
            "value": value.decode(),
            "readerKnows": shape(payload_schema(type(envelope.event))),
        }
    )


def golden_path(event_type: str) -> Path:
    """Where the first version of an event is kept."""
    return GOLDEN / f"{event_type}.json"


def read_baseline(project: Path) -> Promise:
    """What v1 has promised so far.

    Raises:
        NoBaseline: it is missing or no JSON.
    """
    try:
        found: Promise = json.loads((project / BASELINE).read_text())
    except (OSError, ValueError) as error:
        raise NoBaseline(
            f"{BASELINE} holds what v1 has promised so far and cannot be read ({type(error).__name__}): "
            "take it back from the history"
        ) from error
    return found


def baseline_text(promise: Promise) -> str:
    """The baseline's file."""
    return _text(promise)


def differences(project: Path, wanted: Mapping[Path, str]) -> list[str]:
    """Files that are missing, stale, or there for no event; sorted, each with what is wrong."""
    found: list[str] = []
    for path, text in wanted.items():
        place = project / path
        if not place.is_file():
            found.append(f"{path}: missing")
        elif place.read_text() != text:
            found.append(f"{path}: not what the event classes say")
    for place in stray(project, wanted):
        found.append(f"{place}: belongs to no event")
    return sorted(found)


def stray(project: Path, wanted: Mapping[Path, str]) -> list[Path]:
    """Schemas of events that are not there any more."""
    there = (path.relative_to(project) for path in (project / SCHEMAS / "events").glob("*.json"))
    return sorted(path for path in there if path not in wanted)


def _text(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"
