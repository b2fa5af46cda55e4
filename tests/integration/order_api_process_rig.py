"""order-api as a process of its own for tests that kill it, read its log, or call it from threads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from deploy.local.processes import Nursery
from tests.integration.order_api_rig import Home
from tests.integration.service_process import RunningService


class OrderApiProcess(RunningService):
    """One order-api."""

    def __init__(self, nursery: Nursery, home: Home, log_path: Path, settings: dict[str, str]) -> None:
        super().__init__(nursery, "order_api", log_path, home.environment() | settings)


@contextlib.contextmanager
def order_api_running(home: Home, folder: Path, **settings: str) -> Iterator[OrderApiProcess]:
    """A started process, ended however it goes; its log lies in ``folder``."""
    nursery = Nursery()
    process = OrderApiProcess(nursery, home, folder / "order-api.log", settings)
    try:
        process.start()
        yield process
    finally:
        process.stop()
        nursery.close()
