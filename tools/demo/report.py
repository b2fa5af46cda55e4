"""`demo-report.json`, the summary, and the verdict. Pure apart from writing one file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tools.demo.settings import Surroundings
from tools.demo.tally import Latency, Tally
from weelo_cli.ledger import LedgerReport

# What an evening must show at least once; the acts see to it that none is left to chance.
REQUIRED: tuple[tuple[str, str], ...] = (
    ("orders", "created"),
    ("orders", "replayed"),
    ("orders", "concurrent_rejected"),
    ("orders", "fully_filled"),
    ("orders", "cancelled"),
    ("orders", "expired"),
    ("offers", "made"),
    ("offers", "accepted"),
    ("offers", "declined"),
    ("offers", "withdrawn"),
    ("offers", "lost_races"),
    ("dispatch", "replacements"),
    ("dispatch", "exhausted"),
    ("dispatch", "offers_of_later_waves"),
)


def make_report(tally: Tally, surroundings: Surroundings, ledger: LedgerReport) -> dict[str, Any]:
    """The report with the fields that its readers know; latencies in ms, null where nothing was measured."""
    return {
        "kafka": surroundings.kafka_name,
        "postgres": surroundings.postgres_name,
        "redis": surroundings.redis_name,
        "orders": asdict(tally.orders),
        "offers": asdict(tally.offers),
        "dispatch": {
            "waves": [
                {
                    "wave": number,
                    "radius_km": count.radius_m / 1000,
                    "orders": count.orders,
                    "offers": count.offers,
                }
                for number, count in sorted(tally.dispatch.waves.items())
            ],
            "offers_of_later_waves": tally.dispatch.offers_of_later_waves,
            "replacements": tally.dispatch.replacements,
            "exhausted": tally.dispatch.exhausted,
            "withdrawn": dict(sorted(tally.dispatch.withdrawn.items())),
        },
        "pushed": tally.pushed,
        "latency_ms": {
            "create": _latency(tally.create),
            "create_to_offer": _latency(tally.create_to_offer()),
            "create_to_near_offer": _latency(tally.create_to_near_offer()),
            "accept": _latency(tally.accept),
        },
        "ledger": {"ok": ledger.ok, **ledger.statements},
    }


def _latency(latency: Latency) -> dict[str, float | None]:
    return {"p50": latency.percentile_ms(50), "p99": latency.percentile_ms(99)}


def missing(report: Mapping[str, Any]) -> list[str]:
    """What the evening did not show, such as `orders.replayed`; empty where all was seen."""
    return [f"{group}.{name}" for group, name in REQUIRED if report[group][name] < 1]


def write_report(report: Mapping[str, Any], path: Path) -> None:
    """The report as a JSON file, replaced as a whole."""
    draft = path.with_name(f"{path.name}.new")
    draft.write_text(json.dumps(report, indent=2) + "\n")
    draft.replace(path)


def summary(report: Mapping[str, Any], tally: Tally, ledger: LedgerReport) -> list[str]:
    """The evening in a few lines of plain text; where the ledger is broken, with the first offenders."""
    orders, offers, latency = report["orders"], report["offers"], report["latency_ms"]
    lines = [
        f"{report['kafka']}, {report['postgres']}, {report['redis']}",
        f"orders: {_listed(orders)}",
        f"offers: {_listed(offers)}",
        f"withdrawn because: {_listed(report['dispatch']['withdrawn']) or 'none'}",
        "waves (offers / orders that came to it): " + _waves(report["dispatch"]["waves"]),
        f"replacements at once: {report['dispatch']['replacements']:,} offers",
        f"nobody left to ask: {report['dispatch']['exhausted']:,} orders",
        f"pushed to phones: {report['pushed']:,} frames",
        f"positions sent: {tally.positions:,}, trips completed: {tally.completed_trips:,}",
        "latency (p50 / p99 ms): "
        + ", ".join(
            f"{name.replace('_', ' ')} {_number(value['p50'])} / {_number(value['p99'])}"
            for name, value in latency.items()
        ),
    ]
    if tally.surprise_count:
        lines.append(f"surprises: {tally.surprise_count}")
        lines += [f"  {text}" for text in tally.surprises]
    if ledger.ok:
        lines.append(f"ledger: holds, all {len(ledger.statements)} statements")
    else:
        lines += ["ledger: BROKEN", *ledger.lines()]
    return lines


def _waves(waves: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(
        f"{wave['wave']} ({wave['radius_km']:g} km) {wave['offers']:,} / {wave['orders']:,}" for wave in waves
    )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items())


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"
