"""The bus of one state folder: publish to it, run a pass, rebuild and resume."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from infra.bus.contracts_in_force import ContractsInForce
from infra.bus.state import PassState, RunState, Work, now
from infra.bus.totals import count_pass
from infra.kafka.broker import Broker
from infra.kafka.topics import Kafka
from infra.node_file import read_node_file
from infra.settings import Settings
from pipelines.ingest.offsets import all_taken
from pipelines.ingest.topics import TopicState
from pipelines.lake.unchanged_tables import is_unchanged, table_names
from pipelines.sync_info import SyncInfo
from producers.publish.publisher import Publisher
from producers.send.sender import flush
from schemas.contract_folders import SHIPPED
from schemas.dataset import Dataset
from schemas.districts import check_district
from schemas.errors import InputError, StateError, SuibusError, first_line
from schemas.log_context import log_context
from schemas.ports.kafka_access import KafkaAccess
from schemas.ports.state_format import check_state_folder, make_state_folder
from schemas.progress_messages import Tell, quiet
from schemas.store import ContractStore
from schemas.wire.avro import avro_schema
from schemas.wire.registry import Registry

if TYPE_CHECKING:
    from pipelines.lake.lake import Lake

log = logging.getLogger(__name__)
_LEASE_WAIT = 1.0  # seconds: another command may hold the lease for a moment to see who runs the bus


class Bus:
    """The bus of one state folder. Creating the object starts nothing. StateError if the folder has another format."""

    def __init__(self, settings: Settings) -> None:
        check_state_folder(settings.home)
        self.settings = settings
        self.home = settings.home
        self.broker = Broker(settings)
        self.store = ContractStore(self.home / "contracts")
        self.state = RunState(self.home)
        self.contracts = ContractsInForce((SHIPPED, *settings.contract_folders), self.store, self.state)
        self._lakes: dict[bool, Lake] = {}  # by whether it is to write

    @property
    def access(self) -> KafkaAccess:
        """The access to Kafka: the external Kafka of the settings, else the embedded broker. UnavailableError if that does not run."""
        return self.settings.access or self.broker.access

    @property
    def access_when_up(self) -> KafkaAccess:
        """The access to Kafka once it runs. It need not run now: a node accepts rows without it."""
        return self.settings.access or self.broker.access_when_up

    @property
    def kafka(self) -> Kafka:
        """The client for the Kafka of this bus. UnavailableError if the embedded broker does not run."""
        return Kafka(self.access)

    @property
    def registry(self) -> Registry | None:
        """The configured schema registry, if any."""
        return Registry(self.settings.registry_url) if self.settings.registry_url else None

    @contextmanager
    def only_one(self, work: Work) -> Iterator[None]:
        """Run this bus, back it up or restore its lake until the block ends; StateError if another process does one of them."""
        make_state_folder(self.home)
        with self.state.up_lease.hold_if_free(_LEASE_WAIT, work) as held:
            if not held:
                raise self.busy()
            yield

    def busy(self) -> StateError:
        """The error that says which process runs this bus, backs it up or restores its lake."""
        pid, work = self.state.up_lease.holder() or (0, "up")
        if work == "up":
            return StateError(
                f"This bus is already running (process {pid}, {self.home}). `suibus down` stops it.",
                f"该总线已在运行（进程 {pid}，{self.home}）。可用 suibus down 停止。",
            )
        en, zh = (
            ("A backup of this bus", "备份") if work == "backup" else ("A restore of this bus's lake", "恢复数据湖")
        )
        return StateError(
            f"{en} is at work (process {pid}, {self.home}). Nothing was done. Wait until it has ended.",
            f"该总线正在{zh}（进程 {pid}，{self.home}）。未作任何操作。请等待其结束。",
        )

    # --- a district's node ------------------------------------------------------------------------

    def outbox(self, district: str) -> Path:
        """The path of the outbox of a district's node on this machine; InputError if the node file belongs to another district."""
        mine = read_node_file(self.settings.node).district if self.settings.node else None
        if mine not in (None, district):
            raise InputError(
                f"The node file {self.settings.node} belongs to district {mine}, not {district}. Use {mine}, or set SUIBUS_NODE "
                f"to the node file of {district}.",
                f"节点文件 {self.settings.node} 属于 {mine}，而不是 {district}。请使用 {mine}，或将 SUIBUS_NODE 设为 {district} 的节点文件。",
            )
        return self.home / "nodes" / district / "outbox.sqlite"

    def outboxes(self) -> list[Path]:
        """The paths of the outboxes of all nodes on this machine, sorted by district."""
        return sorted((self.home / "nodes").glob("*/outbox.sqlite"))

    def publisher(self, name: str, district: str, timeout: float = 60.0) -> Publisher:
        """A publisher of dataset `name` for a district, using the outbox of its node on this machine.

        With a schema registry configured, the dataset's schema is registered first.
        """
        check_district(district)
        dataset = self.contracts.find(name)
        number = None
        if registry := self.registry:
            number = registry.register(f"{dataset.topic(district)}-value", avro_schema(dataset))
        path = self.outbox(district)
        make_state_folder(self.home)
        return Publisher(
            dataset, district, path, self.access_when_up,
            timeout=timeout, transport=self.settings.transport, registry_id=number,
        )  # fmt: skip

    def flush_outboxes(self) -> int:
        """Send the waiting rows of every outbox on this machine; the number of records sent.

        An outbox that fails is logged and does not stop the others.
        """
        sent = 0
        for path in self.outboxes():
            with log_context(district=path.parent.name):
                try:
                    info = flush(path, self.access, timeout=10, transport=self.settings.transport)
                except Exception as error:  # no outbox may stop another
                    reason = error.en if isinstance(error, SuibusError) else first_line(error)
                    log.warning("outbox %s: %s", path, reason)
                    continue
                if info.sent:
                    about = {"hop": "send", "seconds": round(info.seconds, 3)}
                    log.info("sent %d records", info.sent, extra={"about": about})
            sent += info.sent
        return sent

    # --- the city ---------------------------------------------------------------------------------

    def lake(self, *, to_write: bool = False) -> Lake:
        """The lake, to read; `to_write` only while holding the pass lease. The first call starts Spark, which takes seconds.

        StateError if the lake has another format.
        """
        if to_write not in self._lakes:
            from infra.jvm.spark import spark_session  # a node has no Spark
            from pipelines.lake.lake import Lake

            self._lakes[to_write] = Lake(spark_session(self.settings), self.settings.lake_path, to_write=to_write)
        return self._lakes[to_write]

    def adopt_contracts(self, tell: Tell = quiet) -> list[Dataset]:
        """Create the topics of the contracts in the folders and put the contracts in force; the newly registered datasets."""
        return self.contracts.adopt(self.kafka, self.settings.partitions, self.settings.replication, tell)

    def sync(self, only: set[str] | None = None, tell: Tell = quiet) -> SyncInfo:
        """Run one pass of the pipeline; waits if another process is running one. A pass with nothing to do does not start Spark.

        `only`: as in `pipelines.sync.sync`; datasets that failed in the last pass are added. If the last pass was killed, or another
        program wrote to a table, all datasets are processed, whatever `only` says.
        """

        def refresh() -> None:
            if self.contracts.changed():
                self.adopt_contracts(tell)

        with self.state.pass_lease.hold(lambda: _tell_of_waiting(tell)):
            last = self.state.last_pass()
            states = self.kafka.states(self.contracts.topics())
            refresh()
            if self._nothing_new(last, states):
                self.state.note_pass(replace(last, ended_at=now()))
                return SyncInfo(records=last.records, taken=last.taken)
            from pipelines.sync import Inputs, sync  # Spark

            if not self._lakes:
                tell("starting Spark, which takes some seconds", "正在启动 Spark，需要数秒")
            lake = self.lake(to_write=True)
            # Read before the pass: a contract put in force while it runs then has another hash, and causes another pass.
            hashes = self.contracts.hashes()
            if not is_unchanged(lake.root, last.tables):
                only = None
            elif only is not None:
                only = only | last.failures.keys()
            info = sync(Inputs(lake, self.store, self.kafka, self.registry), only, tell, refresh, states, last.taken)
            self.state.note_totals(count_pass(self.state.totals(), info, lake))
            commit_stats = lake.commit_stats(table_names(self.store.datasets().keys() - info.failures.keys()))
            self.state.note_pass(PassState(info.records, info.failures, info.taken, hashes, commit_stats, now()))
        return info

    def rebuild(self, dataset: Dataset, from_topics: bool, tell: Tell = quiet) -> SyncInfo:
        """Rebuild silver from bronze, or bronze from the topics; then run a pass for the dataset.

        Killed before the pass, the next pass completes it.
        """
        from pipelines.merge.rebuild import rebuild_bronze, rebuild_silver  # Spark

        with self.state.pass_lease.hold(lambda: _tell_of_waiting(tell)):
            (rebuild_bronze if from_topics else rebuild_silver)(dataset, self.lake(to_write=True))
            if from_topics:
                last = self.state.last_pass()
                taken = {topic: at for topic, at in last.taken.items() if topic not in dataset.topics}
                self.state.note_pass(replace(last, taken=taken))
        tell(
            f"{dataset.id}: {'bronze set aside' if from_topics else 'silver rebuilt'}; a pass follows",
            f"{dataset.id}：{'bronze 已移出' if from_topics else 'silver 已重建'}，随后处理一轮",
        )
        return self.sync({dataset.id}, tell)

    def rebuild_lake(self, tell: Tell = quiet) -> SyncInfo:
        """Set the whole lake aside, whatever its format, and rebuild it from all records that the topics still hold."""
        from infra.jvm.spark import spark_session  # Spark
        from pipelines.lake.lake import set_lake_aside

        with self.state.pass_lease.hold(lambda: _tell_of_waiting(tell)):
            self.kafka.states(self.contracts.topics())  # UnavailableError before anything is moved
            aside = set_lake_aside(spark_session(self.settings), self.settings.lake_path)
            self._lakes.clear()
            self.state.forget_pass()
        tell(
            f"the old lake is kept at {aside}; a pass rebuilds it from the topics"
            if aside
            else "there was no lake; a pass creates it",
            f"旧数据湖保留在 {aside}；随后处理一轮，从主题重建"
            if aside
            else "原先没有数据湖；随后处理一轮，从主题建立",
        )
        return self.sync(None, tell)

    def resume(self, dataset: Dataset, yes: bool, tell: Tell = quiet) -> list[tuple[str, str]]:
        """The changes of the dataset's topics that stop it, in English and Chinese; with `yes` they are accepted.

        The dataset then continues from the position of `pipelines.ingest.topic_changes.position_after_change`.
        """
        from pipelines.ingest.ingest import resume  # Spark
        from pipelines.ingest.topic_changes import topic_changes
        from pipelines.lake.progress import ingested_position

        with self.state.pass_lease.hold(lambda: _tell_of_waiting(tell)):
            states = self.kafka.states(dataset.topics)
            lake = self.lake(to_write=True)
            changes = list(topic_changes(dataset, ingested_position(lake.bronze(dataset)), states))
            if changes and yes:
                resume(dataset, lake, states)
        return changes

    def _nothing_new(self, last: PassState, states: dict[str, TopicState]) -> bool:
        """Whether a pass would certainly change nothing, judged by the last pass's state; False if only a pass can find out."""
        if not last.tables or last.failures or self.contracts.hashes() != last.contracts:
            return False
        if not is_unchanged(self.settings.lake_path, last.tables):
            return False
        try:
            return all_taken(self.store.datasets().values(), last.taken, states)
        except SuibusError:  # the pass will report the error
            return False


def _tell_of_waiting(tell: Tell) -> None:
    tell("another pass is under way; waiting for it", "另一轮处理正在进行，等待其结束")
