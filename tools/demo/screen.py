"""What a watcher sees: a live table on a terminal, a line every few seconds elsewhere. It only reads the tally."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import asdict
from time import monotonic

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tools.demo.tally import Dispatch, Latency, Tally

REFRESH_S = 0.25  # smooth enough for an eye, and little work
LINE_PERIOD_S = 5.0  # where there is no terminal


class Screen:
    """Shows one evening. `phase` is what is going on; the evening sets it."""

    def __init__(self, console: Console, tally: Tally, title: str) -> None:
        self._console = console
        self._tally = tally
        self._title = title
        self._began = monotonic()
        self.phase = "setting up"

    @contextlib.asynccontextmanager
    async def showing(self) -> AsyncIterator[None]:
        """Show the evening until the block ends."""
        show = self._show_table() if self._console.is_terminal else self._print_lines()
        task = asyncio.create_task(show)
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _show_table(self) -> None:
        with Live(self.picture(), console=self._console, auto_refresh=False) as live:
            try:
                while True:
                    await asyncio.sleep(REFRESH_S)
                    live.update(self.picture(), refresh=True)
            finally:
                live.update(self.picture(), refresh=True)

    async def _print_lines(self) -> None:
        while True:
            self._console.print(self.line(), highlight=False, soft_wrap=True)
            await asyncio.sleep(LINE_PERIOD_S)

    def line(self) -> str:
        """The evening in one line."""
        tally = self._tally
        return (
            f"{monotonic() - self._began:4.0f} s  {self.phase}: {tally.orders.created} orders,"
            f" {tally.open_searches} searching, {tally.orders.fully_filled} filled,"
            f" {tally.orders.cancelled} cancelled, {tally.orders.expired} expired;"
            f" {tally.offers.made} offers ({tally.dispatch.offers_of_later_waves} by later waves,"
            f" {tally.dispatch.replacements} replacements), {tally.offers.declined} declined,"
            f" {tally.offers.accepted} accepted, {tally.offers.lost_races} lost races;"
            f" {tally.pushed} pushed; create to offer, where one is near,"
            f" {_times(tally.create_to_near_offer()) or 'none'} ms"
        )

    def picture(self) -> Panel:
        """The evening as a panel."""
        tally = self._tally
        columns = Table.grid(expand=True, padding=(0, 3))
        for _ in range(3):
            columns.add_column(ratio=1)
        columns.add_row(
            _counts("orders", {"searching now": tally.open_searches, **asdict(tally.orders)}),
            _counts("offers", {**asdict(tally.offers), "pushed to phones": tally.pushed}),
            _counts(
                "captains and times",
                {
                    "on a trip now": tally.busy_captains,
                    "trips completed": tally.completed_trips,
                    "positions sent": tally.positions,
                    "create, ms (p50 / p99)": _times(tally.create),
                    "create to offer, ms": _times(tally.create_to_offer()),
                    "if one is near, ms": _times(tally.create_to_near_offer()),
                    "accept, ms": _times(tally.accept),
                    "surprises": tally.surprise_count,
                },
            ),
        )
        happenings = Text("\n".join(tally.happenings) or " ", style="dim", no_wrap=True, overflow="ellipsis")
        head = f"{self._title} · {self.phase} · {monotonic() - self._began:.0f} s"
        return Panel(
            Group(columns, Text(), _waves(tally.dispatch), Text(), happenings),
            title=head,
            border_style="cyan",
        )


def _waves(dispatch: Dispatch) -> Table:
    """A column for each wave: how far it reaches, how many orders came to it, how many captains it asked."""
    table = Table(title="waves", title_justify="left", box=None, expand=True, header_style="")
    table.add_column(no_wrap=True)
    for number, count in sorted(dispatch.waves.items()):
        table.add_column(f"{number}: {count.radius_m / 1000:g} km", justify="right", no_wrap=True)
    table.add_column("replacements at once", justify="right", no_wrap=True)
    table.add_column("nobody left", justify="right", no_wrap=True)
    counts = [count for _, count in sorted(dispatch.waves.items())]
    table.add_row("orders", *(f"{count.orders:,}" for count in counts), "", f"{dispatch.exhausted:,}")
    table.add_row("offers", *(f"{count.offers:,}" for count in counts), f"{dispatch.replacements:,}", "")
    return table


def _counts(title: str, counts: dict[str, int | str]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None, expand=True)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for name, count in counts.items():
        table.add_row(name.replace("_", " "), f"{count:,}" if isinstance(count, int) else count)
    return table


def _times(latency: Latency) -> str:
    middle, late = latency.percentile_ms(50), latency.percentile_ms(99)
    return "" if middle is None else f"{middle:.0f} / {late:.0f}"
