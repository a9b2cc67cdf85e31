"""The embedded broker: one Kafka node in KRaft mode on 127.0.0.1, for a machine without a Kafka of its own.

It runs in a session of its own and outlives the command that started it. State: its files in <home>/kafka,
its process and ports in <home>/run/broker.json.

A secure broker has four doors. Behind each, a principal may do what an ACL lets it, and only the city everything:
the city's own (mutual TLS, 127.0.0.1 only), the controller's (the same), one for nodes with a password (SCRAM over
TLS) and one for nodes with a certificate (mutual TLS). What makes it secure is in <home>/security; while that is
there, it never starts otherwise.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from infra.jvm.jars import find_java, jars, jvm_env
from infra.settings import node_text, read_node_file, write_secret
from schemas.errors import StateError, UnavailableError
from schemas.ports.kafka_access import KafkaAccess
from schemas.tell import Tell, quiet

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
START_SECONDS = 90  # on a machine under full load

# Paths in it are relative to <home>/kafka: a comma or a Chinese character in the home would not survive
# Kafka's own reading of this file.
_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=BROKER
log.dirs=data
# A topic that nobody declared is a mistake to be seen, not a topic to be made.
auto.create.topics.enable=false
# One node keeps the only replica of everything.
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# Few partitions of the inner topics: a quick start.
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
# After a kill the node may register again once its old session is over: 4 seconds, not 9.
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=1000
# Two weeks unless a topic says otherwise: bronze holds every record from the first run of ingest on.
log.retention.hours=336
# How far a node's outbox was sent is kept a year: a node may be away for long, and must not send twice.
offsets.retention.minutes=525600
transactional.id.expiration.ms=2147483647
message.max.bytes={max_message_bytes}
# A small machine: few threads, a small buffer for compaction (the default is 128 MiB).
num.io.threads=4
num.network.threads=2
background.threads=2
log.cleaner.dedupe.buffer.size=16777216
"""

_OPEN = """\
listeners=BROKER://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=BROKER://127.0.0.1:{port}
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT
"""

_SECURE = """\
listeners=BROKER://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port},\
PASSWORD://{bind}:{password_port},CERTIFICATE://{bind}:{certificate_port}
advertised.listeners=BROKER://127.0.0.1:{port},\
PASSWORD://{host}:{password_port},CERTIFICATE://{host}:{certificate_port}
listener.security.protocol.map=BROKER:SSL,CONTROLLER:SSL,PASSWORD:SASL_SSL,CERTIFICATE:SSL
ssl.client.auth=required
listener.name.password.ssl.client.auth=none
ssl.keystore.type=PEM
ssl.keystore.location=../security/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location=../security/trusted.pem
# CN=440106.1f2e3d4c is User:440106.1f2e3d4c, and CN=city is User:city.
ssl.principal.mapping.rules=RULE:^CN=([0-9a-z.]+)$/$1/
listener.name.password.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.password.scram-sha-512.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=false
super.users=User:city
"""

_LOG4J = """\
appender.file.type=RollingFile
appender.file.name=file
appender.file.fileName=broker.log
appender.file.filePattern=broker.log.%i
appender.file.layout.type=PatternLayout
appender.file.layout.pattern=%d{ISO8601} %p %m (%c)%n%throwable
appender.file.policies.type=Policies
appender.file.policies.size.type=SizeBasedTriggeringPolicy
appender.file.policies.size.size=10MB
appender.file.strategy.type=DefaultRolloverStrategy
appender.file.strategy.max=3
rootLogger.level=WARN
rootLogger.appenderRef.file.ref=file
logger.server.name=kafka.server
logger.server.level=INFO
logger.denied.name=kafka.authorizer.logger
logger.denied.level=INFO
"""


@dataclass(frozen=True)
class _State:
    """What is kept of the broker; the ports outlive a stop, so that it comes back at the same address."""

    port: int
    controller_port: int
    pid: int | None = None
    born: str | None = None  # when the process began: the same pid with another birth is a stranger
    password_port: int | None = None  # the two for nodes, of a secure broker
    certificate_port: int | None = None
    secure: bool = False  # the process runs so

    @property
    def ports(self) -> list[int]:
        return [p for p in (self.port, self.controller_port, self.password_port, self.certificate_port) if p]


class Broker:
    """The embedded broker of one home. All calls may be repeated, also by several processes at once."""

    def __init__(self, home: Path, advertised_host: str | None = None) -> None:
        self.folder = home / "kafka"
        self.security = home / "security"
        self._host = advertised_host
        self._state_file = home / "run" / "broker.json"
        self._city = self.security / "city.toml"

    @property
    def secure(self) -> bool:
        """Whether nobody gets in without credentials; once so, it stays so."""
        return (self.security / "authority.pem").is_file()

    @property
    def client(self) -> Mapping[str, Any]:
        """kafka-python's security settings of the city itself; empty where the broker is not secure."""
        return read_node_file(self._city).client if self._city.is_file() else {}

    def servers(self, mutual_tls: bool) -> str:
        """The address for a node of a secure broker, with a certificate or with a password."""
        state = self._read()
        port = state and (state.certificate_port if mutual_tls else state.password_port)
        if port is None:
            raise StateError(
                f"The bus of {self.folder.parent} lets everybody in, so a node needs no credentials. Make it secure "
                "first: suibus down, then suibus up --secure.",
                f"{self.folder.parent} 的总线未启用安全模式，节点无需凭据。请先执行 suibus down，再执行 suibus up --secure。",
            )
        return f"{self._host or '127.0.0.1'}:{port}"

    @property
    def bootstrap(self) -> str:
        """The address of the running broker; UnavailableError where it does not run."""
        state = self._read()
        if state is None or not _alive(state):
            raise UnavailableError(
                f"The embedded broker of {self._state_file.parent.parent} is not running. Start it with: suibus up",
                f"{self._state_file.parent.parent} 的内置消息代理未在运行。请执行:suibus up",
            )
        return f"127.0.0.1:{state.port}"

    @property
    def access(self) -> KafkaAccess:
        """How the city reaches the running broker; UnavailableError where it does not run."""
        return self._access(self.bootstrap)

    @property
    def access_when_up(self) -> KafkaAccess:
        """The same, also while it does not run."""
        return self._access(self.address)

    def _access(self, servers: str) -> KafkaAccess:
        if not self._city.is_file():
            return KafkaAccess(servers)
        return replace(read_node_file(self._city).access, servers=servers)

    @property
    def address(self) -> str:
        """Where the broker is or will be: its ports are chosen and kept on the first call."""
        with self._lock():
            state = self._read()
            if state is None:
                state = self._choose_ports(None, quiet)
                self._write(state)
            return f"127.0.0.1:{state.port}"

    def running(self) -> bool:
        """Whether the broker's process lives; what a killed broker or an earlier boot left does not count."""
        state = self._read()
        return state is not None and _alive(state)

    def start(self, tell: Tell = quiet, *, secure: bool = False, meanwhile: Callable[[], object] = lambda: None) -> str:
        """Start the broker unless it runs, wait until it answers, and return its address.

        Topics and records of earlier runs are there again, at the same address unless a foreign process has
        taken it, which is told. With `secure` it lets nobody in without credentials, from now on; one that runs otherwise is
        started anew. UnavailableError carries the end of the broker's log. `meanwhile` is called once the broker's process
        is there, before it answers.
        """
        with self._lock():
            state = self._read()
            if state is not None and state.secure and not (secure or self.secure):
                raise StateError(
                    f"The bus of {self.folder.parent} was secure, and its authority is gone: it is not started open. Put "
                    f"{self.security} back from a backup; or `suibus up --secure` makes a new authority, and every node "
                    "then needs a new file (suibus node rotate).",
                    f"{self.folder.parent} 的总线原为安全模式，但其证书机构已丢失，因此不以开放方式启动。请从备份恢复 {self.security}；"
                    "或执行 suibus up --secure 新建证书机构，此后每个节点都需要新的文件（suibus node rotate）。",
                )
            secure = secure or self.secure
            if state is not None and _alive(state) and state.secure != secure:
                self._kill(state)
                state = self._read()
            if state is None or not _alive(state):
                state = self._launch(self._choose_ports(state, tell, secure), tell, secure)
            meanwhile()
            try:
                self._wait(state)
            except UnavailableError:
                self._kill(state)
                raise
            return f"127.0.0.1:{state.port}"

    def stop(self) -> None:
        """Stop the broker and wait until it is gone; a broker that does not run is left as it is."""
        with self._lock():
            state = self._read()
            if state is not None:
                self._kill(state)

    def _kill(self, state: _State) -> None:
        for number, seconds in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 10.0)):
            if state.pid is not None and _alive(state):
                os.kill(state.pid, number)
                until = time.monotonic() + seconds
                while _alive(state) and time.monotonic() < until:
                    time.sleep(0.05)
        self._write(replace(state, pid=None, born=None))

    def _choose_ports(self, state: _State | None, tell: Tell, secure: bool = False) -> _State:
        """Each port as it was, unless another program has taken it."""
        names = ["port", "controller_port", *(["password_port", "certificate_port"] if secure else [])]
        known = {name: port for name in names if state is not None and (port := getattr(state, name))}
        until = time.monotonic() + 2  # a broker just killed may hold its ports a moment longer
        while time.monotonic() < until and not all(_free(port) for port in known.values()):
            time.sleep(0.05)
        kept = {name: port for name, port in known.items() if _free(port)}
        with ExitStack() as stack:  # all held at once: different ones
            opened = {name: stack.enter_context(closing(_listen(0))) for name in names if name not in kept}
            ports = kept | {name: held.getsockname()[1] for name, held in opened.items()}
        chosen = replace(state, **ports) if state is not None else _State(**ports)
        if taken := [known[name] for name in known if name not in kept]:
            listed = ", ".join(map(str, taken))
            nodes = {"password_port", "certificate_port"} & (known.keys() - kept.keys())
            tell(
                f"Port {listed} is taken by another program; the broker moves to 127.0.0.1:{chosen.port}."
                + (" The nodes' files name the old port: correct `servers` in them." if nodes else ""),
                f"端口 {listed} 已被其他程序占用，消息代理改用 127.0.0.1:{chosen.port}。"
                + ("节点文件中仍是旧端口，请更正其中的 servers。" if nodes else ""),
            )
        return chosen

    def _launch(self, state: _State, tell: Tell, secure: bool) -> _State:
        java = str(find_java().program)
        class_path = os.pathsep.join(str(path) for path in jars("broker", tell))
        self.folder.mkdir(parents=True, exist_ok=True)
        where = {"host": self._host or "127.0.0.1", "bind": "0.0.0.0" if self._host else "127.0.0.1"}  # noqa: S104 as asked
        text = _PROPERTIES + (_SECURE if secure else _OPEN)
        text = text.format(max_message_bytes=MAX_MESSAGE_BYTES, **where, **asdict(state))
        if secure:
            self._certify(f"127.0.0.1:{state.port}")
        (self.folder / "server.properties").write_text(text, "ascii")
        (self.folder / "log4j2.properties").write_text(_LOG4J, "ascii")
        java_command = [
            java,
            "-Xms256m",
            "-Xmx512m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Dlog4j2.configurationFile=log4j2.properties",
            "-Djava.awt.headless=true",
            "-cp",
            class_path,
        ]
        if not (self.folder / "data" / "meta.properties").is_file():
            self._format(java_command)
        # The shell puts the broker into the background and ends: the broker is nobody's child, so it outlives
        # us and leaves no zombie.
        in_background = ["sh", "-c", 'nohup "$@" >>broker.out 2>&1 </dev/null & echo $!', "sh"]
        launched = subprocess.run(
            [*in_background, *java_command, "kafka.Kafka", "server.properties"],
            cwd=self.folder,
            env=jvm_env(),
            start_new_session=True,
            capture_output=True,
            text=True,
            check=True,
        )
        pid = int(launched.stdout)
        state = replace(state, pid=pid, born=_born(pid), secure=secure)
        self._write(state)
        return state

    def _certify(self, address: str) -> None:
        """Make the authority, and the broker's and the city's certificates where they are absent or soon over."""
        from infra.kafka.certificates import Authority

        authority = Authority(self.security)
        broker, hosts = self.security / "broker.pem", ["127.0.0.1", "localhost", *([self._host] if self._host else [])]
        (self.security / "trusted.pem").write_text(authority.certificate, "ascii")
        if not authority.issued(broker, hosts):
            certificate, key = authority.issue("city", hosts=hosts)
            write_secret(broker, key + certificate + authority.certificate)
        if not authority.issued(self._city) or read_node_file(self._city).servers != address:
            certificate, key = authority.issue("city")
            text = node_text(address, "city", authority.certificate, key=key, certificate=certificate)
            write_secret(self._city, text)

    def _format(self, java_command: list[str]) -> None:
        """Format the storage under a new cluster id; a run that was killed half way does it again."""
        cluster_id = "S" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]  # never a leading dash
        done = subprocess.run(
            [*java_command, "kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", "server.properties"],
            cwd=self.folder,
            env=jvm_env(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise StateError(
                f"The broker's storage in {self.folder} could not be made: "
                f"{(done.stderr or done.stdout).strip()[-800:]}",
                f"无法在 {self.folder} 建立消息代理的存储,原因见英文。请检查磁盘空间与权限。",
            )

    def _wait(self, state: _State) -> None:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if not _alive(state):
                raise self._failed("ended while it started", "在启动过程中退出")
            if _answers(state.port, self.client):
                return
            time.sleep(0.1)
        raise self._failed(f"gave no answer in {START_SECONDS} seconds", f"{START_SECONDS} 秒内没有应答")

    def _failed(self, en: str, zh: str) -> UnavailableError:
        ends = [tail(self.folder / name) for name in ("broker.log", "broker.out")]
        shown = "\n".join(end for end in ends if end)
        return UnavailableError(
            f"The embedded broker {en}. Its files are in {self.folder}; the end of its log:\n{shown}\n"
            "Remove what the log names and run the same command again.",
            f"内置消息代理{zh}。其文件位于 {self.folder},日志末尾见英文。请排除日志所述原因后重新执行同一命令。",
        )

    def _read(self) -> _State | None:
        try:
            return _State(**json.loads(self._state_file.read_text("utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise StateError(
                f"{self._state_file} cannot be read ({error}). Remove it; no record is in it.",
                f"{self._state_file} 无法读取({error})。请删除该文件;消息代理的数据不在其中。",
            ) from error

    def _write(self, state: _State) -> None:
        draft = self._state_file.with_suffix(".draft")
        draft.write_text(json.dumps(asdict(state)), "utf-8")
        draft.replace(self._state_file)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self._state_file.parent.mkdir(parents=True, exist_ok=True)
        with self._state_file.with_suffix(".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _alive(state: _State) -> bool:
    return state.pid is not None and (born := _born(state.pid)) is not None and born == state.born


def _born(pid: int) -> str | None:
    """When a process began, None where there is none (or only its zombie)."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text("utf-8", errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return None if fields[0] in "ZX" else f"{boot} {fields[19]}"  # ticks since that boot
    asked = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    status, _, began = asked.stdout.strip().partition(" ")
    return began.strip() if status and not status.startswith("Z") else None


def _answers(port: int, client: Mapping[str, Any]) -> bool:
    """Whether the broker names its nodes: it then takes requests of every kind."""
    with socket.socket() as probe:
        probe.settimeout(1)
        if probe.connect_ex(("127.0.0.1", port)):
            return False
    try:
        admin = KafkaAdminClient(bootstrap_servers=f"127.0.0.1:{port}", bootstrap_timeout_ms=3000, **client)
        with closing(admin):
            return bool(admin.describe_cluster()["brokers"])
    except KafkaError:
        return False


def _listen(port: int) -> socket.socket:
    opened = socket.socket()
    # As Kafka does: a connection that is still closing is no bar.
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind(("127.0.0.1", port))
        opened.listen(1)
    except OSError:
        opened.close()
        raise
    return opened


def _free(port: int) -> bool:
    try:
        _listen(port).close()
    except OSError:
        return False
    return True


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log, nothing where there is none."""
    text = path.read_text("utf-8", errors="replace") if path.is_file() else ""
    return "\n".join(text.splitlines()[-lines:])
