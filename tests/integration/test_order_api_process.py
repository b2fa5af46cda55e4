"""order-api as a process of its own: its log lines, its stop, and what a kill in the middle leaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
import pytest

from deploy.local.stack import LocalStack
from tests.faults.harm import frozen
from tests.integration.order_api_rig import PATIENCE_S, Caller, Home, data, order_api_home, token_of
from tests.integration.service_process import START_PATIENCE_S

CUSTOMERS = 40  # creates in flight around the kill


@pytest.fixture(scope="module")
def home(stack: LocalStack) -> Iterator[Home]:
    with order_api_home(stack) as made:
        yield made


@dataclass
class Process:
    """A running order-api and what it said."""

    process: asyncio.subprocess.Process
    http: httpx.AsyncClient
    said: list[str] = field(default_factory=list)

    def caller(self, home: Home, user_id: str, **claims: str) -> Caller:
        return Caller(self.http, user_id, token_of(home, user_id, "customer", claims))

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.said]


@contextlib.asynccontextmanager
async def order_api_process(home: Home, **settings: str) -> AsyncIterator[Process]:
    """Start the service and end it, however it goes."""
    env = {"PATH": os.environ["PATH"]} | home.environment() | settings
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "order_api", env=env, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    said: list[str] = []
    started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    reader = asyncio.create_task(_read(process.stdout, said, started))
    try:
        port = await asyncio.wait_for(started, START_PATIENCE_S)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as http:
            yield Process(process, http, said)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await reader


async def _read(stream: asyncio.StreamReader, said: list[str], started: asyncio.Future[int]) -> None:
    """Keep every line; the one of the start tells the port."""
    while line := (await stream.readline()).decode():
        said.append(line)
        if json.loads(line)["message"] == "Service started":
            started.set_result(json.loads(line)["httpPort"])


async def test_it_stops_with_0_and_its_log_holds_ids_but_no_personal_data(home: Home) -> None:
    async with order_api_process(home, LOG_LEVEL="DEBUG") as running:
        customer = running.caller(home, f"c-{uuid4()}", name="Asha", phone="+911234567890")
        made = data(await customer.create("phone-+911234567890"))
        await customer.create("phone-+911234567890")
        running.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(running.process.wait(), PATIENCE_S) == 0
    lines = {line["message"]: line for line in running.lines()}
    for message in ("Idempotency key received", "Lock acquired", "Idempotency cached", "Lock released"):
        assert lines[message]["customerId"] == customer.user_id
        assert {"time", "level", "service", "requestId", "traceId"} <= lines[message].keys()
    assert lines["Idempotency HIT"]["orderId"] == made["orderId"]
    assert lines["CleanupJob"]["service"] == "order-api"
    told = "".join(running.said)
    for personal in ("1234567890", "Asha", "Noida", customer.token):
        assert personal not in told


async def test_it_stops_in_good_time_while_postgres_hangs(home: Home, stack: LocalStack) -> None:
    no_hurry = {"POSTGRES_STATEMENT_TIMEOUT_S": "300", "SHUTDOWN_DEADLINE_S": "300", "RELAY_LEASE_S": "60"}
    no_hurry |= {"POSTGRES_ACQUIRE_DEADLINE_S": "2"}  # as deployed: the pool's end has it
    async with order_api_process(home, **no_hurry) as running:
        data(await running.caller(home, f"c-{uuid4()}").create("key-1"))
        with frozen(stack.server("postgres")):
            running.process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(running.process.wait(), PATIENCE_S) == 0
    assert "Service stopped" in {line["message"] for line in running.lines()}


async def test_a_kill_in_the_middle_leaves_one_order_a_customer_and_the_retries_get_it(home: Home) -> None:
    answers: dict[str, bytes] = {}
    users = [f"c-{uuid4()}" for _ in range(CUSTOMERS)]
    async with order_api_process(home, LOCK_MS="300") as running:
        first = asyncio.Event()

        async def create(user_id: str) -> None:
            with contextlib.suppress(
                httpx.HTTPError
            ):  # the process died: what became of it the retry finds out
                answer = await running.caller(home, user_id).create("key-1")
                if answer.status_code == 201:
                    answers[user_id] = answer.content
                    first.set()

        creating = [asyncio.create_task(create(user_id)) for user_id in users]
        async with asyncio.timeout(PATIENCE_S):
            await first.wait()
        running.process.kill()
        await asyncio.gather(*creating)
    assert answers
    async with order_api_process(home) as again, asyncio.timeout(3 * PATIENCE_S):
        for user_id in users:
            customer = again.caller(home, user_id)
            while (answer := await customer.create("key-1")).status_code == 409:
                assert answer.json()["error"]["code"] == "CONCURRENT_REQUEST"  # the dead one's lock runs out
            assert answer.status_code == 201
            assert answers.get(user_id, answer.content) == answer.content
            assert data(await customer.get("/orders"))["total"] == 1
