"""nginx before the local services: the one entrance, from the same template that docker-compose.yml uses.

Where nginx is not installed there is no gateway, and the services are reached on their own ports.
"""

import os
import re
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.local.errors import StackError
from deploy.local.ports import HOST, accepts
from deploy.local.processes import Child, Command, Nursery, run_to_end
from deploy.local.services import ServiceProcess

TEMPLATE = Path(__file__).resolve().parents[1] / "gateway" / "nginx.conf.template"
SYSTEM_BINARY = Path("/usr/sbin/nginx")  # Debian keeps it off most users' PATH
VARIABLE = re.compile(r"\$\{(GATEWAY_[A-Z_]+)\}")
READY_TIMEOUT_S = 10.0
CHECK_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 5.0
NO_RESOLVER = HOST  # never asked: here every server is an address


def find_nginx(path: str) -> Path | None:
    """nginx from PATH or where Debian puts it; None where there is none."""
    found = shutil.which("nginx", path=path)
    if found is not None:
        return Path(found)
    return SYSTEM_BINARY if os.access(SYSTEM_BINARY, os.X_OK) else None


def render(template: str, values: Mapping[str, str]) -> str:
    """The template with its variables filled in. Raises StackError that names one without a value."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in values:
            raise StackError(f"the gateway's template wants {name}, which has no value")
        return values[name]

    return VARIABLE.sub(value, template)


def _servers(ports: Sequence[int]) -> str:
    return " ".join(f"server {HOST}:{port};" for port in ports)


class LocalGateway:
    """One nginx on 127.0.0.1. `start` again takes in other replicas, and breaks no request in flight."""

    def __init__(self, run_dir: Path, port: int, nursery: Nursery, env: Mapping[str, str]) -> None:
        self._folder = run_dir / "gateway"
        self._log_path = run_dir / "gateway.log"
        self._port = port
        self._nursery = nursery
        self._env = {"PATH": env.get("PATH", os.defpath), "LC_ALL": "C"}
        self._child: Child | None = None

    @property
    def base_url(self) -> str:
        """`http://127.0.0.1:18000`, without a slash at the end."""
        return f"http://{HOST}:{self._port}"

    @property
    def ws_url(self) -> str:
        """`ws://127.0.0.1:18000/ws`."""
        return f"ws://{HOST}:{self._port}/ws"

    @property
    def children(self) -> list[Child]:
        """nginx itself, once it was started."""
        return [] if self._child is None else [self._child]

    def start(self, services: Sequence[ServiceProcess]) -> None:
        """Serve these replicas. Raises StackError without nginx, or where it refuses its configuration."""
        nginx = find_nginx(self._env["PATH"])
        if nginx is None:
            raise StackError("no nginx on this machine (Debian: apt-get install nginx-light)")
        self._folder.mkdir(exist_ok=True)
        config = self._folder / "nginx.conf"
        config.write_text(render(TEMPLATE.read_text(encoding="utf-8"), self._values(services)))
        argv = (str(nginx), "-p", str(self._folder), "-e", "stderr", "-c", str(config))
        run_to_end(self._command("nginx -t", *argv, "-q", "-t"), CHECK_TIMEOUT_S)
        if self._child is not None and self._child.running:
            os.kill(self._child.pid, signal.SIGHUP)
            return
        self._child = Child(self._nursery, self._command("gateway", *argv))
        self._child.start()
        self._child.wait_until(lambda: accepts(self._port), READY_TIMEOUT_S)

    def _values(self, services: Sequence[ServiceProcess]) -> dict[str, str]:
        http = {
            name: [process.ports.http for process in services if process.service == name]
            for name in ("order-api", "dispatcher", "notifier")
        }
        sockets = [process.ports.ws for process in services if process.ports.ws is not None]
        for name, ports in http.items():
            if not ports:
                raise StackError(f"the gateway needs a replica of {name}")
        return {
            "GATEWAY_FOLDER": str(self._folder),
            "GATEWAY_LISTEN": f"{HOST}:{self._port}",
            "GATEWAY_RESOLVER": NO_RESOLVER,
            "GATEWAY_ORDER_API": _servers(http["order-api"]),
            "GATEWAY_DISPATCHER": _servers(http["dispatcher"]),
            "GATEWAY_NOTIFIER": _servers(http["notifier"]),
            "GATEWAY_NOTIFIER_SOCKETS": _servers(sockets),
        }

    def _command(self, name: str, *argv: str) -> Command:
        return Command(
            name=name,
            argv=argv,
            log_path=self._log_path,
            env=self._env,
            cwd=self._folder,
            stop_timeout_s=STOP_TIMEOUT_S,
            death_signal=signal.SIGTERM,  # SIGKILL would leave its workers behind
        )
