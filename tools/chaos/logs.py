"""What the services themselves logged as errors during a run. Trouble of servers is a warning, so there should be none.

aiokafka's own lines are left out: it tells of each connection that it cannot make. Reads only.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

LEVELS = frozenset({"ERROR", "CRITICAL"})
SHOWN = 100  # characters of a message: the rest of some is a task's whole state


def logged_errors(logs: Iterable[Path]) -> Counter[str]:
    """How often each error was logged, by its service and the first line of its message."""
    found: Counter[str] = Counter()
    for path in logs:
        with path.open(errors="replace") as lines:
            for line in lines:
                try:
                    told = json.loads(line)
                except ValueError:
                    continue  # the last words of a process that was killed while it wrote
                if told.get("level") in LEVELS and not told.get("logger", "").startswith("aiokafka"):
                    first = str(told.get("message", "")).partition("\n")[0][:SHOWN]
                    found[f"{told.get('service')}: {first}"] += 1
    return found
