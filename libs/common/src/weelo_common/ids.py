"""Identifiers: UUIDv7 for what is made here, UUIDv5 for what is derived from other ids.

Ids that come from tokens (customers, captains, transporters) are opaque text of 1 to 64 characters.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

_NAMESPACE = uuid.UUID("6f0d3c1e-9a52-5d0b-8a0e-2f6b1c7d4e95")

OpaqueId = Annotated[str, StringConstraints(min_length=1, max_length=64)]
"""An id given by somebody else; compared exactly, never parsed."""


def new_id() -> str:
    """A UUIDv7 as RFC 9562 has it: 48 bits of milliseconds, then 74 random bits."""
    # Written as text at once: a create makes five ids, and the way over an integer and a UUID costs twice as much.
    time_ms = f"{time.time_ns() // 1_000_000:012x}"
    random_bytes = os.urandom(10)
    random = random_bytes.hex()
    variant = "89ab"[random_bytes[9] & 0b11]
    return f"{time_ms[:8]}-{time_ms[8:]}-7{random[:3]}-{variant}{random[3:6]}-{random[6:18]}"


def derived_id(*parts: str) -> str:
    """The UUIDv5 of the parts: the same parts always give the same id."""
    # Written as text at once, as above: each timer that fires derives one.
    name = "\x1f".join(parts).encode()
    digest = hashlib.sha1(_NAMESPACE.bytes + name, usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digest[16], 16) & 0b11]
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"


def well_formed_id(text: str) -> str:
    """The id in canonical form.

    Raises:
        ValueError: the text is not a UUID in its usual form of 36 characters.
    """
    if len(text) != 36:
        raise ValueError("must be a UUID of 36 characters")
    try:
        canonical = str(uuid.UUID(text))
    except ValueError:
        raise ValueError("must be a UUID") from None
    if canonical != text.lower():  # UUID() reads past blanks, signs and hyphens wherever they stand
        raise ValueError("must be a UUID")
    return canonical


Id = Annotated[str, AfterValidator(well_formed_id)]
"""An id made by one of the services."""
