"""``python -m tools.chaos --seed 1 --minutes 10``: harm the system under traffic, then judge it by the ledger.

Exit code 0 only where the ledger holds and nobody got an answer that the contract does not have; 1 where not; 2 where
the rig itself could not run.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

from deploy.local.errors import StackError
from deploy.local.settings import PROJECT
from deploy.local.stack import say_on_stderr
from tests.e2e.city import City
from tests.e2e.traffic import Refused, Traffic
from tools.chaos.logs import logged_errors
from tools.chaos.report import ChaosReport
from tools.chaos.rig import Rig, running_rig
from tools.chaos.schedule import Fault, fingerprint, make_schedule
from tools.chaos.stuck import stuck
from tools.demo.phone import new_client
from weelo_cli.ledger import LedgerError

PATIENCE_S = 90.0  # of a person, while several things are broken at a time
LOWEST_MINUTES, HIGHEST_MINUTES = 0.25, 24 * 60.0


async def chaos(seed: int, seconds: float, run_dir: Path) -> ChaosReport:
    """One run.

    Raises:
        StackError, LedgerError: the rig cannot run, or what it broke does not come up again.
    """
    faults = make_schedule(seed, seconds)
    say_on_stderr(f"seed {seed}, {seconds:.0f} s: schedule {fingerprint(faults)}, {len(faults)} faults")
    async with running_rig(run_dir, say_on_stderr) as rig, new_client() as client:
        city = _city(rig, client)
        traffic = Traffic(city, Random(f"traffic {seed}"), patience_s=PATIENCE_S)
        async with traffic.flowing():
            await rig.harm(faults)
            await _rest(faults, seconds)
            await rig.heal()
        healed = time.monotonic()
        ledger = await city.ledger()
        left = await stuck(rig.stack.command_env())
        return ChaosReport(
            seed=seed,
            seconds=seconds,
            schedule=fingerprint(faults),
            done=rig.done,
            answers=traffic.answers,
            unanswered=traffic.unanswered,
            slowest_503_s=max((one.seconds for one in _own(traffic.refused, rig)), default=0.0),
            errors=logged_errors(run_dir / f"{name}.log" for name in rig.replicas),
            log_folder=run_dir.relative_to(PROJECT),
            settled_s=time.monotonic() - healed,
            surprises=[*traffic.surprises, *rig.surprises, *left],
            ledger=ledger,
        )


def _city(rig: Rig, client: object) -> City:
    services = {process.service: process for name, process in rig.replicas.items() if name == process.service}
    spares = {
        service: [one for one in rig.replicas.values() if one.service == service and one is not first]
        for service, first in services.items()
    }
    return City(rig.stack, services, client, rig.stack.command_env(), spares=spares)  # type: ignore[arg-type]


def _own(refused: Sequence[Refused], rig: Rig) -> list[Refused]:
    """The 503s whose time was the replica's own: it was not frozen meanwhile."""
    return [one for one in refused if not rig.stood_still(one.replica_url, one.at - one.seconds, one.at)]


async def _rest(faults: Sequence[Fault], seconds: float) -> None:
    """Calm to the end of the time."""
    await asyncio.sleep(max(0.0, seconds - max((fault.ends_s for fault in faults), default=0.0)))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.chaos", description="Break things, then ask the ledger."
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="the same seed gives the same schedule (default 1)"
    )
    parser.add_argument("--minutes", type=float, default=10, help="how long things break (default 10)")
    parser.add_argument("--dry-run", action="store_true", help="print the schedule and break nothing")
    parser.add_argument("--report", type=Path, help="default: .run/chaos/report-<seed>.json")
    options = parser.parse_args(arguments)
    if not LOWEST_MINUTES <= options.minutes <= HIGHEST_MINUTES:
        parser.error(f"--minutes must be from {LOWEST_MINUTES:g} to {HIGHEST_MINUTES:g}")
    seconds = options.minutes * 60
    if options.dry_run:
        faults = make_schedule(options.seed, seconds)
        print("\n".join([*map(str, faults), f"schedule {fingerprint(faults)}"]))
        return 0
    run_dir = PROJECT / ".run" / "chaos"
    try:
        report = asyncio.run(chaos(options.seed, seconds, run_dir))
    except (StackError, LedgerError) as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 2
    report.write(options.report or run_dir / f"report-{options.seed}.json")
    print("\n".join(report.lines()))
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
