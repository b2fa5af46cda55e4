"""How the notifier's path is described in its OpenAPI document. Documentation only; ``http.py`` hangs it on."""

from __future__ import annotations

from typing import Any

from notifier.answers import EXAMPLE, NotificationsData
from weelo_common.openapi import documented

NOTIFICATIONS: dict[str, Any] = documented(
    NotificationsData,
    summary="The caller's notifications, in the order of their offsets",
    says="The same frames that `/ws` replays after a resume; see docs/websocket.md. For a client without a socket, and "
    "for one that wants to look back.",
    example=EXAMPLE,
)
