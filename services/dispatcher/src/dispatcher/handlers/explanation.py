"""What a wave or a replacement considered, for people to read. Pure, and bounded however busy the place is.

It is made of what matching found anyway: nothing is looked up for it, so explaining costs a match no query and no
lock. It must never hold a name, a phone number or a token.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from dispatcher import domain
from dispatcher.candidates import Verdict
from dispatcher.domain import Line

CAPTAINS_TOLD = 40  # of one line and round: everybody offered (at most 20), then the nearest of the others
CELLS_TOLD = 16  # names of cells; how many there were is told in any case
ROUNDS_TOLD = 8  # of one wave: itself and the first replacements; further ones are only counted
OFFERED = "offered"


def explained(
    line: Line,
    *,
    wanted: int,
    verdicts: Collection[Verdict],
    cells: Sequence[str],
    cells_looked_at: int,
) -> dict[str, Any]:
    """One line of one round: what it wanted, where it looked, and what became of whom it found.

    ``reasons`` counts all who were considered; ``captains`` names those offered and the nearest of the others.
    """
    ranked = sorted(
        verdicts, key=lambda verdict: (verdict.refusal is not None, verdict.distance_m, verdict.captain_id)
    )
    told = sorted(ranked[:CAPTAINS_TOLD], key=lambda verdict: (verdict.distance_m, verdict.captain_id))
    reasons = Counter(verdict.refusal.value if verdict.refusal else OFFERED for verdict in ranked)
    return {
        "vehicleType": line.vehicle_type,
        "vehicleSubtype": line.vehicle_subtype,
        "openTrucks": line.open_trucks,
        "target": domain.target_offers(line.open_trucks),
        "liveBefore": line.live_offers,
        "wanted": wanted,
        "offered": reasons[OFFERED],
        "candidates": len(ranked),
        "reasons": dict(reasons.most_common()),
        "cellsLookedAt": cells_looked_at,
        "cells": list(cells[:CELLS_TOLD]),
        "captains": [_told(verdict) for verdict in told],
    }


def at_target(line: Line) -> dict[str, Any]:
    """A line for which nobody was looked for: its live offers are as many as they should be."""
    return explained(line, wanted=0, verdicts=(), cells=(), cells_looked_at=0)


def _told(verdict: Verdict) -> dict[str, Any]:
    told: dict[str, Any] = {
        "captainId": verdict.captain_id,
        "distanceM": verdict.distance_m,
        "offered": verdict.refusal is None,
    }
    if verdict.refusal is not None:
        told["reason"] = verdict.refusal.value
    return told
