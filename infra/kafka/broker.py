"""The embedded broker: one Kafka node in KRaft mode, for a machine without a Kafka of its own.

It goes on running when the command that started it ends. Its files are in <home>/kafka, its process and ports in
<home>/run/broker.json.

A secure broker has four listeners: the city's (mutual TLS, 127.0.0.1 only), the controller's (the same), one for nodes with
a password (SCRAM over TLS) and one for nodes with a certificate (mutual TLS). On each of them a user has only the rights that
an ACL gives; only the city has all. The authority and the certificates are in <home>/security; while that folder is there, the broker
starts only as a secure one.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from infra.jvm.class_archive import archived_classes
from infra.jvm.environment import jvm_environment
from infra.jvm.jars import resolve_jars
from infra.jvm.java import find_java
from infra.kafka.detached_process import Process, start_detached
from infra.kafka.properties import LOG4J, Ports, server_properties
from infra.node_file import node_text, read_node_file
from infra.settings import Settings
from infra.terminal.log_tail import tail
from schemas.errors import StateError, UnavailableError
from schemas.ports.files import write_whole
from schemas.ports.kafka_access import KafkaAccess
from schemas.ports.lease import Lease
from schemas.progress_messages import Tell, quiet

START_SECONDS = 90  # on a machine under full load


@dataclass(frozen=True)
class _State(Ports):
    """The broker's process and ports, as kept on disk; the ports are kept after a stop, so the next start has the same address."""

    pid: int | None = None
    born: str | None = None
    home: str | None = None  # the state folder whose broker the process is: a copy of the folder has no process
    secure: bool = False  # whether its process was started secure

    @property
    def process(self) -> Process | None:
        """Its process, if it still runs."""
        started = Process(self.pid, self.born) if self.pid and self.born else None
        return started if started and started.alive else None

    def without_process(self) -> _State:
        """The same ports, and no process."""
        return replace(self, pid=None, born=None, home=None)


class Broker:
    """The embedded broker of one home. All calls may be repeated, also by several processes at once."""

    def __init__(self, settings: Settings, java_options: Sequence[str] | None = None) -> None:
        self._settings = settings
        self._java_options = archived_classes("broker", settings) if java_options is None else java_options
        self.home = settings.home
        self.folder = self.home / "kafka"
        self.security = self.home / "security"
        self._host = settings.advertised_host
        self.state_file = self.home / "run" / "broker.json"
        self._city = self.security / "city.toml"
        self._lease = Lease(self.home / "run" / "broker.lock")

    @property
    def secure(self) -> bool:
        """Whether nobody gets in without credentials. A secure broker stays secure."""
        return (self.security / "authority.pem").is_file()

    @property
    def access(self) -> KafkaAccess:
        """How the city reaches the running broker. UnavailableError if it does not run."""
        state = self._read()
        if state is None or not state.process:
            raise UnavailableError(
                f"The embedded broker of {self.home} is not running. Start it with: suibus up",
                f"{self.home} 的内置消息代理未在运行。请执行：suibus up",
            )
        return self._access(state)

    @property
    def access_when_up(self) -> KafkaAccess:
        """How the city reaches the broker, whether or not it runs yet: the ports are chosen on the first call and kept.

        A port that another program has taken is chosen anew: that program may be the broker of the bus of which this home is a copy.
        """
        with self._lease.hold():
            state = self._read()
            if state is None or not (state.process or _free(state.port)):
                state = self._choose_ports(state, quiet)
                self._write(state)
            return self._access(state)

    def state_for_backup(self) -> str:
        """The text of `state_file` without the process: nodes' files and firewalls name the ports."""
        state = self._read()
        return json.dumps(asdict(state.without_process())) if state is not None else ""

    def servers(self, mutual_tls: bool) -> str:
        """The address for a node of a secure broker, with a certificate or with a password."""
        state = self._read()
        port = state and (state.certificate_port if mutual_tls else state.password_port)
        if port is None:
            raise StateError(
                f"The bus of {self.home} lets everybody in, so a node needs no credentials. Make it secure "
                "first: suibus down, then suibus up --secure.",
                f"{self.home} 的总线未启用安全模式，节点无需凭据。请先执行 suibus down，再执行 suibus up --secure。",
            )
        return f"{self._host or '127.0.0.1'}:{port}"

    def running(self) -> bool:
        """Whether the broker's process runs."""
        state = self._read()
        return state is not None and state.process is not None

    def start(self, tell: Tell = quiet, *, secure: bool = False, meanwhile: Callable[[], object] = lambda: None) -> str:
        """Start the broker unless it runs, wait until it answers, and return its address.

        Topics and records of earlier runs are kept. The address stays the same unless another program has taken the port;
        then a message says so. With `secure`, nobody gets in without credentials from now on; an open broker that runs is
        restarted. `meanwhile` is called after the broker's process was started, before it answers. UnavailableError shows
        the end of the broker's log.
        """
        with self._lease.hold():
            state = self._read()
            if state is not None and state.secure and not (secure or self.secure):
                raise StateError(
                    f"The bus of {self.home} was secure, but its certificate authority is missing, so it is not started as an open bus. Restore "
                    f"{self.security} from a backup; or run `suibus up --secure` to make a new authority: every node "
                    "then needs a new file (suibus node rotate).",
                    f"{self.home} 的总线原为安全模式，但其证书机构已丢失，因此不以开放方式启动。请从备份恢复 {self.security}；"
                    "或执行 suibus up --secure 新建证书机构，此后每个节点都需要新的文件（suibus node rotate）。",
                )
            secure = secure or self.secure
            if state is not None and state.process and state.secure != secure:
                self._end(state)
                state = self._read()
            if state is None or not state.process:
                state = self._launch(self._choose_ports(state, tell, secure), tell, secure)
            meanwhile()
            try:
                self._wait(state)
            except UnavailableError:
                self._end(state)
                raise
            return self._access(state).servers

    def stop(self) -> None:
        """Stop the broker and wait until its process has ended; if it does not run, do nothing."""
        with self._lease.hold():
            state = self._read()
            if state is not None:
                self._end(state)

    def _end(self, state: _State) -> None:
        if process := state.process:
            process.end()
        self._write(state.without_process())

    def _access(self, state: _State) -> KafkaAccess:
        servers = f"127.0.0.1:{state.port}"
        if self._city.is_file():
            return replace(read_node_file(self._city).access, servers=servers)
        return KafkaAccess(servers)

    def _choose_ports(self, state: _State | None, tell: Tell, secure: bool = False) -> _State:
        """Each port as it was, unless another program has taken it."""
        names = ["port", "controller_port", *(["password_port", "certificate_port"] if secure else [])]
        known = {name: port for name in names if state is not None and (port := getattr(state, name))}
        until = time.monotonic() + 2  # a broker that was just killed may still hold its ports
        while time.monotonic() < until and not all(_free(port) for port in known.values()):
            time.sleep(0.05)
        kept = {name: port for name, port in known.items() if _free(port)}
        with ExitStack() as stack:  # all held at the same time, so that they differ
            opened = {name: stack.enter_context(closing(_listen(0))) for name in names if name not in kept}
            ports = kept | {name: held.getsockname()[1] for name, held in opened.items()}
        chosen = replace(state, **ports) if state is not None else _State(**ports)
        if taken := [known[name] for name in known if name not in kept]:
            listed = ", ".join(map(str, taken))
            nodes = {"password_port", "certificate_port"} & (known.keys() - kept.keys())
            tell(
                f"Port {listed} is taken by another program; the broker moves to 127.0.0.1:{chosen.port}."
                + (" The nodes' files still have the old port: correct `servers` in them." if nodes else ""),
                f"端口 {listed} 已被其他程序占用，消息代理改用 127.0.0.1:{chosen.port}。"
                + ("节点文件中仍是旧端口，请更正其中的 servers。" if nodes else ""),
            )
        return chosen

    def _launch(self, state: _State, tell: Tell, secure: bool) -> _State:
        java = find_java(self._settings.java_home)
        class_path = os.pathsep.join(str(path) for path in resolve_jars("broker", self._settings, tell))
        self.folder.mkdir(parents=True, exist_ok=True)
        if secure:
            self._certify(f"127.0.0.1:{state.port}")
        (self.folder / "server.properties").write_text(server_properties(state, secure, self._host), "ascii")
        (self.folder / "log4j2.properties").write_text(LOG4J, "ascii")
        command = [
            str(java.program),
            "-Xms256m",
            "-Xmx512m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Dlog4j2.configurationFile=log4j2.properties",
            "-Djava.awt.headless=true",
            *self._java_options,
            "-cp",
            class_path,
        ]
        if not (self.folder / "data" / "meta.properties").is_file():
            self._format(command)
        command += ["kafka.Kafka", "server.properties"]
        process = start_detached(command, self.folder, "broker.out", jvm_environment())
        state = replace(state, pid=process.pid, born=process.born, home=self._place, secure=secure)
        self._write(state)
        return state

    def _certify(self, address: str) -> None:
        """Make the authority, and the broker's and the city's certificates if they are absent or soon expire."""
        from infra.kafka.certificates import Authority  # the light install has no cryptography

        authority = Authority(self.security)
        broker, hosts = self.security / "broker.pem", ["127.0.0.1", "localhost", *([self._host] if self._host else [])]
        (self.security / "trusted.pem").write_text(authority.certificate, "ascii")
        if not authority.issued(broker, hosts):
            certificate, key = authority.issue("city", hosts=hosts)
            write_whole(broker, key.get_secret_value() + certificate + authority.certificate, secret=True)
        if not authority.issued(self._city) or read_node_file(self._city).access.servers != address:
            certificate, key = authority.issue("city")
            text = node_text(address, "city", authority.certificate, certificate=certificate, key=key)
            write_whole(self._city, text, secret=True)

    def _format(self, java_command: list[str]) -> None:
        """Format the storage under a new cluster id; after a kill the next start does it again."""
        cluster_id = "S" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]  # never a leading dash
        done = subprocess.run(
            [*java_command, "kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", "server.properties"],
            cwd=self.folder,
            env=jvm_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            output = (done.stderr or done.stdout).strip()[-800:]
            raise StateError(
                f"The broker's storage in {self.folder} could not be made: {output}\nCheck the disk space and the rights.",
                f"无法在 {self.folder} 建立消息代理的存储：{output}\n请检查磁盘空间与权限。",
            )

    def _wait(self, state: _State) -> None:
        access, until = self._access(state), time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if not state.process:
                raise self._failed("ended while it started", "在启动过程中退出")
            if _answers(state.port, access):
                return
            time.sleep(0.1)
        raise self._failed(f"gave no answer in {START_SECONDS} seconds", f"{START_SECONDS} 秒内没有应答")

    def _failed(self, en: str, zh: str) -> UnavailableError:
        ends = [tail(self.folder / name) for name in ("broker.log", "broker.out")]
        shown = "\n".join(end for end in ends if end)
        return UnavailableError(
            f"The embedded broker {en}. Its files are in {self.folder}; the end of its log:\n{shown}\n"
            "Correct what the log names and run the same command again.",
            f"内置消息代理{zh}。其文件位于 {self.folder}，日志末尾：\n{shown}\n请排除日志所述原因后重新执行同一命令。",
        )

    @property
    def _place(self) -> str:
        return str(self.home.resolve())

    def _read(self) -> _State | None:
        try:
            state = _State(**json.loads(self.state_file.read_text("utf-8")))
            return state if state.home == self._place else state.without_process()
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise StateError(
                f"{self.state_file} cannot be read ({error}). Delete it; it holds no records.",
                f"{self.state_file} 无法读取（{error}）。请删除该文件；消息代理的数据不在其中。",
            ) from error

    def _write(self, state: _State) -> None:
        write_whole(self.state_file, json.dumps(asdict(state)))


def _answers(port: int, access: KafkaAccess) -> bool:
    """Whether the broker lists its nodes: from then on it answers all requests."""
    with socket.socket() as probe:
        probe.settimeout(1)
        if probe.connect_ex(("127.0.0.1", port)):
            return False
    try:
        with closing(KafkaAdminClient(**access.kafka_python(), bootstrap_timeout_ms=3000)) as admin:
            return bool(admin.describe_cluster()["brokers"])
    except KafkaError:
        return False


def _listen(port: int) -> socket.socket:
    opened = socket.socket()
    # As Kafka does: a connection that is still closing does not make the port busy.
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
