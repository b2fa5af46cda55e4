"""AWS on 127.0.0.1: moto for all that it does as AWS does, and a script before it for what it does not.

moto keeps task definitions, services, tags, images, target groups, rules, alarms and filters. It does not start tasks,
so it never says how a roll-out or a task ended: those two answers are written here, after what ECS documents.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

from moto.server import ThreadedMotoServer

HOST = "127.0.0.1"
TIMEOUT_S = 30.0
TARGET = "X-Amz-Target"
BREAKER = "ECS deployment circuit breaker: tasks failed to start."


@dataclass
class Script:
    """What ECS will do: which images do not come up, and whether its circuit breaker goes back by itself."""

    doomed: set[str] = field(default_factory=set)
    """Parts of the names of images whose tasks do not start."""
    failing_jobs: set[str] = field(default_factory=set)
    """Parts of the names of images whose one-off tasks end with 1."""
    circuit_breaker: bool = True
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Every request to ECS: the operation and its input."""

    def asked(self, operation: str) -> list[dict[str, Any]]:
        """The inputs of one operation, in order."""
        return [body for name, body in self.requests if name == operation]


@dataclass
class Rolling:
    """Where the roll-out of one service stands."""

    revision: str
    looks: int = 0
    failed: str | None = None


class ScriptedAws:
    """Both servers. `endpoint` is where clients go."""

    def __init__(self) -> None:
        self.script = Script()
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
        self._moto = ThreadedMotoServer(ip_address=HOST, port=0, verbose=False)
        self._moto.start()
        _, self._moto_port = self._moto.get_host_and_port()
        self._rolling: dict[str, Rolling] = {}
        self._good: dict[str, str] = {}
        self._lock = Lock()
        self._server = ThreadingHTTPServer((HOST, 0), self._handler())
        self._thread = Thread(target=self._server.serve_forever, name="scripted-aws")
        self._thread.start()

    @property
    def endpoint(self) -> str:
        """Without a slash at the end."""
        return f"http://{HOST}:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._moto.stop()

    def _forward(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = HTTPConnection(HOST, self._moto_port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        aws = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = (
                True  # head and body are two writes: the second would wait 40 ms for an ACK
            )

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, headers, answer = aws._forward("POST", self.path, dict(self.headers), body)
                service, _, operation = self.headers.get(TARGET, "").rpartition(".")
                if service.startswith("AmazonEC2ContainerService"):
                    answer = aws._ecs(operation, json.loads(body), answer, dict(self.headers))
                self.send_response(status)
                for name, value in headers:
                    if name.lower() not in (
                        "content-length",
                        "transfer-encoding",
                        "connection",
                        "date",
                        "server",
                    ):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:
                """Tests are quiet."""

        return Handler

    def _ecs(self, operation: str, asked: dict[str, Any], answer: bytes, headers: Mapping[str, str]) -> bytes:
        with self._lock:
            self.script.requests.append((operation, asked))
            told = json.loads(answer) if answer else {}
            if operation == "DescribeServices":
                for service in told.get("services", ()):
                    self._roll(service, headers)
            elif operation == "DescribeTasks":
                for task in told.get("tasks", ()):
                    self._end(task, headers)
            else:
                return answer
            return json.dumps(told).encode()

    def _call(self, operation: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
        target = headers[TARGET].rpartition(".")[0] + f".{operation}"
        kept = {name: value for name, value in headers.items() if name.lower() != "content-length"}
        _, _, answer = self._forward("POST", "/", {**kept, TARGET: target}, json.dumps(body).encode())
        found: dict[str, Any] = json.loads(answer)
        return found

    def _image(self, revision: str, headers: Mapping[str, str]) -> str:
        told = self._call("DescribeTaskDefinition", {"taskDefinition": revision}, headers)
        return str(told["taskDefinition"]["containerDefinitions"][0]["image"])

    def _roll(self, service: dict[str, Any], headers: Mapping[str, str]) -> None:
        """One look at a service whose roll-out takes two looks."""
        name, revision, desired = service["serviceArn"], service["taskDefinition"], service["desiredCount"]
        rolling = self._rolling.get(name)
        if rolling is None or rolling.revision != revision:
            failed = rolling.failed if rolling and revision == self._good.get(name) else None
            rolling = self._rolling[name] = Rolling(revision, failed=failed)
        rolling.looks += 1
        doomed = any(part in self._image(revision, headers) for part in self.script.doomed)
        primary = {
            "id": "ecs-svc/1",
            "status": "PRIMARY",
            "taskDefinition": revision,
            "desiredCount": desired,
        }
        old = self._good.get(name)
        service["deployments"] = [primary]
        if doomed and rolling.looks > 1:
            primary |= {
                "rolloutState": "FAILED",
                "rolloutStateReason": BREAKER,
                "runningCount": 0,
                "failedTasks": 3,
            }
            if self.script.circuit_breaker and old is not None:
                back = {
                    "cluster": service["clusterArn"],
                    "service": service["serviceName"],
                    "taskDefinition": old,
                }
                self._call("UpdateService", back, headers)
                self._rolling[name] = Rolling(old, failed=revision)
                primary["status"] = "ACTIVE"
                again = {**primary, "id": "ecs-svc/2", "status": "PRIMARY", "taskDefinition": old}
                service["taskDefinition"] = old
                service["deployments"] = [again | {"rolloutState": "IN_PROGRESS", "failedTasks": 0}, primary]
        elif doomed or rolling.looks == 1:
            primary |= {"rolloutState": "IN_PROGRESS", "runningCount": 0, "failedTasks": int(doomed)}
            if old and old != revision:
                service["deployments"].append({**primary, "id": "ecs-svc/0", "status": "ACTIVE", "taskDefinition": old, "rolloutState": "COMPLETED"})  # fmt: skip  # noqa: E501
        else:
            primary |= {"rolloutState": "COMPLETED", "runningCount": desired, "failedTasks": 0}
            self._good[name] = revision
        service["runningCount"] = primary["runningCount"]

    def _end(self, task: dict[str, Any], headers: Mapping[str, str]) -> None:
        image = self._image(task["taskDefinitionArn"], headers)
        failing = any(part in image for part in self.script.failing_jobs)
        task["lastStatus"] = "STOPPED"
        task["stoppedReason"] = "Essential container in task exited"
        told = self._call("DescribeTaskDefinition", {"taskDefinition": task["taskDefinitionArn"]}, headers)
        names = [one["name"] for one in told["taskDefinition"]["containerDefinitions"]]
        task["containers"] = [{"name": name, "exitCode": int(failing)} for name in names]
