"""What a run of the fault rig did and found, for people and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weelo_cli.ledger import LedgerReport

SURPRISES_SHOWN = 10
TRAFFIC = ("created", "won", "completed", "expired", "cancelled", "again", "503")


@dataclass(frozen=True, slots=True)
class ChaosReport:
    """One run. ``surprises`` are answers and ends that the contract does not have."""

    seed: int
    seconds: float
    schedule: str
    """The schedule's fingerprint: the same seed and time give the same one."""
    done: Mapping[tuple[str, str], int]
    answers: Mapping[str, int]
    unanswered: Mapping[str, int]
    """Calls without a whole answer, by what cut them off: most of them met a replica that was being killed."""
    slowest_503_s: float
    """Of a replica that was not itself frozen meanwhile."""
    errors: Mapping[str, int]
    """What the services logged as errors of their own."""
    log_folder: Path
    settled_s: float
    """From the end of the faults until the ledger had judged."""
    surprises: Sequence[str]
    ledger: LedgerReport

    @property
    def ok(self) -> bool:
        """Whether the ledger holds and nothing surprised."""
        return self.ledger.ok and not self.surprises

    def lines(self) -> list[str]:
        """For people."""
        kinds: Counter[str] = Counter()
        for (kind, _), count in self.done.items():
            kinds[kind] += count
        lines = [
            f"chaos: seed {self.seed}, {self.seconds:.0f} s, schedule {self.schedule}, "
            f"{sum(kinds.values())} faults: " + ", ".join(f"{kinds[kind]} × {kind}" for kind in sorted(kinds))
        ]
        targets = sorted({target for _, target in self.done})
        for target in targets:
            parts = [
                f"{count} × {kind}" for (kind, name), count in sorted(self.done.items()) if name == target
            ]
            lines.append(f"  {target:<13} {', '.join(parts)}")
        told = ", ".join(f"{self.answers.get(name, 0)} {name}" for name in TRAFFIC)
        lines.append(f"traffic: {told}; the slowest 503 took {self.slowest_503_s:.1f} s")
        if self.unanswered:
            cut_off = ", ".join(f"{count} × {what}" for what, count in sorted(self.unanswered.items()))
            lines.append(f"unanswered and sent again: {cut_off}")
        lines += [f"logged as an error, {count} ×: {what}" for what, count in sorted(self.errors.items())]
        lines += [f"SURPRISE {one}" for one in self.surprises[:SURPRISES_SHOWN]]
        lines += self.ledger.lines()
        lines.append(
            f"{'the ledger holds' if self.ledger.ok else 'THE LEDGER DOES NOT HOLD'}; "
            f"settled and judged {self.settled_s:.1f} s after the last fault; logs in {self.log_folder}"
        )
        return lines

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {
            "ok": self.ok,
            "seed": self.seed,
            "seconds": self.seconds,
            "schedule": self.schedule,
            "faults": [
                {"kind": kind, "target": target, "count": count}
                for (kind, target), count in sorted(self.done.items())
            ],
            "traffic": dict(sorted(self.answers.items())),
            "unanswered": dict(sorted(self.unanswered.items())),
            "slowest503Seconds": self.slowest_503_s,
            "settledSeconds": self.settled_s,
            "errors": dict(sorted(self.errors.items())),
            "surprises": list(self.surprises),
            "ledger": dict(self.ledger.statements),
            "evidence": {name: list(found) for name, found in self.ledger.evidence.items()},
            "judged": dict(self.ledger.counts),
        }

    def write(self, path: Path) -> None:
        """Replace the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.document(), indent=2) + "\n")
