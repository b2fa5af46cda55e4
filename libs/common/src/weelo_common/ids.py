"""Identifiers: UUIDv7 for what is made here, UUIDv5 for what is derived from other ids.

Ids that come from tokens (customers, captains, transporters) are opaque text of 1 to 64 characters.
"""

from __future__ import annotations

import secrets
import time
import uuid
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

_NAMESPACE = uuid.UUID("6f0d3c1e-9a52-5d0b-8a0e-2f6b1c7d4e95")

OpaqueId = Annotated[str, StringConstraints(min_length=1, max_length=64)]
"""An id given by somebody else; compared exactly, never parsed."""


def new_id() -> str:
    """A UUIDv7 as RFC 9562 has it: 48 bits of milliseconds, then 74 random bits."""
    milliseconds = time.time_ns() // 1_000_000
    random_bits = secrets.randbits(74)
    value = (milliseconds & 0xFFFF_FFFF_FFFF) << 80
    value |= 0x7 << 76
    value |= (random_bits >> 62) << 64
    value |= 0b10 << 62
    value |= random_bits & ((1 << 62) - 1)
    return str(uuid.UUID(int=value))


def derived_id(*parts: str) -> str:
    """The UUIDv5 of the parts: the same parts always give the same id."""
    return str(uuid.uuid5(_NAMESPACE, "\x1f".join(parts)))


def well_formed_id(text: str) -> str:
    """The id in canonical form.

    Raises:
        ValueError: the text is not a UUID in its usual form of 36 characters.
    """
    if len(text) != 36:
        raise ValueError("must be a UUID of 36 characters")
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise ValueError("must be a UUID") from None


Id = Annotated[str, AfterValidator(well_formed_id)]
"""An id made by one of the services."""
