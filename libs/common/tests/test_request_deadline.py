"""A request as a whole has one deadline, and a 503 says in the log what was the matter."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest
from fastapi import FastAPI, Response
from prometheus_client import CollectorRegistry

from weelo_common.health import Health
from weelo_common.http import Body, api_router, create_app, success
from weelo_common.http_unavailable import TELL_EVERY_S, UnavailableLog
from weelo_common.jwks import KeysUnavailable
from weelo_common.lifecycle import Lifecycle
from weelo_common.postgres import DatabaseUnavailable

PATIENCE_S = 30.0
DEADLINE_S = 0.15

Work = Callable[[], Awaitable[None]]


class Thing(Body):
    note: str = ""


def app_of(work: Work, deadline_s: float) -> FastAPI:
    router = api_router()

    @router.post("/things")
    async def make(body: Thing) -> Response:
        await work()
        return success({"note": body.note}, 201)

    return create_app(
        "test",
        routers=[router],
        health=Health(),
        registry=CollectorRegistry(),
        request_deadline_s=deadline_s,
    )


@contextlib.asynccontextmanager
async def served(work: Work, deadline_s: float = DEADLINE_S) -> AsyncIterator[httpx.AsyncClient]:
    """The application on a port of its own, as every service serves its own."""
    life = Lifecycle(shutdown_deadline_s=PATIENCE_S)
    life.serve_http(app_of(work, deadline_s), "127.0.0.1", 0)
    try:
        url = f"http://127.0.0.1:{life.http_port}/api/v1"
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, trust_env=False) as client:
            yield client
    finally:
        await life.shutdown()


async def answer_in_time(post: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    """The first answer that is no 503: on a busy machine so short a deadline passes without anybody's doing."""
    while (answer := await post()).status_code == 503:
        pass
    return answer


async def cut_off(client: httpx.AsyncClient, begun: asyncio.Event) -> httpx.Response:
    """The answer to the first request whose work had begun; on a busy machine one is cut off before that."""
    while not begun.is_set():
        answer = await client.post("/things", json={}, headers={"X-Request-Id": "r-1"})
        assert answer.status_code == 503
    return answer


async def test_a_request_that_is_not_answered_in_time_gets_a_503_before_its_work_has_tidied_up() -> None:
    begun, cancelled, tidy = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
            await tidy.wait()

    async with served(work) as client, asyncio.timeout(PATIENCE_S):
        answer = await cut_off(client, begun)
        assert answer.elapsed.total_seconds() >= DEADLINE_S * 0.9
        assert answer.json()["error"]["code"] == "SERVICE_UNAVAILABLE"
        assert answer.headers["Retry-After"] == "2"
        assert answer.headers["X-Request-Id"] == "r-1"
        await cancelled.wait()
        tidy.set()


async def test_what_the_work_answers_after_its_deadline_goes_nowhere_and_the_connection_serves_on() -> None:
    begun, answered = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        if begun.is_set():
            return
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            answered.set()  # and answers all the same, after the caller has his 503

    async with served(work) as client, asyncio.timeout(PATIENCE_S):
        await cut_off(client, begun)
        await answered.wait()
        second = await answer_in_time(lambda: client.post("/things", json={"note": "second"}))
        assert (second.status_code, second.json()["data"]["note"]) == (201, "second")
        assert 'route="/api/v1/things",status="503"' in (await client.get("../../metrics")).text


async def test_an_error_while_the_work_tidies_up_is_no_second_answer() -> None:
    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise DatabaseUnavailable("InterfaceError: cut off")

    async with served(work) as client, asyncio.timeout(PATIENCE_S):
        assert (await client.post("/things", json={})).status_code == 503
        assert (await client.post("/things", json={})).status_code == 503


async def test_a_process_that_stood_still_reads_what_has_come_before_it_gives_anybody_up() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        answered = loop.create_future()

        def stand_still() -> None:
            time.sleep(DEADLINE_S * 2)
            answer = threading.Thread(target=loop.call_soon_threadsafe, args=(answered.set_result, None))
            answer.start()  # as PostgreSQL's would come: while nobody reads
            answer.join()

        loop.call_soon(stand_still)
        await answered

    async with served(work) as client, asyncio.timeout(PATIENCE_S):
        answer = await answer_in_time(lambda: client.post("/things", json={}))
        assert answer.status_code == 201


async def test_the_callers_own_time_does_not_count() -> None:
    async def work() -> None:
        pass

    async def slowly() -> AsyncIterator[bytes]:
        yield b'{"note": '
        await asyncio.sleep(DEADLINE_S * 2)  # a slow phone's own length
        yield b'"late"}'

    async with served(work) as client, asyncio.timeout(PATIENCE_S):
        headers = {"Content-Type": "application/json"}
        sent = await answer_in_time(lambda: client.post("/things", content=slowly(), headers=headers))
        assert (sent.status_code, sent.json()["data"]["note"]) == (201, "late")


async def test_a_request_whose_body_came_slowly_still_has_its_deadline() -> None:
    async def work() -> None:
        await asyncio.Event().wait()

    async def slowly() -> AsyncIterator[bytes]:
        yield b'{"note": '
        await asyncio.sleep(DEADLINE_S * 2)
        yield b'"late"}'

    async with served(work) as client, asyncio.timeout(PATIENCE_S):
        sent = await client.post("/things", content=slowly(), headers={"Content-Type": "application/json"})
        assert sent.status_code == 503


@pytest.mark.parametrize(
    ("error", "reason", "message"),
    [
        (
            DatabaseUnavailable("LockNotAvailableError: a row of c-17"),
            "LockNotAvailableError",
            "its database",
        ),
        (
            DatabaseUnavailable("PostgreSQL is away (TimeoutError)"),
            "PostgreSQL is away (TimeoutError)",
            "its database",
        ),
        (KeysUnavailable("no key set was fetched yet"), "KeysUnavailable", "Tokens cannot be checked"),
        (None, "the request's deadline", "in time"),
    ],
)
async def test_a_503_tells_the_log_its_reason_and_quotes_nobody(
    caplog: pytest.LogCaptureFixture, error: Exception | None, reason: str, message: str
) -> None:
    async def work() -> None:
        if error is not None:
            raise error
        await asyncio.Event().wait()

    caplog.set_level(logging.WARNING)
    # Where the reason is another than the deadline, no busy machine may make that one of it.
    deadline_s = DEADLINE_S if error is None else PATIENCE_S
    async with served(work, deadline_s) as client, asyncio.timeout(PATIENCE_S):
        answers = [await client.post("/things", json={}) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {503}
    assert message in answers[0].json()["error"]["message"]
    (told,) = [record for record in caplog.records if record.getMessage() == "Requests are answered 503"]
    assert vars(told)["reason"] == reason
    assert vars(told)["route"] == "/api/v1/things"
    assert "c-17" not in json.dumps([str(vars(record)) for record in caplog.records])


def test_an_outage_gets_a_line_at_once_and_then_one_for_many(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    told = UnavailableLog(lambda: now[0])
    for _ in range(100):
        told.note("PostgreSQL is away (TimeoutError)", "/api/v1/orders")
    told.note("KeysUnavailable", "/api/v1/orders")  # another reason is not held back, nor another route
    told.note("KeysUnavailable", "/api/v1/offers")
    now[0] += TELL_EVERY_S
    told.note("PostgreSQL is away (TimeoutError)", "/api/v1/orders")
    lines = [(vars(record)["reason"], vars(record)["requests"]) for record in caplog.records]
    assert lines == [
        ("PostgreSQL is away (TimeoutError)", 1),
        ("KeysUnavailable", 1),
        ("KeysUnavailable", 1),
        ("PostgreSQL is away (TimeoutError)", 100),
    ]
