"""Which port belongs to whom, and whether it is free. Loopback alone: nothing here listens elsewhere."""

import random
import socket
from collections.abc import Iterable

from deploy.local.errors import StackError

HOST = "127.0.0.1"

# Offsets from the base (WEELO_PORT_BASE). The last digits recall each server's usual port.
OFFSETS = {
    "gateway": 0,
    "order-api": 1,
    "dispatcher": 2,
    "notifier": 3,
    "expiry": 4,
    "notifier-ws": 13,
    "postgres": 32,
    "redis": 79,
    "kafka": 92,
    "kafka-controller": 93,
}
REPLICA_OFFSETS = range(100, 200)  # further replicas of a service take the next free ones of these
BLOCK = 200  # ports of one stack

# Where free blocks are looked for: below 32768, where the kernel takes the ports of outgoing connections
# from. A server's port from that range could be taken by a connection while the server restarts.
FREE_BLOCKS = range(10_000, 32_000, BLOCK)


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def free_block() -> int:
    """A base whose ports are all free. Random, so that two stacks that start at once rarely meet.

    Raises StackError where there is none.
    """
    blocks = list(FREE_BLOCKS)
    random.SystemRandom().shuffle(blocks)
    for base in blocks:
        if all(is_free(base + offset) for offset in OFFSETS.values()):
            return base
    raise StackError("no free block of ports between 10000 and 32000: set WEELO_PORT_BASE")


def check_free(base: int, names: Iterable[str]) -> None:
    """Raises StackError that names the first taken port and the setting that moves it."""
    for name in names:
        port = base + OFFSETS[name]
        if not is_free(port):
            raise StackError(
                f"port {port} ({name}) is taken: set WEELO_PORT_BASE to another base than {base}"
            )


def accepts(port: int, host: str = HOST, timeout_s: float = 1.0) -> bool:
    """Whether something listens there."""
    try:
        with socket.create_connection((host, port), timeout=timeout_s):
            return True
    except OSError:
        return False
