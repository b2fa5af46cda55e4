"""`python -m tools.demo`: an evening on the stack that the environment names, its report, and its ledger.

Run it by `make demo`, or inside `python -m deploy.local run --`. Exit code 0 only where the ledger holds and
the evening showed all it must; 1 where not; 2 where it could not run; 130 after Ctrl-C, 143
after SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from rich.console import Console

from tools.demo.evening import Evening
from tools.demo.feed import open_feed
from tools.demo.phone import Unanswered, new_client
from tools.demo.report import make_report, missing, summary, write_report
from tools.demo.screen import Screen
from tools.demo.settings import DemoError, Scale, Surroundings
from tools.demo.tally import Tally
from tools.demo.world import World, towns_around_delhi
from weelo_cli.ledger import LedgerConfig, LedgerError, LedgerReport, verify
from weelo_cli.tokens import TokenError, make_token, read_private_key
from weelo_common.ids import new_id
from weelo_common.kafka import KafkaClients, KafkaUnavailable
from weelo_common.settings import KafkaSettings, load

UNUSABLE = (DemoError, Unanswered, KafkaUnavailable, LedgerError)
"""What ends the demo with one line: it is the stack's trouble, not a defect of the demo."""
TOKEN_LIFETIME_S = 2 * 60 * 60  # far longer than an evening


async def evening(scale: Scale, surroundings: Surroundings, console: Console) -> tuple[Tally, LedgerReport]:
    """Play one evening and judge it by the ledger.

    Raises:
        One of `UNUSABLE`, alone or in a group: the stack cannot be used.
    """
    _end_on_sigterm()
    try:
        key = load_pem_private_key(read_private_key(surroundings.keys_dir).encode(), password=None)
    except (TokenError, ValueError) as error:
        raise DemoError(str(error)) from error
    if not isinstance(key, RSAPrivateKey):
        raise DemoError(f"the key in {surroundings.keys_dir} that signs users' tokens is no RSA key")

    def token(role: str, person_id: str) -> str:
        return make_token(key, role, person_id, name=f"Demo {role}", lifetime_s=TOKEN_LIFETIME_S)

    tally, random = Tally(), Random(scale.seed)
    world = World(await asyncio.to_thread(towns_around_delhi), random)
    people_prefix = f"demo{new_id()[-6:]}-"  # so that a second evening on the same stack meets new people
    kafka = KafkaClients(load(KafkaSettings), client_id="demo")
    screen = Screen(console, tally, f"An evening around Delhi on {surroundings.kafka_name}")
    async with (
        new_client() as client,
        open_feed(kafka, tally, people_prefix) as feed,
        screen.showing(),
        asyncio.TaskGroup() as reading,
    ):
        reading.create_task(feed.run())
        await Evening(
            scale,
            surroundings.addresses,
            people_prefix,
            token,
            client,
            world,
            random,
            tally,
            screen,
        ).run()
        screen.phase = "the ledger"
        ledger = await verify(LedgerConfig.from_env(os.environ, tally.answered))
        feed.finish()
    return tally, ledger


def _end_on_sigterm() -> None:
    """SIGTERM, too, ends the evening in order: the terminal gets its cursor back, the sockets say goodbye."""
    task = asyncio.current_task()
    if task is not None and sys.platform != "win32":
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first exception of a group that is none itself."""
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.demo", description="One evening around Delhi.")
    parser.add_argument(
        "--seconds",
        type=float,
        default=90,
        help="from the beginning until no more customers come (default 90)",
    )
    parser.add_argument("--captains", type=int, default=300)
    parser.add_argument("--customers", type=int, default=150)
    parser.add_argument("--orders-per-second", type=float, default=2.5)
    parser.add_argument("--seed", type=int, default=28, help="the same seed draws the same places and people")
    parser.add_argument("--report", type=Path, default=Path("demo-report.json"))
    options = parser.parse_args(arguments)
    scale = Scale(
        seconds=options.seconds,
        captains=options.captains,
        customers=options.customers,
        orders_per_s=options.orders_per_second,
        seed=options.seed,
    )
    console = Console()
    try:
        surroundings = Surroundings.from_environment(os.environ)
        tally, ledger = asyncio.run(evening(scale, surroundings, console))
    except UNUSABLE as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except BaseExceptionGroup as group:
        unusable = group.subgroup(UNUSABLE)
        if unusable is None:
            raise  # a defect: its trace helps
        print(f"demo: {first_of(unusable)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except asyncio.CancelledError:
        return 143
    report = make_report(tally, surroundings, ledger)
    write_report(report, options.report)
    for line in summary(report, tally, ledger):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    not_shown = missing(report)
    if not_shown:
        print(f"the evening did not show: {', '.join(not_shown)}", file=sys.stderr)
    console.print(f"report: {options.report}", highlight=False)
    return 0 if ledger.ok and not not_shown else 1


if __name__ == "__main__":
    sys.exit(main())
