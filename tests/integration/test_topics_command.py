"""`weelo topics` on a real Kafka, as operators run it, and the job that does the same before the services start."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from deploy.local.stack import LocalStack
from weelo_common.events.topics import ORDERS_EVENTS, declared_topics
from weelo_common.kafka import KafkaClients
from weelo_common.settings import KafkaSettings
from weelo_common.topics import look

WEELO = Path(sys.executable).with_name("weelo")
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Operator:
    """Runs commands against topics of its own."""

    env: dict[str, str]
    kafka: KafkaClients
    prefix: str

    def name(self, topic: str) -> str:
        return f"{self.prefix}{topic}"

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self.env | env, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )

    def topics(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return self.run(str(WEELO), "topics", *arguments, **env)


@pytest.fixture
async def operator(stack: LocalStack) -> AsyncIterator[Operator]:
    prefix = f"t{uuid4().hex[:8]}."
    bootstrap = stack.servers.kafka_bootstrap
    settings = KafkaSettings(kafka_bootstrap_servers=bootstrap, kafka_topic_prefix=prefix)
    kafka = KafkaClients(settings, client_id="test")
    # No replication factor: the brokers' own default must do.
    env = {name: value for name, value in os.environ.items() if not name.startswith("KAFKA_")}
    yield Operator(env | {"KAFKA_BOOTSTRAP_SERVERS": bootstrap, "KAFKA_TOPIC_PREFIX": prefix}, kafka, prefix)
    async with kafka.admin() as admin:
        await admin.delete_topics([kafka.topic_name(topic) for topic in declared_topics()])


async def all_there(operator: Operator) -> None:
    """Wait until the broker tells of all topics: it learns of new ones a moment after its answer."""
    deadline = time.monotonic() + PATIENCE_S
    wanted = {operator.kafka.topic_name(topic) for topic in declared_topics()}
    while not wanted <= set((await look(operator.kafka)).topics):
        assert time.monotonic() < deadline, "not all topics came"
        await asyncio.sleep(0.05)


async def overrides(operator: Operator, topic: str, wanted: dict[str, str]) -> None:
    """Wait until the broker tells these settings of a topic: it learns of a change a moment after its answer."""
    seen: Mapping[str, str] | None = None
    deadline = time.monotonic() + PATIENCE_S
    while seen != wanted:
        assert time.monotonic() < deadline, f"{topic} still has {seen}"
        await asyncio.sleep(0.05)
        seen = (await look(operator.kafka)).topics[operator.name(topic)].overrides


async def set_on(operator: Operator, topic: str, settings: dict[str, str]) -> None:
    async with operator.kafka.admin() as admin:
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, operator.name(topic), settings)])
    await overrides(operator, topic, settings)


async def test_check_names_what_is_missing_apply_creates_it_and_then_check_is_content(
    operator: Operator,
) -> None:
    before = operator.topics("check")
    assert before.returncode == 1
    assert f"{operator.name('orders.events.v1')} is missing" in before.stdout.splitlines()
    would = operator.topics("apply")
    assert (would.returncode, len(would.stdout.splitlines())) == (0, len(declared_topics()) + 1)
    assert f"would create {operator.name('orders.events.v1')}" in would.stdout.splitlines()
    assert operator.topics("check").returncode == 1  # nothing was done
    done = operator.topics("apply", "--yes")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(declared_topics())
    await all_there(operator)
    after = operator.topics("check")
    assert (after.returncode, after.stderr) == (0, "")
    assert f"{operator.name('orders.events.v1')} is as declared (12 partitions)" in after.stdout.splitlines()
    assert operator.topics("apply", "--yes").stdout == "all topics are as declared\n"


async def test_apply_brings_retention_back_and_leaves_what_others_set(operator: Operator) -> None:
    operator.topics("apply", "--yes")
    await all_there(operator)
    await set_on(operator, "timers.fired.v1", {"retention.ms": "1000", "max.message.bytes": "2000000"})
    drifted = operator.topics("check")
    assert drifted.returncode == 1
    assert f"{operator.name('timers.fired.v1')} has retention.ms=1000, not 86400000" in drifted.stdout
    assert operator.topics("apply", "--yes").stdout == f"changed {operator.name('timers.fired.v1')}\n"
    await overrides(
        operator,
        "timers.fired.v1",
        {"retention.ms": "86400000", "cleanup.policy": "delete", "max.message.bytes": "2000000"},
    )


async def test_apply_refuses_other_partitions_and_then_changes_nothing_at_all(operator: Operator) -> None:
    async with operator.kafka.admin() as admin:
        await admin.create_topics([NewTopic(operator.name(ORDERS_EVENTS.name), 3, 1)])
    for command in (("check",), ("apply", "--yes")):
        said = operator.topics(*command)
        assert said.returncode == 1
        assert f"{operator.name('orders.events.v1')} has 3 partitions, not 12" in said.stdout + said.stderr
    assert "make a topic of the next version" in operator.topics("apply", "--yes").stderr
    assert set((await look(operator.kafka)).topics) == {operator.name("orders.events.v1")}


async def test_answers_for_programs_say_the_same(operator: Operator) -> None:
    missing = json.loads(operator.topics("check", "--json").stdout)
    assert missing["asDeclared"] is False
    assert {topic["present"] for topic in missing["topics"]} == {False}
    done = json.loads(operator.topics("apply", "--yes", "--json").stdout)
    assert set(done["created"]) == {topic["name"] for topic in missing["topics"]}
    await all_there(operator)
    await set_on(operator, "orders.events.v1", {"retention.ms": "1000", "cleanup.policy": "delete"})
    drifted = json.loads(operator.topics("check", "--json").stdout)
    assert [topic["differences"] for topic in drifted["topics"] if topic["differences"]] == [
        [{"what": "retention.ms", "declared": "604800000", "standing": "1000"}]
    ]
    assert drifted["warnings"] == []  # these brokers create no topics by themselves


async def test_the_job_does_what_apply_does(operator: Operator) -> None:
    done = operator.run(sys.executable, "-m", "weelo_common.topics")
    assert done.returncode == 0, done.stderr
    await all_there(operator)
    assert operator.topics("check").returncode == 0


async def test_brokers_that_are_away_and_bad_settings_have_exit_codes_of_their_own(
    operator: Operator,
) -> None:
    away = operator.topics("check", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert away.returncode == 3
    assert away.stderr.startswith("Kafka is not available: ")
    bad = operator.topics("apply", KAFKA_BOOTSTRAP_SERVERS="nowhere")
    assert (bad.returncode, bad.stderr) == (
        2,
        "bad setting: KAFKA_BOOTSTRAP_SERVERS: must be host:port, several by comma\n",
    )


async def test_these_brokers_say_that_they_create_no_topics_by_themselves(operator: Operator) -> None:
    assert (await look(operator.kafka)).auto_creation is False
