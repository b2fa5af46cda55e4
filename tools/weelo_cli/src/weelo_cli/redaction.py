"""What of an event may be shown to an operator: ids, numbers, states; never an address, a plate, a token or free text.

The event classes say which fields tell of a person (``x-personal-data``) or give a right (``x-secret``). Ids are shown,
as the logs show them. Of what no class describes, only ids and the shape are shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from weelo_common.clock import format_time
from weelo_common.events import Event, Place
from weelo_common.events.fields import PERSONAL, SECRET

HIDDEN = "(hidden)"
SHOWN_PERSONAL = "pseudonym"  # how the mark of an id begins
FREE_TEXT = frozenset({"goods_type"})  # what people typed
ID_NAMES = re.compile(r"^(id|type|status|version|wave|[a-z][A-Za-z]*(Id|Version|Status|At|Key))\Z")
ID_TEXT = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}\Z")
PHONE_LIKE = re.compile(r"(?<![0-9a-f-])\+?[0-9](?:[ .-]?[0-9]){8,13}(?![0-9a-f-])")
REASON_LENGTH = 300  # characters of an error that are shown
DEPTH = 8  # of what no class describes


def shown_event(event: Event) -> dict[str, Any]:
    """An event's body as an operator may see it, with the names it has on the wire."""
    return _shown_model(event)


def shown_raw(value: bytes | None) -> dict[str, Any]:
    """The shape of a body that no event class fits, with the ids in it."""
    size = {"bytes": len(value or b"")}
    try:
        body = json.loads(value or b"")
    except (ValueError, RecursionError):
        return size | {"body": "no JSON"}
    return size | {"body": _shape(body, DEPTH)}


def shown_reason(text: str) -> str:
    """The first line of an error; it may quote what somebody sent, so what looks like a phone number is hidden."""
    return PHONE_LIKE.sub(HIDDEN, (text.splitlines() or [""])[0][:REASON_LENGTH])


def _shown_model(model: BaseModel) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if value is not None:
            shown[field.alias or name] = HIDDEN if _is_hidden(name, field) else _shown_value(value)
    return shown


def _is_hidden(name: str, field: FieldInfo) -> bool:
    marks = field.json_schema_extra if isinstance(field.json_schema_extra, Mapping) else {}
    personal = str(marks.get(PERSONAL, ""))
    return (
        name in FREE_TEXT or SECRET in marks or (bool(personal) and not personal.startswith(SHOWN_PERSONAL))
    )


def _shown_value(value: object) -> Any:
    if isinstance(value, Place):
        return HIDDEN
    if isinstance(value, BaseModel):
        return _shown_model(value)
    if isinstance(value, (list, tuple)):
        return [_shown_value(one) for one in value]
    if isinstance(value, Mapping):  # a timer's payload: its owner's own
        return _shape(value, DEPTH)
    if isinstance(value, datetime):
        return format_time(value)
    return value


def _shape(value: object, depth: int, *, is_id: bool = False) -> Any:
    if isinstance(value, Mapping):
        if not depth:
            return "object"
        return {
            str(name) if ID_TEXT.match(str(name)) else HIDDEN: _shape(
                one, depth - 1, is_id=bool(ID_NAMES.match(str(name)))
            )
            for name, one in value.items()
        }
    if isinstance(value, list):
        return [_shape(one, depth - 1) for one in value[:20]] if depth else "list"
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return value if is_id else "number"
    text = str(value)
    return text if is_id and ID_TEXT.match(text) else f"text of {len(text)} characters"
