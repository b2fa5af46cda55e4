"""The result of a benchmark: rows beside their reach, as JSON for machines and as a table for people."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

FOLDER = Path(".run/bench")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a benchmark. ``value`` is what ``reach`` is compared with; ``unit`` is that of the value."""

    name: str
    ours: float | str
    against: float | str
    value: float
    better: Literal["higher", "lower"]
    reach: float | None
    unit: str
    conditions: str

    @property
    def reached(self) -> bool | None:
        """None for a row that only informs."""
        if self.reach is None:
            return None
        return self.value >= self.reach if self.better == "higher" else self.value <= self.reach


def spread(values: Sequence[float]) -> str:
    """``median (least to most)`` of several rounds."""
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def publish(bench: str, rows: Sequence[Row]) -> Path:
    """Write ``.run/bench/<bench>.json`` and print the table; returns the file's path."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{bench}.json"
    path.write_text(json.dumps({"rows": [asdict(row) for row in rows]}, indent=2, ensure_ascii=False) + "\n")
    print(f"\n{bench}")
    for row in rows:
        verdict = {True: "reached", False: "NOT reached", None: ""}[row.reached]
        sign = ">=" if row.better == "higher" else "<="
        reach = f"{sign} {row.reach:g}" if row.reach is not None else ""
        print(f"  {row.name:<46} {row.value:>12,.3f} {row.unit:<22} {reach:<10} {verdict}")
        print(f"  {'':<46} ours {_shown(row.ours)}, against {_shown(row.against)}")
    for conditions in dict.fromkeys(row.conditions for row in rows):
        print(f"  conditions: {conditions}")
    print(f"written: {path}")
    return path


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,.2f}"
