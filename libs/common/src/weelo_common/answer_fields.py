"""Fields that the services' answers share, as OpenAPI documents describe them. Documentation only."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema

from weelo_common.openapi import Answer

MOMENT = "2026-02-03T10:08:28.123Z"
"""The example of a moment: the order of all examples is made then."""
ORDER_ID = "019c2b1e-6f2a-7c3d-8e4f-5a6b7c8d9e0f"
"""The id of that order."""

Id = Annotated[str, WithJsonSchema({"type": "string", "format": "uuid", "examples": [ORDER_ID]})]
Moment = Annotated[
    str,
    WithJsonSchema(
        {
            "type": "string",
            "format": "date-time",
            "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z$",
            "examples": [MOMENT],
        }
    ),
]
Count = Annotated[int, Field(ge=0)]
Rupees = Annotated[int, Field(ge=0, description="Whole rupees.")]


class PlaceAnswer(Answer):
    """Where a truck goes."""

    latitude: float
    longitude: float
    address: str
    city: str | SkipJsonSchema[None] = None
    state: str | SkipJsonSchema[None] = None
