"""The limit of open files, raised as far as the system lets us: every socket is one."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)

FILES_BESIDE_SOCKETS = 256  # PostgreSQL, Kafka, Redis, HTTP, the interpreter's own


def raise_file_limit(sockets: int) -> None:
    """Make room for so many sockets; one warning where the system allows fewer."""
    try:
        import resource
    except ImportError:  # no such limit on this platform
        return
    wanted = sockets + FILES_BESIDE_SOCKETS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= wanted:
        return
    reachable = wanted if hard == unlimited else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
    if reachable < wanted:
        log.warning(
            "The limit of open files is below WS_MAX_SOCKETS; raise it with ulimit -n",
            extra={"openFiles": reachable, "wanted": wanted},
        )
