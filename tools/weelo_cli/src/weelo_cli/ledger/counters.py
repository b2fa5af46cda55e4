"""Reads what the processes' consumers counted, from their /metrics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import httpx
from prometheus_client.parser import text_string_to_metric_families

from weelo_cli.ledger.facts import ConsumerCounts

DEADLINE_S = 5.0
CONSUMED = "weelo_consumer_consumed_total"
OUTCOMES = ("applied", "duplicate", "ignored", "parked", "dead")


async def read_counters(urls: Mapping[str, Sequence[str]]) -> tuple[list[ConsumerCounts], list[str]]:
    """Every consumer of every process, and which processes gave no answer."""
    counts: list[ConsumerCounts] = []
    silent: list[str] = []
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        for service, addresses in urls.items():
            if not addresses:
                silent.append(f"no address of {service} is known")
            for address in addresses:
                try:
                    response = await client.get(f"{address.rstrip('/')}/metrics")
                    response.raise_for_status()
                except httpx.HTTPError as error:
                    silent.append(f"{service} gave no metrics: {type(error).__name__}")
                    continue
                found = consumer_counts(f"{service} at {address}", response.text)
                counts += found
                if not found:
                    silent.append(f"{service} tells of no consumer")
    return counts, silent


def consumer_counts(process: str, exposition: str) -> list[ConsumerCounts]:
    """The consumers in one process's metrics, in Prometheus's text format."""
    consumed: dict[str, float] = {}
    outcomes: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(OUTCOMES, 0.0))
    names = {f"weelo_consumer_{outcome}_total": outcome for outcome in OUTCOMES}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            consumer = sample.labels.get("consumer", "")
            if sample.name == CONSUMED:
                consumed[consumer] = sample.value
            elif sample.name in names:
                outcomes[consumer][names[sample.name]] = sample.value
    return [
        ConsumerCounts(process, consumer, consumed.get(consumer, 0.0), outcomes[consumer])
        for consumer in sorted(consumed.keys() | outcomes.keys())
    ]
