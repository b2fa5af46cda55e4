"""``GET /api/v1/notifications``: a user's stream by HTTP, in the same frames as ``/ws`` would replay it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response

from notifier import openapi, protocol, store
from notifier.protocol import MAX_OFFSET
from notifier.store import StoredFrame
from weelo_common.http import Principal, api_router, principal, success
from weelo_common.postgres import Database

DEFAULT_LIMIT = 50
MAX_LIMIT = 200  # frames of one page: some 200 KiB


def router(database: Database) -> APIRouter:
    """The notifier's one route."""
    routes = api_router()

    @routes.get("/notifications", **openapi.NOTIFICATIONS)
    async def notifications(
        caller: Annotated[Principal, Depends(principal())],
        after: Annotated[int, Query(ge=0, le=MAX_OFFSET)] = 0,
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
    ) -> Response:
        async with database.connection() as connection:
            stream = await store.open_stream(connection, caller.user_id)
            frames = await store.read_stream(connection, caller.user_id, after=after, limit=limit + 1)
        return success(
            {
                "epoch": stream.epoch,
                "events": replay(frames[:limit]),
                "hasMore": len(frames) > limit,
                "recovered": is_whole(frames, after=after, head=stream.head),
            }
        )

    return routes


def is_whole(frames: Sequence[StoredFrame], *, after: int, head: int) -> bool:
    """Whether what was read after an offset is all there is; ``head`` was read just before the frames.

    Not where retention took some, be it between the two; nor where the offset is ahead of the stream.
    """
    return frames[0].offset == after + 1 if frames else after == head


def replay(frames: Sequence[StoredFrame]) -> list[dict[str, Any]]:
    """Stored frames as ``/ws`` sends them: event frames, and one skip frame for each run of dead ones."""
    sent: list[dict[str, Any]] = []
    for frame in frames:
        if not frame.dead:
            sent.append(json.loads(protocol.event_head(frame.offset) + frame.rest))
        elif sent and sent[-1]["type"] == "skip":
            sent[-1]["to"] = frame.offset
        else:
            sent.append(json.loads(protocol.skip_frame(frame.offset, frame.offset)))
    return sent
