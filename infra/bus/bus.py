"""The bus of one state folder: its broker, its contracts in force, its pipeline, and the process that runs them."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from infra.kafka.broker import Broker
from infra.kafka.topics import Kafka
from infra.settings import Settings, access_by, read_node_file
from producers.publish.publisher import Publisher
from producers.send.sender import flush
from schemas.contract import SHIPPED, contract_files, find_dataset, load_contracts
from schemas.dataset import Dataset, check_district, districts, parse_topic, receipts_topic
from schemas.errors import ContractError, InputError, StateError, SuibusError, UnavailableError, first_line
from schemas.store import ContractStore
from schemas.tell import Tell, log_context, quiet
from schemas.wire.avro import avro_schema
from schemas.wire.registry import Registry

if TYPE_CHECKING:
    from pipelines.ingest.offsets import TopicState
    from pipelines.lake.lake import Lake
    from pipelines.sync_info import SyncInfo

log = logging.getLogger(__name__)
RETRY_AFTER = 10.0  # seconds before a pass or dataset that failed is tried again
RETENTION_ALARM = 0.5  # of its topic's retention: what has waited longer is in danger
LOOK_EVERY = 1.0  # seconds between two looks at the topics, the contract folders and the outboxes


class Backlog(NamedTuple):
    """What waits: of each topic and partition the next offset and the end, and since when (seconds since 1970) the first of it
    waits; and the retention, in days, of the topics whose records are in danger of it.
    """

    behind: dict[tuple[str, int], tuple[int, int]]
    since: dict[tuple[str, int], float]
    endangered: dict[str, float]


class Bus:
    """Everything a command needs of one state folder. Making one starts nothing."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.home = settings.home
        self.broker = Broker(self.home, settings.advertised_host)
        self.store = ContractStore(self.home / "contracts")
        self.folders: tuple[Path, ...] = (SHIPPED, *settings.contract_folders)
        self.refused: list[ContractError] = []
        self._lake: Lake | None = None
        self._adopted: tuple[Any, ...] | None = None  # the signature of the contract folders when they were adopted

    @property
    def bootstrap(self) -> str:
        """The address of Kafka: the setting, else the embedded broker's. UnavailableError if that does not run."""
        return self.settings.servers or self.broker.bootstrap

    @property
    def address(self) -> str:
        """Where Kafka is, or will be once the bus runs: a node may accept rows while it is away."""
        return self.settings.servers or self.broker.address

    @property
    def security(self) -> Mapping[str, Any]:
        """How to get in, as kafka-python's settings: by the node file, or as the city of a secure embedded broker."""
        return self.settings.security if self.settings.servers else self.broker.client

    @property
    def kafka(self) -> Kafka:
        """The Kafka of this bus. UnavailableError if it is the embedded one and does not run."""
        return Kafka(self.bootstrap, self.security)

    @property
    def registry(self) -> Registry | None:
        """The configured schema registry, if any."""
        return Registry(self.settings.registry_url) if self.settings.registry_url else None

    def outbox(self, district: str) -> Path:
        """The outbox of a district's node on this machine; InputError where the node file is another district's."""
        mine = read_node_file(self.settings.node).district if self.settings.node else None
        if mine not in (None, district):
            raise InputError(
                f"The node file {self.settings.node} is of district {mine}, not {district}. Name {mine}, or set SUIBUS_NODE "
                f"to the file of {district}.",
                f"节点文件 {self.settings.node} 属于 {mine}，而不是 {district}。请使用 {mine}，或将 SUIBUS_NODE 设为 {district} 的文件。",
            )
        return self.home / "nodes" / district / "outbox.sqlite"

    def publisher(self, name: str, district: str, timeout: float = 60.0) -> Publisher:
        """A publisher of the dataset called `name` for a district, over the outbox of its node on this machine."""
        check_district(district)
        dataset = find_dataset(name, self.folders)
        self.store.check(dataset)  # the bus could not read what a refused contract writes
        number = None
        if registry := self.registry:
            number = registry.register(f"{dataset.topic(district)}-value", avro_schema(dataset))
        path = self.outbox(district)
        return Publisher(
            dataset, district, path, access_by(self.address, self.security), timeout=timeout,
            transport=self.settings.transport, registry_id=number,
        )  # fmt: skip

    def lake(self) -> Lake:
        """The lake, with Spark started on first use (seconds)."""
        if self._lake is None:
            from infra.jvm.spark import spark_session
            from pipelines.lake.lake import Lake

            self._lake = Lake(spark_session(self.settings), self.settings.lake_path)
        return self._lake

    def adopt_contracts(self, tell: Tell = quiet) -> list[Dataset]:
        """Make the topics of every contract of the folders and put it in force; the newly registered ones.

        In this order, since another process subscribes to the topics of all that is in force. What cannot be served is
        kept in `refused` and named in the status; the last good version stays in force.
        """
        self._adopted = self._signature()
        found, self.refused = load_contracts(self.folders)
        self.refused += self.store.broken()
        served = {**self.store.datasets(), **found}
        topics = [t for d in served.values() for t in d.topics]
        topics += [receipts_topic(code) for code in districts()]
        made = self.kafka.ensure(topics, self.settings.partitions, self.settings.replication)
        fresh: list[Dataset] = []
        for dataset in found.values():
            try:
                if self.store.register(dataset):
                    fresh.append(dataset)
            except ContractError as error:
                self.refused.append(error)
        if fresh or made:
            tell(
                f"{len(fresh)} contracts put in force, {len(made)} topics made",
                f"{len(fresh)} 份契约生效，新建 {len(made)} 个主题",
            )
        for refusal in self.refused:
            tell(refusal.en, refusal.zh)
        self._write("contracts.json", {"refused": [{"en": e.en, "zh": e.zh} for e in self.refused]})
        return fresh

    def sync(self, only: set[str] | None = None, tell: Tell = quiet) -> SyncInfo:
        """One pass over the whole road; waits for another process that is in the middle of one.

        `only` limits it as `pipelines.sync.sync` says, and to what failed before. Where a pass was cut off, or another program
        wrote to a table, every dataset is looked at, for what was left undone.
        """
        from pipelines.ingest.offsets import dump_position, parse_position
        from pipelines.sync_info import SyncInfo, as_left, tables

        def refresh() -> None:
            if self._adopted not in (None, self._signature()):
                self.adopt_contracts(tell)

        with self._exclusive("pipeline.lock", tell):
            before = self._read("pipeline.json")
            states = self.kafka.states(t for d in self.store.datasets().values() for t in d.topics)
            refresh()
            if self._nothing_new(before, states):
                self._write("pipeline.json", {**before, "ended_at": _now()})
                return SyncInfo(records=before["records"], taken=parse_position(before["taken"]))
            from infra.operate.metrics import count_pass
            from pipelines.sync import sync

            if self._lake is None:
                tell("starting Spark, which takes some seconds", "正在启动 Spark，需要数秒")
            lake = self.lake()
            # Taken before the pass: one put in force while it runs is told by its hash to need another.
            hashes = self._hashes()
            if not as_left(lake.root, before.get("tables", {})):
                only = None
            elif only is not None:
                only = only | before["failures"].keys()
            taken = parse_position(before.get("taken", {}))
            info = sync(lake, self.store, self.kafka, self.registry, only, tell, refresh, states, taken)
            self._write("metrics.json", count_pass(self._read("metrics.json"), info, lake))
            found = {
                "records": info.records,
                "failures": info.failures,
                "taken": dump_position(info.taken),
                "contracts": hashes,
                "tables": lake.marks(tables(self.store.datasets().keys() - info.failures.keys())),
                "ended_at": _now(),
            }
            self._write("pipeline.json", found)
        return info

    def _nothing_new(self, left: Mapping[str, Any], states: Mapping[str, TopicState]) -> bool:
        """Whether a pass would certainly change nothing, by what the last one left; False where only the pass can tell."""
        from pipelines.ingest.offsets import parse_position
        from pipelines.sync_info import all_taken, as_left

        if not left.get("tables") or left["failures"] or self._hashes() != left["contracts"]:
            return False
        if not as_left(self.settings.lake_path.rstrip("/"), left["tables"]):
            return False
        try:
            return all_taken(self.store.datasets().values(), parse_position(left["taken"]), states)
        except SuibusError:  # the pass itself says what is wrong
            return False

    def _hashes(self) -> dict[str, str]:
        return {name: dataset.hash for name, dataset in self.store.datasets().items()}

    def rebuild(self, dataset: Dataset, from_topics: bool, tell: Tell = quiet) -> SyncInfo:
        """Make silver again from bronze, or bronze from the topics, bring it up to date and judge it."""
        from pipelines.merge.rebuild import rebuild_bronze, rebuild_silver

        with self._exclusive("pipeline.lock", tell):
            (rebuild_bronze if from_topics else rebuild_silver)(dataset, self.lake())
            if from_topics and (left := self._read("pipeline.json")):
                taken = {topic: at for topic, at in left.get("taken", {}).items() if topic not in dataset.topics}
                self._write("pipeline.json", {**left, "taken": taken})
        tell(f"{dataset.id}: made again; a pass follows", f"{dataset.id}：已重建，随后同步一次")
        return self.sync({dataset.id}, tell)

    def resume(self, dataset: Dataset, yes: bool, tell: Tell = quiet) -> list[tuple[str, str]]:
        """What became of the dataset's topics; with `yes` the dataset goes on, from the first offsets they still have."""
        from pipelines.ingest.ingest import read_position, resume
        from pipelines.ingest.offsets import changes

        with self._exclusive("pipeline.lock", tell):
            states = self.kafka.states(dataset.topics)
            found = list(changes(dataset, read_position(dataset, self.lake(), states), states))
            if found and yes:
                resume(dataset, self.lake(), states)
        return found

    def flush_outboxes(self) -> int:
        """Send what waits in the outboxes of the nodes on this machine; how many records went."""
        sent = 0
        for path in sorted((self.home / "nodes").glob("*/outbox.sqlite")):
            with log_context(district=path.parent.name):
                try:
                    access = access_by(self.bootstrap, self.security)
                    info = flush(path, access, timeout=10, transport=self.settings.transport)
                except Exception as error:  # one outbox must not stop another
                    told = error.en if isinstance(error, SuibusError) else first_line(error)
                    log.warning("outbox %s: %s", path, told)
                    continue
                if info.sent:
                    about = {"hop": "send", "seconds": round(info.seconds, 3)}
                    log.info("sent %d records", info.sent, extra={"about": about})
            sent += info.sent
        return sent

    def status(self) -> dict[str, Any]:
        """What runs, what is in force, what waits: one JSON object. Starts no Spark."""
        return self.look()[0]

    def look(self) -> tuple[dict[str, Any], Backlog | None]:
        """`status`, and what waits a partition, None if Kafka is away."""
        running = self.pid() is not None
        try:
            bootstrap: str | None = self.bootstrap
        except SuibusError:
            bootstrap = None
        pipeline = self._read("pipeline.json")
        datasets = self.store.datasets()
        backlog = self._backlog(datasets.values(), pipeline.get("taken", {})) if bootstrap else None
        waiting: dict[str, int] = {}
        for (topic, _), (at, end) in backlog.behind.items() if backlog else ():
            dataset_id = parse_topic(topic)[1]
            waiting[dataset_id] = waiting.get(dataset_id, 0) + end - at
        endangered = backlog.endangered if backlog else {}
        listed = []
        for dataset in datasets.values():
            record = pipeline.get("records", {}).get(dataset.id)
            mine = waiting.get(dataset.id, 0) if backlog else None
            listed.append(
                {
                    "id": dataset.id,
                    "dataset": dataset.name,
                    "version": dataset.version,
                    "title": dataset.title,
                    "sharing": dataset.sharing,
                    "offsets_waiting": mine,
                    "last_decision": record,
                    "late": _late(dataset, record, mine),
                    "near_retention": {t: days for t, days in endangered.items() if parse_topic(t)[1] == dataset.id},
                    "failure": pipeline.get("failures", {}).get(dataset.id),
                }
            )
        found = {
            "home": str(self.home),
            "bootstrap_servers": bootstrap,
            "broker_reachable": backlog is not None,
            "running": running,
            "pipeline": bool(running and self._read("up.json").get("pipeline")),
            "lake": self.settings.lake_path,
            "contract_folders": [str(f) for f in self.folders],
            "refused_contracts": self._read("contracts.json").get("refused", []),
            "last_pass": pipeline.get("ended_at"),
            "datasets": listed,
        }
        return found, backlog

    def _backlog(self, datasets: Iterable[Dataset], taken: Mapping[str, Any]) -> Backlog | None:
        """What waits on the topics, None if Kafka is away."""
        try:
            kafka = self.kafka
            states = kafka.states(t for d in datasets for t in d.topics)
            behind: dict[tuple[str, int], tuple[int, int]] = {}
            for topic, state in states.items():
                known = taken.get(topic, {}).get("next", {})
                for partition, (first, end) in state.partitions.items():
                    if (at := int(known.get(str(partition), first))) < end:
                        behind[topic, partition] = (at, end)
            since, kept = kafka.since(behind), kafka.retention(topic for topic, _ in behind)
            now = time.time()
            endangered = {t: kept[t] / 86_400 for (t, _), at in since.items() if now - at > kept[t] * RETENTION_ALARM}
            return Backlog(behind, since, endangered)
        except SuibusError:
            return None

    # the running process

    def pid(self) -> int | None:
        """The process that runs this bus, if one does: it holds a lock that ends with it, however it ends."""
        lock = self.home / "run" / "up.lock"  # looked at with a shared lock: two that look do not see each other
        if not lock.exists():
            return None
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(lock.read_text() or 0) or None
        return None

    def run(self, services_only: bool, tell: Tell, *, secure: bool = False) -> None:
        """Run the bus until told to stop (SIGTERM or Ctrl-C); the pass that runs then is finished first.

        With `secure` the embedded broker lets nobody in without credentials, from now on.
        """
        if secure and self.settings.servers:
            raise InputError(
                f"--secure is for the embedded broker; who may do what on {self.settings.servers} is set up there.",
                f"--secure 只用于内置消息代理；{self.settings.servers} 的权限请在该处设置。",
            )
        stop = threading.Event()

        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: stop.set())
        with self._only_one():
            if self.settings.metrics_port:
                from infra.operate.metrics import serve_metrics

                serve_metrics(self, self.settings.metrics_port)
            beside = ThreadPoolExecutor(1, "suibus-spark")
            spark: list[Future[Lake]] = []

            def start_spark() -> None:
                if not services_only:
                    spark.append(beside.submit(self.lake))

            try:
                if self.settings.servers:
                    start_spark()
                else:
                    address = self.broker.start(tell, secure=secure, meanwhile=start_spark)
                    tell(f"Kafka answers at {address}", f"Kafka 已就绪：{address}")
                fresh = {d.id for d in self.adopt_contracts(tell)}
                for started in spark:
                    started.result()
                    tell("Spark is ready; the pipeline runs", "Spark 已就绪，流水线运行中")
                self._write("up.json", {"pid": os.getpid(), "pipeline": not services_only, "since": _now()})
                tell("ready", "就绪")
                # cut off when the process ends, which an outbox is made for
                threading.Thread(target=self._send_outboxes, args=(stop,), name="suibus-outboxes", daemon=True).start()
                self._watch(stop, services_only, fresh, tell)
            finally:
                (self.home / "run" / "up.json").unlink(missing_ok=True)
                if not self.settings.servers:
                    self.broker.stop()
                tell("stopped", "已停止")

    def _send_outboxes(self, stop: threading.Event) -> None:
        """Send what nodes on this machine accept, beside the passes: a long outbox holds up no pass, nor a pass an outbox."""
        while not stop.wait(LOOK_EVERY):
            self.flush_outboxes()

    def _watch(self, stop: threading.Event, services_only: bool, fresh: set[str], tell: Tell) -> None:
        """Look once a second; run a pass when something was published, a contract is new, or a retry is due."""
        contracts, told = self._signature(), ("", "")
        seen: dict[str, TopicState] | None = None
        due: set[str] | None = None  # the datasets that the next pass takes beside those with news; None is all
        retry_at = time.monotonic()
        while not stop.is_set():
            try:
                if not self.settings.servers and not self.broker.running():
                    tell(f"Kafka had stopped; it answers again at {self.broker.start(tell)}", "Kafka 曾停止，现已恢复")
                if (signature := self._signature()) != contracts:
                    contracts = signature
                    fresh |= {d.id for d in self.adopt_contracts(tell)}
                if not services_only:
                    topics = [t for d in self.store.datasets().values() for t in d.topics]
                    now = self.kafka.states(topics)
                    if now != seen or fresh or (due != set() and time.monotonic() >= retry_at):
                        info = self.sync(None if due is None else due | fresh, tell)
                        seen, fresh, due = now, set(), set(info.failures)
                        retry_at = time.monotonic() + RETRY_AFTER
                        if any(info.ingested.values()) and not info.failures:
                            told = ("", "")
                            continue  # more came while it ran, as long as somebody publishes steadily
                told = ("", "")
            except Exception as error:  # a look or pass that failed is tried again; nothing is lost by waiting
                if not isinstance(error, SuibusError):
                    log.exception("the pass failed and will be tried again")
                said = (
                    (error.en, error.zh) if isinstance(error, SuibusError) else (first_line(error), first_line(error))
                )
                if said != told:  # once, not every second
                    tell(*said)
                told = said
                stop.wait(RETRY_AFTER if seen is not None else LOOK_EVERY)
            stop.wait(LOOK_EVERY)

    def start_detached(self, services_only: bool, tell: Tell, *, secure: bool = False, timeout: float = 180) -> None:
        """Start `suibus up` as a process of its own and wait until it is ready."""
        if self.pid():
            raise StateError(
                f"This bus is already running (process {self.pid()}, {self.home}). `suibus down` stops it.",
                f"该总线已在运行（进程 {self.pid()}，{self.home}）。可用 suibus down 停止。",
            )
        run = self.home / "run"
        run.mkdir(parents=True, exist_ok=True)
        said = run / "up.log"
        flags = [*(["--services-only"] if services_only else []), *(["--secure"] if secure else [])]
        command = [sys.executable, "-m", "infra.cli", "up", *flags]
        environment = os.environ | {"SUIBUS_HOME": str(self.home)}
        with said.open("wb") as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env=environment,
            )
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if process.poll() is not None:
                break
            if self._read("up.json").get("pid") == process.pid:
                tell(f"ready; log in {said}", f"就绪，日志：{said}")
                return
            time.sleep(0.1)
        process.terminate()
        lines = "\n".join(said.read_text("utf-8", "replace").splitlines()[-15:])
        raise UnavailableError(
            f"The bus did not become ready. The end of {said}:\n{lines}\nRun `suibus doctor`.",
            f"总线未能就绪，日志见 {said}。请运行 suibus doctor。",
        )

    def down(self, timeout: float = 120) -> bool:
        """Stop the bus and its broker; False if neither ran. A pass under way is finished, or after the timeout cut off."""
        pid = self.pid()
        if pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + timeout
            while self.pid() == pid and time.monotonic() < deadline:
                time.sleep(0.1)
            if self.pid() == pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        orphaned = self.broker.running()
        self.broker.stop()
        return bool(pid) or orphaned

    def _signature(self) -> tuple[Any, ...]:
        found = []
        for path in contract_files(self.folders):
            with suppress(FileNotFoundError):
                stat = path.stat()
                found.append((str(path), stat.st_mtime_ns, stat.st_size))
        return tuple(found)

    @contextmanager
    def _only_one(self) -> Iterator[None]:
        path = self.home / "run" / "up.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+") as file:
            for _ in range(20):
                with suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                time.sleep(0.05)  # a command that only looks holds it for a moment
            else:
                pid = path.read_text()
                raise StateError(
                    f"This bus is already running (process {pid}, {self.home}). `suibus down` stops it.",
                    f"该总线已在运行（进程 {pid}，{self.home}）。可用 suibus down 停止。",
                )
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    @contextmanager
    def _exclusive(self, name: str, tell: Tell) -> Iterator[None]:
        path = self.home / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                tell("another pass is under way; waiting for it", "另一轮处理正在进行，等待其结束")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _write(self, name: str, value: Any) -> None:
        path = self.home / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(value, ensure_ascii=False, default=str), "utf-8")
        part.replace(path)

    def _read(self, name: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.home / "run" / name).read_text("utf-8"))
            return found
        except (FileNotFoundError, ValueError):
            return {}


def _late(dataset: Dataset, record: dict[str, Any] | None, waiting: int | None) -> bool:
    """Whether changes wait, on the topics or held at the gate, and the release is older than its contract's freshness."""
    if record is None or dataset.freshness is None or not (waiting or record["status"] == "held"):
        return False
    since = record["released_at"] or record["decided_at"]  # never released: from its last hold
    return datetime.now(UTC) - datetime.fromisoformat(since) > dataset.freshness


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
