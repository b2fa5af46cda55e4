"""The gate: whether a new promise only adds to an old one. Pure: two documents in, a list of breaks out.

Both directions must hold, because readers and writers are never deployed at once: today's readers read events of
the first version, and readers of the first version read today's events. So within v1 a bound may neither be narrowed
nor widened; what is new is optional.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tools.contracts.promise import Promise
from tools.contracts.schema import Schema

OLD_READERS = "readers of the first version refuse today's events"
OLD_EVENTS = "today's readers refuse events of the first version"
_LOWER = frozenset({"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"})
_UPPER = frozenset({"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"})
_WALKED = frozenset({"properties", "required", "items"})
_DAY_MS = 24 * 60 * 60 * 1000


@dataclass(frozen=True, slots=True)
class Break:
    """One thing that v1 does not allow: where it is, what was done, and whom it hurts."""

    where: str
    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}: {self.why}"


def breaks(old: Promise, new: Promise) -> list[Break]:
    """Everything in which ``new`` takes back something that ``old`` has promised."""
    return [
        *_topics(old["topics"], new["topics"]),
        *_events(old["events"], new["events"]),
        *(
            found
            for name, headers in old["headers"].items()
            for found in _schema(f"headers of the {name}", headers, new["headers"].get(name, {}))
        ),
        *_packed(old["packed"], new["packed"]),
    ]


def _topics(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Break]:
    for name, was in old.items():
        now = new.get(name)
        if now is None:
            yield Break(name, "the topic was removed or renamed", "its readers would wait for ever")
            continue
        if now["key"] != was["key"]:
            yield Break(
                name,
                f"key changed from {was['key']} to {now['key']}",
                "events that belong together would come in any order",
            )
        if now["partitions"] != was["partitions"]:
            yield Break(
                name,
                f"partitions changed from {was['partitions']} to {now['partitions']}",
                "a key's new events would go to another partition than its old ones, and lose their order",
            )
        if now["retentionMs"] < was["retentionMs"]:
            yield Break(
                name,
                f"retention shortened from {_days(was['retentionMs'])} to {_days(now['retentionMs'])}",
                "a reader that was away may count on the longer time",
            )


def _events(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Break]:
    for name, was in old.items():
        now = new.get(name)
        if now is None:
            yield Break(name, "the event was removed or renamed", "its readers would never hear of it again")
            continue
        if now["topic"] != was["topic"]:
            yield Break(
                name,
                f"topic changed from {was['topic']} to {now['topic']}",
                "its readers look for it where it was, and its order with the other events is lost",
            )
        if now["key"] != was["key"]:
            yield Break(
                name,
                f"key changed from {_key(was['key'])} to {_key(now['key'])}",
                "events that belong together would come in any order",
            )
        yield from _schema(name, was["body"], now["body"])


def _packed(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Break]:
    for name, was in old.items():
        now = new.get(name)
        if now is None:
            yield Break(name, "the packed format was removed", "its readers could not read what is written")
        elif now != was and now["formatVersion"] <= was["formatVersion"]:
            yield Break(
                name,
                f"the packed layout changed under format version {now['formatVersion']}",
                "readers would take one field for another; give it a higher version",
            )


def _schema(where: str, old: Schema, new: Schema) -> Iterator[Break]:
    """Breaks between two shapes of the same thing. ``where`` names it, with the path of the field after a ``#``."""
    yield from _fields(where, old, new)
    if "items" in old and "items" in new:
        yield from _schema(f"{where}[]", old["items"], new["items"])
    elif ("items" in old) != ("items" in new) and old.get("type") == new.get("type"):
        yield _bound(where, "items", old.get("items"), new.get("items"))
    for keyword in sorted((old.keys() | new.keys()) - _WALKED):
        if old.get(keyword) != new.get(keyword):
            yield _bound(where, keyword, old.get(keyword), new.get(keyword))


def _fields(where: str, old: Schema, new: Schema) -> Iterator[Break]:
    was, now = old.get("properties", {}), new.get("properties", {})
    needed, needs = set(old.get("required", [])), set(new.get("required", []))
    added = [name for name in now if name not in was]
    for name, schema in was.items():
        field = _field(where, name)
        if name not in now:
            twins = [one for one in added if now[one] == schema]
            hint = f" (renamed to {twins[0]}?)" if len(twins) == 1 else ""
            yield Break(field, f"the field was removed{hint}", f"{OLD_READERS} or miss what they build on")
            continue
        if name in needs - needed:
            yield Break(field, "the field became required", OLD_EVENTS)
        if name in needed - needs:
            yield Break(field, "the field became optional", f"{OLD_READERS} that lack it")
        yield from _schema(field, schema, now[name])
    for name in added:
        if name in needs:
            yield Break(_field(where, name), "a new field is required", f"{OLD_EVENTS}, which lack it")


def _bound(where: str, keyword: str, old: Any, new: Any) -> Break:
    direction = _direction(keyword, old, new)
    why = {
        "narrowed": OLD_EVENTS,
        "widened": OLD_READERS,
        "changed": "what one side writes the other may refuse",
    }[direction]
    return Break(where, f"{keyword} {direction} from {_text(old)} to {_text(new)}", why)


def _direction(keyword: str, old: Any, new: Any) -> str:
    """Whether the change allows less, more, or something else."""
    if keyword == "type" and (old, new) in {("integer", "number"), ("number", "integer")}:
        return "narrowed" if new == "integer" else "widened"
    if keyword in {"type", "anyOf", "oneOf", "allOf", "items"}:
        return "changed"
    if old is None:
        return "narrowed"
    if new is None:
        return "widened"
    if keyword in _LOWER:
        return "narrowed" if new > old else "widened"
    if keyword in _UPPER:
        return "narrowed" if new < old else "widened"
    if keyword == "enum":
        if set(new) < set(old):
            return "narrowed"
        if set(new) > set(old):
            return "widened"
    return "changed"


def _field(where: str, name: str) -> str:
    return f"{where}.{name}" if "#" in where else f"{where}#{name}"


def _key(names: list[str]) -> str:
    return ", else ".join(names)


def _text(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _days(milliseconds: int) -> str:
    return f"{milliseconds / _DAY_MS:g} d"
