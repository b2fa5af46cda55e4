"""A newcomer who copies from the documents into a shell gets what they say.

Only the addresses are the test's own, for its servers listen on other ports than those of ``make up``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from importlib.metadata import entry_points
from typing import Any

import typer

from deploy.local.settings import PROJECT
from tests.contract.others import needs_kcat
from tests.e2e.city import City, new_subtype, order_body
from weelo_cli.main import GROUP, build

README = (PROJECT / "README.md").read_text()
CONSUMERS = (PROJECT / "docs" / "consumers.md").read_text()
DOCUMENTS = [
    *(PROJECT / name for name in ("README.md", "ARCHITECTURE.md", "SECURITY.md", "examples/README.md")),
    *sorted(PROJECT.glob("docs/*.md")),
]
PATIENCE_S = 60.0  # for some twenty curls and eight tokens, on a busy machine
NEXT = "=== the next block"


def blocks(section: str) -> list[str]:
    """The shell blocks of one section, without those that start and stop the system."""
    _, _, rest = README.partition(f"## {section}\n")
    found = re.findall(r"^```sh\n(.*?)^```", rest.partition("\n## ")[0], re.MULTILINE | re.DOTALL)
    return [block.replace("make up\n", "") for block in found]


def on(city: City, block: str) -> str:
    """A block with the test's own addresses in the place of those of ``make up``."""
    order_api = city.services["order-api"].base_url
    dispatcher = city.services["dispatcher"].base_url
    gateway = city.gateway.base_url if city.gateway else None
    own = {
        "API=http://127.0.0.1:18000": f"API={gateway or order_api}",
        "DISPATCH=http://127.0.0.1:18000": f"DISPATCH={gateway or dispatcher}",
        "ws://127.0.0.1:18000/ws": city.ws_url(),
        "127.0.0.1:18092": city.stack.servers.kafka_bootstrap,
    }
    for stands, is_here in own.items():
        block = block.replace(stands, is_here)
    assert "127.0.0.1:18" not in re.sub(r"#.*", "", block), block
    return block


@contextlib.asynccontextmanager
async def shell(city: City, script: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The script in a shell, and whatever it started, ended with the context."""
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        script,
        cwd=PROJECT,
        env=dict(os.environ) | city.stack.command_env(),
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its own group: the shell and its children
        await process.wait()


async def test_the_walk_with_curl_gives_what_it_says(city: City) -> None:
    walk = [on(city, block) for block in blocks("A walk with curl")]
    async with shell(city, f"\necho '{NEXT}'\n".join(walk)) as process:
        out, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    told = [part.strip() for part in out.decode().split(NEXT)]
    assert len(told) == len(walk) == 7
    _, twice, reused, active, again, twins, trip = told

    first, second = twice.replace("\r", "").split("HTTP/1.1 201")[1:]
    assert "Idempotent-Replayed: true" not in first.title() + first
    assert "idempotent-replayed: true" in second.lower()
    assert first.rpartition("\n\n")[2].strip() == second.rpartition("\n\n")[2].strip()
    assert json.loads(reused)["error"]["code"] == "IDEMPOTENCY_KEY_REUSED"
    assert json.loads(active)["error"]["code"] == "ACTIVE_ORDER_EXISTS"
    cancelled, ordered = again.splitlines()
    assert (json.loads(cancelled)["data"]["status"], ordered) == ("cancelled", "201")
    assert sorted(twins.split()) == ["201", "409"]
    answers = [json.loads(line) for line in trip.splitlines() if line.startswith("{")]
    assert all(answer["success"] for answer in answers), trip
    states = [answer["data"]["order"]["status"] for answer in answers if "order" in answer["data"]]
    assert states == ["fully_filled", "fully_filled", "completed"]


async def test_what_listens_on_the_socket_prints_what_happens(city: City) -> None:
    (block,) = blocks("Listen on a WebSocket")
    customer = city.phone("customer", "c-4")
    async with shell(city, on(city, block)) as process, asyncio.timeout(PATIENCE_S):
        assert process.stdout is not None
        while True:  # a stream without resume gives nothing old: order until it listens
            order = await customer.call("POST", city.url("order-api", "/orders"), order_body(new_subtype()))
            order_id = order.data.get("orderId") or order.data["activeOrderId"]
            await customer.call("POST", city.url("order-api", f"/orders/{order_id}/cancel"), {})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    line = (await process.stdout.readline()).decode()
                    break
        while "order_cancelled" not in line:
            line = (await process.stdout.readline()).decode()
            assert line, "it ended"


async def test_what_reads_the_order_events_prints_them(city: City) -> None:
    (block,) = blocks("Read the order events")
    order = await city.customer().create(order_body(new_subtype()))
    async with shell(city, on(city, block)) as process, asyncio.timeout(PATIENCE_S):
        assert process.stdout is not None
        line = ""
        while order.data["orderId"] not in line:
            line = (await process.stdout.readline()).decode()
            assert line, "it ended"
        kind, event_id, body = line.split(" ", 2)
    assert (kind, bool(event_id)) == ("weelo.order.created.v1", True)
    assert json.loads(body)["orderVersion"] == 1


def test_every_block_of_the_readme_is_run_or_known() -> None:
    """Two start and stop whole systems, which other tests do; the one with Docker needs an engine."""
    run = ("A walk with curl", "Listen on a WebSocket", "Read the order events")
    known = ("Two commands", "With Docker")
    counted = sum(len(blocks(section)) for section in (*run, *known))
    assert counted == len(re.findall(r"^```sh$", README, re.MULTILINE))


@needs_kcat
async def test_the_line_of_kcat_for_other_teams_prints_events(city: City) -> None:
    (block,) = re.findall(r"^```sh\n(.*?)^```", CONSUMERS, re.MULTILINE | re.DOTALL)
    order = await city.customer().create(order_body(new_subtype()))
    await city.order_events(order.data["orderId"], 1)  # it prints what is there by then
    async with shell(city, on(city, block)) as process:
        out, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert order.data["orderId"] in {json.loads(line)["key"] for line in out.decode().splitlines()}


def test_every_command_of_weelo_that_a_document_names_is_there() -> None:
    app, _ = build(entry_points(group=GROUP))
    root = typer.main.get_command(app)
    for document in DOCUMENTS:
        for words in re.findall(r"`(?:\.venv/bin/)?weelo ([^`]+)`", document.read_text().replace("\n", " ")):
            command: Any = root
            for word in words.split():
                if not (commands := getattr(command, "commands", None)) or not re.fullmatch("[a-z-]+", word):
                    break
                assert word in commands, f"{document.name}: weelo {words}"
                command = commands[word]
            known = {"--help", *(option for one in command.params for option in one.opts)}
            if not hasattr(command, "commands"):
                assert known.issuperset(re.findall(r"--[a-z-]+", words)), f"{document.name}: weelo {words}"


def test_every_target_of_make_that_a_document_names_is_there() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        for target in re.findall(r"`make ((?:-s )?[a-z0-9-]+)", document.read_text().replace("\n", " ")):
            assert target.removeprefix("-s ") in targets, f"{document.name}: make {target}"
