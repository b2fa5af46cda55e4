"""Apache Kafka for the local stack: one node in KRaft mode, run by the machine's Java from jars of Maven.

The jars are fetched once into a cache folder. Each start begins with empty topics.
"""

import base64
import os
import re
import shutil
import subprocess
import uuid
import xml.etree.ElementTree as ET  # parses the pom.xml beside this file and nothing else
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.local.errors import StackError
from deploy.local.ports import HOST, accepts
from deploy.local.processes import Child, Command, Nursery, run_to_end
from deploy.local.servers import kafka_answers

POM = Path(__file__).with_name("kafka") / "pom.xml"
MINIMUM_JAVA = 17  # what Kafka 4's broker asks for
JAVA_VERSION_TIMEOUT_S = 20.0
FETCH_TIMEOUT_S = 900.0  # 44 MB from a registry that may be slow
FORMAT_TIMEOUT_S = 60.0
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
HEAP = ("-Xms256m", "-Xmx1g")

SERVER_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}{second_listener}
advertised.listeners=PLAINTEXT://{host}:{port}{second_advertised}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT
log.dirs={data}
# Topics are made by one job; a typing error in a name must not make one.
auto.create.topics.enable=false
# A group of one starts at once instead of waiting three seconds for others.
group.initial.rebalance.delay.ms=0
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=4
# A topic without a retention of its own; ours all name theirs.
log.retention.hours=24
log.segment.bytes=67108864
num.network.threads=2
num.io.threads=4
"""

LOG4J2_PROPERTIES = """\
status=error
rootLogger.level=WARN
rootLogger.appenderRef.console.ref=console
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d{ISO8601} %p %m (%c{1})%n
"""


@dataclass(frozen=True)
class ProxiedListener:
    """A second port of the broker whose clients are sent to another one, where a proxy stands before it."""

    port: int
    proxy_port: int


@dataclass(frozen=True)
class Java:
    """A Java that can run the broker."""

    path: str
    major: int


def find_java(env: Mapping[str, str]) -> Java | None:
    """JAVA_HOME's Java, else the one on PATH; None where there is none of version 17 or newer."""
    candidates = []
    if home := env.get("JAVA_HOME"):
        candidates.append(str(Path(home) / "bin" / "java"))
    if on_path := shutil.which("java", path=env.get("PATH", os.defpath)):
        candidates.append(on_path)
    for path in candidates:
        try:
            done = subprocess.run(
                [path, "-version"],
                capture_output=True,
                text=True,
                timeout=JAVA_VERSION_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        found = re.search(r'version "(\d+)', done.stderr)
        if found and int(found.group(1)) >= MINIMUM_JAVA:
            return Java(path, int(found.group(1)))
    return None


def pinned_version(pom: Path = POM) -> str:
    """Kafka's version as the pom.xml pins it."""
    version = ET.parse(pom).getroot().findtext(".//{*}properties/{*}kafka.version")  # noqa: S314 - our own file
    if version is None:
        raise StackError(f"{pom.name} names no kafka.version")
    return version


def find_maven(env: Mapping[str, str]) -> str | None:
    return shutil.which("mvn", path=env.get("PATH", os.defpath))


def jars_folder(cache_dir: Path) -> Path:
    """Where the pinned version's jars lie, or will."""
    return cache_dir / f"kafka-{pinned_version()}"


def why_not(env: Mapping[str, str], cache_dir: Path) -> str | None:
    """What is missing on this machine to run Apache Kafka, in words that say what to install; None: nothing."""
    if find_java(env) is None:
        return f"Java {MINIMUM_JAVA} or newer is missing (install openjdk-17-jre-headless)"
    if not jars_folder(cache_dir).is_dir() and find_maven(env) is None:
        return "Maven is missing (install maven), and no jars are cached"
    return None


def fetch_jars(cache_dir: Path, env: Mapping[str, str], log_path: Path, say: Callable[[str], None]) -> Path:
    """The folder of jars, fetched with Maven where it is not cached. A fetch that breaks off leaves nothing."""
    folder = jars_folder(cache_dir)
    if folder.is_dir():
        return folder
    maven = find_maven(env)
    if maven is None:
        raise StackError("Maven is missing: install maven, or start with KAFKA=tansu")
    say(f"fetching Apache Kafka {pinned_version()} with Maven, once (44 MB) …")
    cache_dir.mkdir(parents=True, exist_ok=True)
    unfinished = cache_dir / f".{folder.name}.{os.getpid()}"
    command = Command(
        name="Maven",
        argv=(
            maven,
            "--quiet",
            "--batch-mode",
            "--file",
            str(POM),
            "dependency:copy-dependencies",
            f"-DoutputDirectory={unfinished}",
            "-DincludeScope=runtime",
        ),
        log_path=log_path,
        env=env,
        cwd=cache_dir,
    )
    try:
        run_to_end(command, FETCH_TIMEOUT_S)
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another stack fetched at the same time, and its jars serve
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


class LocalApacheKafka:
    """One Kafka node, broker and controller, on 127.0.0.1."""

    def __init__(
        self,
        run_dir: Path,
        cache_dir: Path,
        port: int,
        controller_port: int,
        nursery: Nursery,
        env: Mapping[str, str],
        say: Callable[[str], None],
        proxied: ProxiedListener | None = None,
    ) -> None:
        self._proxied = proxied
        self._run_dir = run_dir
        self._cache_dir = cache_dir
        self._port = port
        self._controller_port = controller_port
        self._nursery = nursery
        self._env = env
        self._say = say
        self._log_path = run_dir / "kafka.log"
        self._data = run_dir / "kafka"

    idempotence = True  # it takes the idempotent producer

    @property
    def bootstrap(self) -> str:
        return f"{HOST}:{self._port}"

    def fetch(self) -> None:
        """Fetch the jars where they are not cached yet. May take minutes; Ctrl-C ends it."""
        fetch_jars(self._cache_dir, self._env, self._log_path, self._say)

    def prepare(self) -> Child:
        """Fetch what is missing and format an empty log folder. Raises StackError that says what to install."""
        java = find_java(self._env)
        if java is None:
            raise StackError(
                f"Java {MINIMUM_JAVA} or newer is missing: install openjdk-17-jre-headless, or start with KAFKA=tansu"
            )
        jars = fetch_jars(self._cache_dir, self._env, self._log_path, self._say)
        self.clean()
        self._data.mkdir()
        logging = self._data / "log4j2.properties"
        logging.write_text(LOG4J2_PROPERTIES)
        properties = self._data / "server.properties"
        properties.write_text(
            SERVER_PROPERTIES.format(
                host=HOST,
                port=self._port,
                controller_port=self._controller_port,
                data=self._data / "logs",
                second_listener=f",PROXIED://{HOST}:{self._proxied.port}" if self._proxied else "",
                second_advertised=f",PROXIED://{HOST}:{self._proxied.proxy_port}" if self._proxied else "",
            )
        )
        base = (java.path, f"-Dlog4j2.configurationFile=file:{logging}", "-cp", f"{jars}/*")
        # No dash: one id of 64 would begin with it, and the tool would take that for an option.
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "_")
        storage_tool = ("kafka.tools.StorageTool", "format", "--cluster-id", cluster_id)
        run_to_end(
            self._command("Kafka's storage format", *base, *storage_tool, "--config", str(properties)),
            FORMAT_TIMEOUT_S,
        )
        return Child(
            self._nursery,
            self._command("Apache Kafka", base[0], *HEAP, *base[1:], "kafka.Kafka", str(properties)),
        )

    def wait_ready(self, child: Child) -> str:
        """Wait until the broker answers; returns its name and version."""
        child.wait_until(lambda: accepts(self._port), READY_TIMEOUT_S)
        child.wait_until(lambda: kafka_answers(self.bootstrap), READY_TIMEOUT_S)
        return f"Apache Kafka {pinned_version()}"

    def clean(self) -> None:
        """Remove the data. The server must have ended."""
        if self._data.is_dir():
            shutil.rmtree(self._data)

    def _command(self, name: str, *argv: str) -> Command:
        env = {"PATH": self._env.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}
        return Command(
            name=name,
            argv=argv,
            log_path=self._log_path,
            env=env,
            cwd=self._data,
            stop_timeout_s=STOP_TIMEOUT_S,
        )
