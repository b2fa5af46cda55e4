"""The ledger's word: each statement true or false, with evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

EVIDENCE_SHOWN = 5  # the first few offenders; the whole list helps nobody


@dataclass(frozen=True, slots=True)
class LedgerReport:
    """``statements`` holds every statement by name; ``evidence`` the offenders of those that are false."""

    statements: Mapping[str, bool]
    evidence: Mapping[str, Sequence[str]]
    counts: Mapping[str, int]
    """How much was judged: orders, events, streams …"""

    @property
    def ok(self) -> bool:
        """Whether all statements hold."""
        return all(self.statements.values())

    def lines(self) -> list[str]:
        """The report for people, one line a statement, evidence below it."""
        judged = ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in self.counts.items())
        lines = [f"ledger over {judged}"]
        for name, holds in self.statements.items():
            lines.append(f"  {'ok  ' if holds else 'FAIL'} {name.replace('_', ' ')}")
            lines += [f"         {one}" for one in shown(self.evidence.get(name, ()))]
        return lines


def shown(evidence: Sequence[str]) -> list[str]:
    """The first few, and how many more there are."""
    more = len(evidence) - EVIDENCE_SHOWN
    return [*evidence[:EVIDENCE_SHOWN], *([f"and {more} more"] if more > 0 else [])]
