"""``make bench-fanout``: pushing to single users over 5,000 sockets, beside a C loop of ``send()`` and Node's ``ws``.

All three push the same frame's length to random single sockets, in turns, while phones in other processes read; what
counts is the CPU time of the pushing process. Ours is the whole notifier with a frame built for each push; the peers
send one that is ready. Then: what an idle socket takes, and the whole way from Kafka to the socket.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jwt

from bench.cpu import cpu_seconds
from bench.fanout_frames import OFFERS_AN_EVENT, captain, payload
from bench.fanout_talker import Talker, phones, talking
from bench.fanout_way import WholeWay
from bench.report import FOLDER, Row, publish, spread
from deploy.local.settings import PROJECT
from deploy.local.stack import LocalStack
from notifier.file_limit import raise_file_limit
from notifier.settings import Settings
from notifier.socket_adapter import text_frame
from weelo_common.kafka import KafkaClients

LIMIT = Path(__file__).with_name("fanout_limit.c")
NODE = PROJECT / "services/notifier/tests/node"
SECRET = "a secret of the benchmark, long enough for HS256"  # noqa: S105 - nothing else ever knows it
WARM_UP_SOCKETS = 500  # so that what is allocated once does not count as a socket's
SETTLE_S = 3.0  # between the last handshake and the look at the memory
PATIENCE_S = 120.0
TURNS_A_ROUND = 4  # the machine's moods last longer than a turn, so they meet all alike


def compiled() -> Path:
    """The C loop, made with the machine's compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        sys.exit("the limit is written in C, and there is no cc here (Debian: apt-get install gcc libc6-dev)")
    program = FOLDER / "fanout_limit"
    subprocess.run([compiler, "-O2", "-o", str(program), str(LIMIT)], check=True)
    return program


def resident_bytes(pid: int) -> int:
    """The resident set of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def make_tokens(count: int) -> Path:
    """One token for each captain, in a file."""
    until = int(time.time()) + 24 * 60 * 60
    path = FOLDER / "fanout.tokens"
    with path.open("w") as lines:
        for number in range(count):
            claims = {
                "sub": captain(number),
                "role": "captain",
                "iss": "weelo",
                "aud": "weelo-apps",
                "exp": until,
            }
            lines.write(jwt.encode(claims, SECRET, algorithm="HS256") + "\n")
    return path.resolve()


class Arena:
    """Servers that are up, the notifier, and what the rounds need of them."""

    def __init__(self, stack: LocalStack, options: argparse.Namespace, tokens: Path) -> None:
        self.stack = stack
        self.options = options
        self.tokens = str(tokens)
        stack.provision()
        stack.create_topics()
        stack.migrate(["notifier"])
        self.ws_port, self.http_port = free_port(), free_port()
        self.env = stack.service_env("notifier") | {
            "PATH": os.environ["PATH"],
            "JWT_ALGORITHM": "HS256",
            "JWT_SECRET": SECRET,
            "HTTP_PORT": str(self.http_port),
            "WS_PORT": str(self.ws_port),
            "WS_PING_INTERVAL_S": "3600",  # these phones do not answer pings
            "HEADS_CHECK_S": "3600",  # it would close whom made-up pushes leave ahead of their streams
            "LOG_LEVEL": "WARNING",
        }

    @contextlib.contextmanager
    def notifier(self) -> Iterator[Talker]:
        """The service, ready."""
        with talking([sys.executable, "-m", "bench.fanout_server"], self.env, "BENCH ") as talker:
            give_up_at = time.monotonic() + PATIENCE_S
            while time.monotonic() < give_up_at:
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/health/ready").close()
                    break
                time.sleep(0.1)
            yield talker

    def measure(self) -> list[Row]:
        """Everything; returns the rows."""
        sockets = self.options.sockets
        with self.notifier() as ours, contextlib.ExitStack() as opened:
            pid = ours.process.pid
            opened.enter_context(phones(self.ws_port, WARM_UP_SOCKETS, tokens_file=self.tokens, skip=sockets))
            before = resident_bytes(pid)
            readers = opened.enter_context(phones(self.ws_port, sockets, tokens_file=self.tokens))
            time.sleep(SETTLE_S)
            idle_kib = (resident_bytes(pid) - before) / sockets / 1024
            print(f"  an idle socket takes {idle_kib:.2f} KiB")
            # First, because made-up pushes leave the sockets ahead of their streams.
            way = WholeWay(
                KafkaClients(self._settings(), client_id="bench"), self._cpu(pid), readers, sockets
            )
            whole_way = asyncio.run(way.rows(self.options.events, self.options.seconds))
            idle = Row(
                "memory per idle socket, compression off", f"{idle_kib:.1f} KiB", "-", idle_kib, "lower", 16.0,
                "KiB", f"resident set of the whole notifier, {sockets:,} sockets of as many users after "
                f"{WARM_UP_SOCKETS}, {SETTLE_S:g} s after the last handshake; uvloop",
            )  # fmt: skip
            return [*self._push_rows(ours, readers), idle, *whole_way]

    def _settings(self) -> Settings:
        env = {name.lower(): value for name, value in self.env.items()}
        return Settings.model_validate({name: env[name] for name in Settings.model_fields if name in env})

    def _cpu(self, pid: int) -> Callable[[], dict[str, float]]:
        servers = {name: self.stack.server(name).pid for name in ("postgres", "redis")}
        return lambda: {
            "the notifier": cpu_seconds(pid),
            "PostgreSQL": cpu_seconds(servers["postgres"], with_children=True),
            "Redis": cpu_seconds(servers["redis"]),
        }

    def _push_rows(self, ours: Talker, readers: Talker) -> list[Row]:
        sockets, pushes = self.options.sockets, self.options.pushes // TURNS_A_ROUND
        ready = payload()
        frame_bytes = len(text_frame(ready))
        payload_file = FOLDER / "fanout.payload"
        payload_file.write_bytes(ready)
        buffer = Settings.model_fields["ws_send_buffer_bytes"].default
        rates: dict[str, list[float]] = {"ours": [], "C": [], "Node ws": []}
        with contextlib.ExitStack() as opened:
            limit = opened.enter_context(
                talking([str(compiled()), str(sockets), str(frame_bytes), str(buffer)])
            )
            parties = {
                "C": (limit, opened.enter_context(phones(int(limit.hear()), sockets, handshake=False)))
            }
            if shutil.which("node") and (NODE / "node_modules/ws").is_dir():
                node = opened.enter_context(
                    talking(["node", str(NODE / "push_server.mjs"), str(sockets), str(payload_file)])
                )
                parties["Node ws"] = (node, opened.enter_context(phones(int(node.hear()), sockets)))
            else:
                print("  node, or its ws (make contract-tools), is not there: its rows are left out")
            parties["ours"] = (ours, readers)
            for number in range(-1, self.options.rounds):
                used_s = dict.fromkeys(parties, 0.0)
                for name in [*parties] * TURNS_A_ROUND:
                    pusher, reader = parties[name]
                    reader.say("drain")
                    # Ours holds the warm-up's sockets, too, which nobody reads now.
                    command = f"push {pushes} {sockets}" if pusher is ours else f"push {pushes}"
                    used_s[name] += float(pusher.ask(command))
                    received = json.loads(reader.ask("enough"))["received_bytes"]
                    if received < pushes * (frame_bytes - 8):
                        sys.exit(f"{name}: only {received} bytes came of {pushes} frames of {frame_bytes}")
                if number >= 0:  # the first round only warms up
                    for name, seconds in used_s.items():
                        rates[name].append(pushes * TURNS_A_ROUND / seconds)
                    told = ", ".join(f"{name} {some[-1]:,.0f}" for name, some in rates.items() if some)
                    print(f"  round {number + 1}, pushes per CPU-second: {told}")
        conditions = (
            f"{sockets:,} sockets, {pushes * TURNS_A_ROUND:,} frames of {frame_bytes} bytes a round to random single "
            f"users, {OFFERS_AN_EVENT} an event; CPU time of the pushing process; {TURNS_A_ROUND} turns a round, "
            f"median of {self.options.rounds}; 2 cores shared with the phones, which read each 10 ms; load average "
            f"{os.getloadavg()[0]:.1f}"
        )
        rows = [self._ratio(rates, "C", "pushes to single users, of a C loop of send()", 0.5, conditions)]
        if rates["Node ws"]:
            rows.append(self._ratio(rates, "Node ws", "the same, of Node ws", None, conditions))
        return rows

    def _ratio(
        self, rates: Mapping[str, list[float]], peer: str, name: str, reach: float | None, conditions: str
    ) -> Row:
        ratio = statistics.median(a / b for a, b in zip(rates["ours"], rates[peer], strict=True))
        return Row(
            name,
            spread(rates["ours"]) + " per CPU-second",
            f"{spread(rates[peer])} of {peer}",
            ratio,
            "higher",
            reach,
            f"of {peer}",
            conditions,
        )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sockets", type=int, default=5000)
    parser.add_argument("--pushes", type=int, default=200_000, help="of a round")
    parser.add_argument("--events", type=int, default=2000, help="of the backlog in Kafka")
    parser.add_argument("--seconds", type=float, default=6.0, help="of the latency from Kafka to the socket")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    raise_file_limit(3 * options.sockets)
    tokens = make_tokens(options.sockets + WARM_UP_SOCKETS)
    with LocalStack(PROJECT / FOLDER / "stack", None, env=os.environ) as stack:
        stack.start_servers()
        rows = Arena(stack, options, tokens).measure()
    publish("fanout", rows)


if __name__ == "__main__":
    main()
