"""What every test above the unit tests shares: one stack of real servers for the whole run.

The servers start with the first test that asks for `stack`, on free ports, and end with the run. They are
Apache Kafka, PostgreSQL and Redis: the tests want the real ones, so Tansu never steps in here. With
TEST_STACK=docker they come from testcontainers; KAFKA_BOOTSTRAP_SERVERS, POSTGRES_DSN (an admin's) and REDIS_URL
name servers that run already.
"""

import os
from collections.abc import Iterator, Mapping

import pytest

from deploy.local.errors import FolderInUse, StackError
from deploy.local.settings import PROJECT
from deploy.local.stack import LocalStack

RUNS_SIDE_BY_SIDE = 8  # of pytest in one clone; each takes a folder of its own


@pytest.fixture(scope="session")
def stack() -> Iterator[LocalStack]:
    """The three servers, up. Databases and topics are the test's own: `stack.provision(prefix)` makes fresh
    databases, KAFKA_TOPIC_PREFIX fresh topics."""
    # A killed server loses nothing without fsync either; only a machine that loses power does.
    env = {"WEELO_PG_FSYNC": "off"} | dict(os.environ)
    with start_in_free_folder(env) as local:
        yield local


def start_in_free_folder(env: Mapping[str, str]) -> LocalStack:
    """Servers in .run/test, or in the next folder where another run of pytest holds that."""
    for number in range(1, RUNS_SIDE_BY_SIDE + 1):
        folder = PROJECT / ".run" / ("test" if number == 1 else f"test-{number}")
        local = LocalStack(folder, None, "apache", env=env)
        try:
            local.start_servers()
        except FolderInUse:
            continue
        return local
    raise StackError(f"{RUNS_SIDE_BY_SIDE} test runs hold their folders in .run: wait for one to end")
