"""``weelo order show``: all that happened to an order, in the services and on the topics, in time order. Reads only."""

from __future__ import annotations

from typing import Annotated

import typer

from weelo_cli.connections import SERVICES, Surroundings
from weelo_cli.conventions import Answer, Json, Refused, json_text, run
from weelo_cli.dispatch import order_id_of
from weelo_cli.reading import open_reader
from weelo_cli.story import Moment, from_tables, from_topics, state_of

app = typer.Typer(help="One order.", no_args_is_help=True)
OrderArgument = Annotated[str, typer.Argument(metavar="ORDER", help="The order's id.")]


@app.callback()
def _group() -> None:
    """Keeps ``weelo order show`` although there is one command."""


@app.command()
def show(order: OrderArgument, as_json: Json = False) -> None:
    """The whole story of an order, oldest first: requests, events, waves, offers, timers, frames, and what is stuck.

    Times are those of the databases and the brokers; two machines' clocks may differ by some milliseconds.

    Example: weelo order show 0198b7c2-6f1e-7c3a-9d55-0c9d1f2b3a4e
    """
    run(_show(order), as_json)


async def _show(text: str) -> Answer:
    order_id = order_id_of(text)
    surroundings = Surroundings.found()
    moments: list[Moment] = []
    state = None
    for service in SERVICES:
        async with surroundings.reading(service) as connection:
            if state is None:
                state = await state_of(connection, service, order_id)
            moments += await from_tables(connection, service, order_id)
    async with open_reader(surroundings.kafka()) as reader:
        moments += await from_topics(reader, order_id)
    if state is None and not moments:
        raise Refused(f"nobody knows order {order_id}")
    moments.sort(key=lambda moment: (moment.at, moment.rank))
    document = {"orderId": order_id, "state": state, "story": [moment.document() for moment in moments]}
    head = json_text(state) if state else "order-api does not know it"
    return Answer(document, [f"order {order_id}: {head}", *(moment.line() for moment in moments)])
