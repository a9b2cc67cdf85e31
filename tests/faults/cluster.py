"""Three real brokers on this machine, set up as in a city: replication 3, at least two in sync, one may fail."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import time
import uuid
from contextlib import ExitStack, closing
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from infra.jvm.class_archive import archived_classes
from infra.jvm.environment import jvm_environment
from infra.jvm.jars import resolve_jars
from infra.jvm.java import find_java
from infra.settings import read_settings

_PROPERTIES = """\
process.roles=broker,controller
node.id={number}
controller.quorum.voters={voters}
controller.listener.names=CONTROLLER
inter.broker.listener.name=BROKER
listeners=BROKER://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=data
auto.create.topics.enable=false
min.insync.replicas=2
offsets.topic.replication.factor=3
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
offsets.topic.num.partitions=2
transaction.state.log.num.partitions=2
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=1000
message.max.bytes=8388608
log.cleaner.dedupe.buffer.size=16777216
"""
START_SECONDS = 120


class Cluster:
    """Brokers 0, 1 and 2; each keeps its ports and its folder after a kill."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with ExitStack() as held:
            sockets = [held.enter_context(closing(socket.socket())) for _ in range(6)]
            for opened in sockets:
                opened.bind(("127.0.0.1", 0))
            ports = [opened.getsockname()[1] for opened in sockets]
        self.ports, self.controllers = ports[:3], ports[3:]
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        settings = read_settings()
        self._java = [
            str(find_java(settings.java_home).program), "-Xms128m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
            "-Djava.awt.headless=true", *archived_classes("broker", settings), "-cp", os.pathsep.join(map(str, resolve_jars("broker", settings))),
        ]  # fmt: skip

    @property
    def servers(self) -> str:
        """All three addresses."""
        return ",".join(f"127.0.0.1:{port}" for port in self.ports)

    def start(self, *numbers: int) -> None:
        """Start these brokers, or all, and wait until each answers and knows all that run."""
        for number in numbers or range(3):
            self._launch(number)
        until = time.monotonic() + START_SECONDS
        while not all(self._members(number) == len(self.processes) for number in self.processes):
            assert time.monotonic() < until, "the brokers did not find each other: see their logs"
            assert all(p.poll() is None for p in self.processes.values()), "a broker ended: see its log"
            time.sleep(0.2)

    def kill(self, number: int) -> None:
        """End a broker as a power cut does."""
        process = self.processes.pop(number)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        """End all."""
        for number in list(self.processes):
            self.kill(number)

    def _launch(self, number: int) -> None:
        folder = self.folder / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        voters = ",".join(f"{n}@127.0.0.1:{port}" for n, port in enumerate(self.controllers))
        (folder / "server.properties").write_text(
            _PROPERTIES.format(
                number=number, voters=voters, port=self.ports[number], controller=self.controllers[number]
            )
        )
        if not (folder / "data" / "meta.properties").exists():
            name = self.folder / "cluster.id"
            if not name.exists():
                name.write_text("S" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22])
            subprocess.run(
                [*self._java, "kafka.tools.StorageTool", "format", "-t", name.read_text(), "-c", "server.properties"],
                cwd=folder, env=jvm_environment(), check=True, capture_output=True,
            )  # fmt: skip
        with (folder / "broker.log").open("ab") as log:
            self.processes[number] = subprocess.Popen(
                [*self._java, "kafka.Kafka", "server.properties"],
                cwd=folder,
                env=jvm_environment(),
                stdout=log,
                stderr=log,
            )

    def _members(self, number: int) -> int:
        """How many brokers this one knows; 0 while it does not answer. Each broker is asked, because the others list
        a killed broker for some seconds more."""
        server = f"127.0.0.1:{self.ports[number]}"
        try:
            with closing(KafkaAdminClient(bootstrap_servers=server, bootstrap_timeout_ms=3000)) as admin:
                return len(admin.describe_cluster()["brokers"])
        except KafkaError:
            return 0

    def leader(self, topic: str) -> int:
        """Which broker leads the topic's first partition."""
        with closing(KafkaAdminClient(bootstrap_servers=self.servers.split(","))) as admin:
            (found,) = admin.describe_topics([topic])
            return int(found["partitions"][0]["leader_id"])
