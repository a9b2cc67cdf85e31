"""The bus of one state folder: what a command needs to publish to it, to run a pass over it, and to repair it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from infra.bus.contracts_in_force import ContractsInForce
from infra.bus.state import PassState, RunState, now
from infra.bus.totals import count_pass
from infra.kafka.broker import Broker
from infra.kafka.topics import Kafka
from infra.node_file import read_node_file
from infra.settings import Settings
from pipelines.ingest.offsets import TopicState, all_taken
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
from schemas.store import ContractStore
from schemas.tell import Tell, quiet
from schemas.wire.avro import avro_schema
from schemas.wire.registry import Registry

if TYPE_CHECKING:
    from pipelines.lake.lake import Lake

log = logging.getLogger(__name__)
_LEASE_WAIT = 1.0  # seconds: a command that asks who runs the bus may hold its lease for a moment


class Bus:
    """The bus of one state folder. Making one starts nothing; StateError if the folder is of another format."""

    def __init__(self, settings: Settings) -> None:
        check_state_folder(settings.home)
        self.settings = settings
        self.home = settings.home
        self.broker = Broker(settings)
        self.store = ContractStore(self.home / "contracts")
        self.state = RunState(self.home)
        self.contracts = ContractsInForce((SHIPPED, *settings.contract_folders), self.store, self.state)
        self._lake: Lake | None = None

    @property
    def access(self) -> KafkaAccess:
        """How to reach Kafka: the outside one of the settings, else the embedded broker. UnavailableError if that does not run."""
        return self.settings.access or self.broker.access

    @property
    def access_when_up(self) -> KafkaAccess:
        """How to reach Kafka once it runs: a node may accept rows while it is away."""
        return self.settings.access or self.broker.access_when_up

    @property
    def kafka(self) -> Kafka:
        """The Kafka of this bus. UnavailableError if it is the embedded one and does not run."""
        return Kafka(self.access)

    @property
    def registry(self) -> Registry | None:
        """The configured schema registry, if any."""
        return Registry(self.settings.registry_url) if self.settings.registry_url else None

    @contextmanager
    def only_one(self) -> Iterator[None]:
        """Keep any other process from running this bus; StateError if one does."""
        make_state_folder(self.home)
        with self.state.up_lease.hold_if_free(_LEASE_WAIT) as held:
            if not held:
                raise self.running_already()
            yield

    def running_already(self) -> StateError:
        """The error for a second process that would run this bus."""
        pid = self.state.up_lease.holder()
        return StateError(
            f"This bus is already running (process {pid}, {self.home}). `suibus down` stops it.",
            f"该总线已在运行（进程 {pid}，{self.home}）。可用 suibus down 停止。",
        )

    # --- a district's node ------------------------------------------------------------------------

    def outbox(self, district: str) -> Path:
        """The outbox of a district's node on this machine; InputError if the node file is another district's."""
        mine = read_node_file(self.settings.node).district if self.settings.node else None
        if mine not in (None, district):
            raise InputError(
                f"The node file {self.settings.node} is of district {mine}, not {district}. Name {mine}, or set SUIBUS_NODE "
                f"to the file of {district}.",
                f"节点文件 {self.settings.node} 属于 {mine}，而不是 {district}。请使用 {mine}，或将 SUIBUS_NODE 设为 {district} 的文件。",
            )
        return self.home / "nodes" / district / "outbox.sqlite"

    def outboxes(self) -> list[Path]:
        """The outboxes of all nodes on this machine, in the order of their districts."""
        return sorted((self.home / "nodes").glob("*/outbox.sqlite"))

    def publisher(self, name: str, district: str, timeout: float = 60.0) -> Publisher:
        """A publisher of the dataset called `name` for a district, over the outbox of its node on this machine."""
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
        """Send what waits in the outboxes of the nodes on this machine; how many records went."""
        sent = 0
        for path in self.outboxes():
            with log_context(district=path.parent.name):
                try:
                    info = flush(path, self.access, timeout=10, transport=self.settings.transport)
                except Exception as error:  # one outbox must not stop another
                    reason = error.en if isinstance(error, SuibusError) else first_line(error)
                    log.warning("outbox %s: %s", path, reason)
                    continue
                if info.sent:
                    about = {"hop": "send", "seconds": round(info.seconds, 3)}
                    log.info("sent %d records", info.sent, extra={"about": about})
            sent += info.sent
        return sent

    # --- the city ---------------------------------------------------------------------------------

    def lake(self) -> Lake:
        """The lake, with Spark started on first use (seconds). StateError if the lake is of another format."""
        if self._lake is None:
            from infra.jvm.spark import spark_session  # a node has no Spark
            from pipelines.lake.lake import Lake

            self._lake = Lake(spark_session(self.settings), self.settings.lake_path)
        return self._lake

    def adopt_contracts(self, tell: Tell = quiet) -> list[Dataset]:
        """Put the contracts of the folders in force, their topics made first; the newly registered ones."""
        return self.contracts.adopt(self.kafka, self.settings.partitions, self.settings.replication, tell)

    def sync(self, only: set[str] | None = None, tell: Tell = quiet) -> SyncInfo:
        """One pass over the whole road; waits for another process that is in the middle of one.

        `only` limits it as `pipelines.sync.sync` says, and to what failed before. Where a pass was cut off, or another program
        wrote to a table, every dataset is looked at for what was left undone. A pass with nothing to do starts no Spark.
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

            if self._lake is None:
                tell("starting Spark, which takes some seconds", "正在启动 Spark，需要数秒")
            lake = self.lake()
            # Taken before the pass: a contract put in force while it runs is known by its hash to need another.
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
        """Make silver again from bronze, or bronze from the topics, bring it up to date and judge it."""
        from pipelines.merge.rebuild import rebuild_bronze, rebuild_silver  # Spark

        with self.state.pass_lease.hold(lambda: _tell_of_waiting(tell)):
            (rebuild_bronze if from_topics else rebuild_silver)(dataset, self.lake())
            if from_topics:
                last = self.state.last_pass()
                taken = {topic: at for topic, at in last.taken.items() if topic not in dataset.topics}
                self.state.note_pass(replace(last, taken=taken))
        tell(f"{dataset.id}: made again; a pass follows", f"{dataset.id}：已重建，随后同步一次")
        return self.sync({dataset.id}, tell)

    def rebuild_lake(self, tell: Tell = quiet) -> SyncInfo:
        """Set the whole lake aside, whatever its format, and make it again from all that the topics still hold."""
        from infra.jvm.spark import spark_session  # Spark
        from pipelines.lake.lake import set_lake_aside

        with self.state.pass_lease.hold(lambda: _tell_of_waiting(tell)):
            self.kafka.states(self.contracts.topics())  # UnavailableError before anything is moved
            aside = set_lake_aside(spark_session(self.settings), self.settings.lake_path)
            self._lake = None
            self.state.forget_pass()
        tell(
            f"the lake is kept at {aside}; a pass makes it again from the topics"
            if aside
            else "there was no lake; a pass makes it",
            f"旧数据湖保留于 {aside}；随后从主题重建" if aside else "原先没有数据湖；随后从主题建立",
        )
        return self.sync(None, tell)

    def resume(self, dataset: Dataset, yes: bool, tell: Tell = quiet) -> list[tuple[str, str]]:
        """What became of the dataset's topics; with `yes` the dataset goes on, from the first offsets they still have."""
        from pipelines.ingest.ingest import resume  # Spark
        from pipelines.ingest.offsets import topic_changes
        from pipelines.lake.progress import ingested_position

        with self.state.pass_lease.hold(lambda: _tell_of_waiting(tell)):
            states = self.kafka.states(dataset.topics)
            found = list(topic_changes(dataset, ingested_position(self.lake().bronze(dataset)), states))
            if found and yes:
                resume(dataset, self.lake(), states)
        return found

    def _nothing_new(self, last: PassState, states: dict[str, TopicState]) -> bool:
        """Whether a pass would certainly change nothing, by what the last one left; False where only the pass can tell."""
        if not last.tables or last.failures or self.contracts.hashes() != last.contracts:
            return False
        if not is_unchanged(self.settings.lake_path, last.tables):
            return False
        try:
            return all_taken(self.store.datasets().values(), last.taken, states)
        except SuibusError:  # the pass itself says what is wrong
            return False


def _tell_of_waiting(tell: Tell) -> None:
    tell("another pass is under way; waiting for it", "另一轮处理正在进行，等待其结束")
