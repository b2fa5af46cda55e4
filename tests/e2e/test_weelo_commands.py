"""The operators' command line on the running system: what it finds is so, and what it may not tell it does not."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from deploy.local.provision import SERVICES
from tests.e2e.city import City, new_subtype, order_body
from tests.e2e.operator import Operator
from tests.integration.events_rig import PATIENCE_S
from tests.integration.postgres_tls import other_authority, postgres_with_tls
from weelo_cli.conventions import EXIT_INTERRUPTED, EXIT_NOT_WELL, EXIT_UNAVAILABLE
from weelo_cli.ledger.counters import read_counters

WEELO = Path(sys.executable).with_name("weelo")
PLACE = "Connaught Place"  # the address in order_body
READING_TABLES = (
    ("ledger", "verify", "--quiet-deadline-s", "0"),
    ("parked", "list"),
    ("events", "replay", "--group", "expiry", "--from", "1h"),
)
EVERYWHERE = {
    *SERVICES,
    "orders.events.v1",
    "dispatch.offers.v1",
    "timers.commands.v1",
}
SELECT_FRAMES = """
SELECT user_id, stream_offset, event FROM notifications WHERE order_id = $1 ORDER BY 1, 2
"""


@pytest.fixture
def weelo(city: City) -> Operator:
    return Operator(city.stack.command_env())


async def order_with_a_trip(city: City) -> tuple[str, str]:
    """An order that a captain has won, and the captain's id."""
    subtype = new_subtype()
    async with city.captain(subtype) as captain:
        created = await city.customer().create(order_body(subtype))
        order_id: str = created.data["orderId"]
        offer = await captain.offer(order_id)
        won = await captain.accept(order_id, offer)
        assert won.ok
        await captain.inbox.wait_for("trip_assigned", orderId=order_id)
        await city.order_events(order_id, 3)  # created, assigned, filled
        return order_id, captain.person_id


async def everybody_has_heard(weelo: Operator, order_id: str) -> None:
    """Return once each service has done its part for a filled order: what is told of it stays so from then on."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            story = (await weelo.answers("order", "show", order_id))["story"]
            offers = (await weelo.answers("dispatch", "explain", order_id))["offers"]
            if {moment["where"] for moment in story} >= EVERYWHERE and offers[0]["status"] != "live":
                return


async def test_an_order_is_told_whole_in_time_order_and_without_personal_data(
    city: City, weelo: Operator
) -> None:
    order_id, captain_id = await order_with_a_trip(city)
    await everybody_has_heard(weelo, order_id)
    said = {
        (*command, *form): await weelo.says(*command, order_id, *form)
        for command in (("order", "show"), ("dispatch", "explain"))
        for form in ((), ("--json",))
    }
    for what, one in said.items():
        assert one.exit_code == 0, one.output
        for personal in (PLACE, "28.6139", "Test", "DL 1 AB 1", "eyJ", "910000000000"):
            assert personal not in one.output, f"{what} tells {personal}"
    story = json.loads(said["order", "show", "--json"].stdout)
    assert story["state"]["status"] == "fully_filled"
    moments = story["story"]
    assert [moment["at"] for moment in moments] == sorted(moment["at"] for moment in moments)
    assert {moment["where"] for moment in moments} >= EVERYWHERE
    versions = [moment["data"]["orderVersion"] for moment in moments if moment["where"] == "orders.events.v1"]
    assert versions == [1, 2, 3]  # created, assigned, filled
    won = next(moment for moment in moments if moment["what"] == "truck request won")
    assert won["captainId"] == captain_id
    explained = json.loads(said["dispatch", "explain", "--json"].stdout)
    assert [(one["captain_id"], one["status"]) for one in explained["offers"]] == [(captain_id, "accepted")]
    assert explained["rounds"][0]["wave"] == 1


async def test_an_order_that_nobody_knows_is_said_to_be_unknown_in_one_line(weelo: Operator) -> None:
    unknown = await weelo.says("dispatch", "explain", "0198b7c2-6f1e-7c3a-9d55-0c9d1f2b3a4e")
    assert (unknown.exit_code, unknown.stderr.count("\n")) == (1, 1)


async def test_events_are_shown_decoded_by_order_and_by_type_and_places_are_hidden(
    city: City, weelo: Operator
) -> None:
    order_id, _ = await order_with_a_trip(city)
    events = await weelo.lines("events", "tail", "--order", order_id, "--since", "5m")
    assert {event["key"] for event in events} == {order_id}
    created = next(event for event in events if event["type"] == "weelo.order.created.v1")
    assert created["data"]["orderId"] == order_id
    assert created["data"]["pickup"] == "(hidden)"
    offers = next(event for event in events if event["type"] == "weelo.dispatch.offers_made.v1")
    assert offers["data"]["offers"][0]["offerToken"] == "(hidden)"
    assert offers["data"]["offers"][0]["offerId"]
    some = await weelo.lines(
        "events", "tail", "--order", order_id, "--type", "weelo.order.*", "--limit", "2", "--since", "5m"
    )
    assert [event["type"] for event in some] == [
        "weelo.order.truck_assigned.v1",
        "weelo.order.fully_filled.v1",
    ]


def listen_to_interrupts() -> None:
    """A shell starts what it runs in the background deaf to SIGINT, and that is inherited."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


async def test_a_tail_that_follows_shows_what_comes_until_it_is_interrupted(city: City) -> None:
    customer = city.customer()
    created = await customer.create(order_body(new_subtype()))
    tail = await asyncio.create_subprocess_exec(
        str(WEELO),
        *("events", "tail", "--follow", "--json", "--since", "1m", "--order", created.data["orderId"]),
        env=dict(os.environ) | city.stack.command_env(),
        stdout=asyncio.subprocess.PIPE,
        preexec_fn=listen_to_interrupts,
    )
    assert tail.stdout is not None

    async def shows(event_type: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while json.loads(await tail.stdout.readline())["type"] != event_type:  # type: ignore[union-attr]
                pass

    try:
        await shows("weelo.order.created.v1")
        cancelled = await customer.cancel(created.data["orderId"])
        # Where the program's start took longer than the order's search, that is over by now.
        assert cancelled.ok or cancelled.code == "ORDER_NOT_CANCELLABLE"
        await shows("weelo.order.cancelled.v1" if cancelled.ok else "weelo.order.expired.v1")
    finally:
        tail.send_signal(signal.SIGINT)
        code = await asyncio.wait_for(tail.wait(), PATIENCE_S)
    assert code == EXIT_INTERRUPTED


async def test_lag_outbox_and_the_ledger_tell_what_the_whole_system_is_at(
    city: City, weelo: Operator
) -> None:
    await order_with_a_trip(city)
    verdict = await weelo.answers("ledger", "verify")
    assert verdict["ok"] is True, verdict["evidence"]
    lag = await weelo.answers("lag")
    assert {(row["group"], row["topic"]) for row in lag["groups"]} == {
        ("order-api", "timers.fired.v1"),
        ("order-api", "dispatch.offers.v1"),
        ("dispatcher", "orders.events.v1"),
        ("dispatcher", "timers.fired.v1"),
        ("notifier", "orders.events.v1"),
        ("notifier", "dispatch.offers.v1"),
        ("expiry", "timers.commands.v1"),
    }
    async with asyncio.timeout(PATIENCE_S):
        while True:
            services = (await weelo.answers("outbox"))["services"]
            assert [row["service"] for row in services] == list(SERVICES)
            if (
                services[0]["relay"] is not None
            ):  # a relay that was held up for longer than its lease takes it again
                break


async def test_commands_reach_a_postgresql_over_tls_and_trusts_no_other_certificate(
    city: City, weelo: Operator, tmp_path: Path
) -> None:
    asking = {**weelo.env, "POSTGRES_TLS": "verify-full"}
    async with postgres_with_tls(city.stack, tmp_path / "right.pem"):
        other_authority(tmp_path / "wrong.pem")
        right = Operator({**asking, "POSTGRES_TLS_CA_FILE": str(tmp_path / "right.pem")})
        wrong = Operator({**asking, "POSTGRES_TLS_CA_FILE": str(tmp_path / "wrong.pem")})
        for command in READING_TABLES:
            said = await right.says(*command)
            assert said.exit_code in (0, EXIT_NOT_WELL), said.output  # it was read, and judged
            refused = await wrong.says(*command)
            assert refused.exit_code == EXIT_UNAVAILABLE, refused.output
            assert "certificate verify failed" in refused.stderr
        checked = await wrong.says("config", "check", "--json")
        ill = [row["what"] for row in json.loads(checked.stdout)["checks"] if not row["ok"]]
        assert [what.split()[0] for what in ill] == ["PostgreSQL"] * 4


async def test_config_check_tells_what_can_be_reached_and_what_cannot(city: City, weelo: Operator) -> None:
    well = await weelo.answers("config", "check")
    assert [row["what"] for row in well["checks"] if not row["ok"]] == []
    assert {row["what"].split()[0] for row in well["checks"]} >= {"PostgreSQL", "Kafka", "Redis", "notifier"}
    ill = Operator({**city.stack.command_env(), "REDIS_URL": "redis://127.0.0.1:1/0"})
    said = await ill.says("config", "check", "--json")
    assert said.exit_code == 1
    assert [row["what"] for row in json.loads(said.stdout)["checks"] if not row["ok"]] == ["Redis"]


async def test_a_group_is_moved_back_only_with_yes_and_only_while_nobody_is_in_it(
    city: City, weelo: Operator
) -> None:
    order_id, _ = await order_with_a_trip(city)
    before = (datetime.now(UTC) - timedelta(minutes=5)).isoformat()
    arguments = ("events", "replay", "--group", "notifier", "--from", before)

    async def would(members: int) -> None:
        """Return once the group has so many members, and has committed at least three events."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                preview = await weelo.answers(*arguments)
                assert preview["done"] is False
                if preview["would"]["members"] == members and preview["would"]["handledAgain"] >= 3:
                    return

    await would(members=1)
    refused = await weelo.says(*arguments, "--yes")
    assert (refused.exit_code, "stop them first" in refused.stderr) == (1, True)
    process = city.services["notifier"]
    await asyncio.to_thread(process.stop)
    frames = await frames_of(city, order_id)
    try:
        await would(members=0)  # one whose goodbye was lost is missed after its session
        done = await weelo.answers(*arguments, "--yes")
        assert done["done"] is True
        assert done["handledAgain"] >= 3
    finally:
        await asyncio.to_thread(process.restart)
    verdict = await weelo.answers("ledger", "verify")
    assert verdict["ok"] is True, verdict["evidence"]
    (counted,), silent = await read_counters({"notifier": [process.base_url]})
    assert not silent
    assert counted.outcomes["applied"] >= 3  # by the process that was started after it
    assert await frames_of(city, order_id) == frames  # and told to nobody twice


async def frames_of(city: City, order_id: str) -> list[tuple[Any, ...]]:
    """What phones were told of an order: who, at which offset, what."""
    database = await asyncpg.connect(city.stack.command_env()["POSTGRES_LEDGER_DSN_NOTIFIER"])
    try:
        return [tuple(row) for row in await database.fetch(SELECT_FRAMES, order_id)]
    finally:
        await database.close()


@pytest.mark.parametrize(
    "arguments",
    [
        ("order", "show", "no-id"),
        ("events", "tail", "--since", "yesterday"),
        ("events", "tail", "--topic", "captains.locations.v1"),
        ("dlq", "show", "no.topic", "expiry", "0"),
        ("dlq", "retry", "timers.commands.v1", "order-api", "0"),
        ("dlq", "drop", "timers.commands.v1", "expiry"),
        ("parked", "replay", "nobody", "key"),
        ("parked", "drop", "notifier"),
        ("config", "check", "order-api", "--env-file", "no-such-file"),
        ("events", "replay", "--group", "my-team", "--from", "1h", "--to", "30m"),
    ],
)
async def test_bad_input_gets_one_line_and_exit_code_2(weelo: Operator, arguments: tuple[str, ...]) -> None:
    said = await weelo.says(*arguments)
    assert (said.exit_code, said.stderr.count("\n"), said.stdout) == (2, 1, ""), said.output
    assert "Traceback" not in said.stderr
