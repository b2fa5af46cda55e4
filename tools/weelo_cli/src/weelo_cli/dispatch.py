"""``weelo dispatch explain``: what each wave of an order considered, and whom it asked. Reads only."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from weelo_cli.connections import Surroundings
from weelo_cli.conventions import Answer, BadInput, Json, Refused, run
from weelo_common.events.topics import DISPATCHER
from weelo_common.ids import well_formed_id

SELECT_ORDER = """
SELECT order_id, customer_id, version, status, searching, wave, exhausted, expires_at, seen_at, updated_at
  FROM orders WHERE order_id = $1
"""
SELECT_ROUNDS = """
SELECT wave, cause, radius_m, at, report FROM match_rounds WHERE order_id = $1 ORDER BY round
"""
SELECT_OFFERS = """
SELECT offer_id, captain_id, transporter_id, wave, distance_m, status, reason, made_at, ended_at
  FROM offers WHERE order_id = $1 ORDER BY wave, made_at, distance_m
"""

app = typer.Typer(help="How captains were looked for.", no_args_is_help=True)
OrderArgument = Annotated[str, typer.Argument(metavar="ORDER", help="The order's id.")]


@app.callback()
def _group() -> None:
    """Keeps ``weelo dispatch explain`` although there is one command."""


@app.command()
def explain(order: OrderArgument, as_json: Json = False) -> None:
    """Each wave of an order: how far it looked, whom it found, whom it passed over and why, and every offer's end.

    Example: weelo dispatch explain 0198b7c2-6f1e-7c3a-9d55-0c9d1f2b3a4e
    """
    run(_explain(order), as_json)


async def _explain(text: str) -> Answer:
    order_id = order_id_of(text)
    async with Surroundings.found().reading(DISPATCHER) as connection:
        order = await connection.fetchrow(SELECT_ORDER, order_id)
        if order is None:
            raise Refused(f"the dispatcher does not know order {order_id}")
        rounds = await connection.fetch(SELECT_ROUNDS, order_id)
        offers = await connection.fetch(SELECT_OFFERS, order_id)
    document: dict[str, Any] = {
        "order": dict(order),
        "rounds": [dict(row) | {"report": json.loads(row["report"])} for row in rounds],
        "offers": [dict(row) for row in offers],
    }
    state = "searching" if order["searching"] else "search over"
    exhausted = ", nobody left to ask" if order["exhausted"] else ""
    lines = [f"order {order_id}: {order['status']}, {state}, {order['wave']} waves{exhausted}"]
    for one in document["rounds"]:
        lines.append(
            f"wave {one['wave']} ({one['cause']}) within {one['radius_m']} m at {one['at']:%H:%M:%S.%f}"
        )
        lines += [f"    {json.dumps(line, ensure_ascii=False)}" for line in one["report"]]
    for offer in offers:
        why = f" ({offer['reason']})" if offer["reason"] else ""
        lines.append(
            f"offer {offer['offer_id']} to captain {offer['captain_id']}, {offer['distance_m']} m away, "
            f"wave {offer['wave']}: {offer['status']}{why}"
        )
    return Answer(document, lines)


def order_id_of(text: str) -> str:
    """An order's id in canonical form.

    Raises:
        BadInput: it is none.
    """
    try:
        return well_formed_id(text)
    except ValueError as error:
        raise BadInput(f"ORDER {error}") from None
