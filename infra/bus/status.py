"""The status of the bus: what runs, which contracts are in force, what waits. Reading it starts no Spark and changes nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from infra.bus.bus import Bus
from infra.bus.state import Refusal
from pipelines.lake.position import Position
from pipelines.release.release_record import ReleaseRecord
from schemas.dataset import Dataset, parse_topic
from schemas.errors import SuibusError

RETENTION_ALARM = 0.5  # part of its topic's retention that a record may wait before it is reported


@dataclass(frozen=True)
class Backlog:
    """The offsets that no pass has ingested yet."""

    offsets: Mapping[tuple[str, int], tuple[int, int]]  # by topic and partition: the next to ingest, and the end
    # By topic and partition: when its node accepted the first waiting record, Unix time in seconds.
    oldest_accepted: Mapping[tuple[str, int], float]
    # The topics whose records have waited longer than RETENTION_ALARM, with their retention in days.
    near_retention: Mapping[str, float]


@dataclass(frozen=True)
class DatasetStatus:
    """One dataset in force."""

    id: str
    dataset: str
    version: str
    title: str
    sharing: str
    offsets_waiting: int | None  # None: Kafka does not answer
    last_decision: ReleaseRecord | None
    late: bool  # changes have waited longer than the contract allows
    near_retention: Mapping[str, float]  # as in Backlog, for the topics of this dataset
    failure: str | None  # why the dataset stopped in the last pass


@dataclass(frozen=True)
class Status:
    """The status of the whole bus at one time."""

    home: str
    bootstrap_servers: str | None
    broker_reachable: bool
    running: bool
    pipeline: bool
    lake: str
    contract_folders: tuple[str, ...]
    refused_contracts: tuple[Refusal, ...]
    last_pass: str | None
    datasets: tuple[DatasetStatus, ...]
    backlog: Backlog | None  # None: Kafka does not answer

    def to_json(self) -> dict[str, Any]:
        """The status as `suibus status --json` prints it: the backlog is left out, since each dataset has its own part of it."""
        status = {name: value for name, value in asdict(self).items() if name != "backlog"}
        for shown, dataset in zip(status["datasets"], self.datasets, strict=True):
            shown["last_decision"] = dataset.last_decision and dataset.last_decision.to_json()
        return status


def read_status(bus: Bus) -> Status:
    """The status of the bus now. A Kafka that does not answer is part of the status and raises no error."""
    state, datasets = bus.state.last_pass(), bus.store.datasets()
    backlog = _backlog(bus, datasets.values(), state.taken)
    waiting: dict[str, int] = {}
    for (topic, _), (at, end) in backlog.offsets.items() if backlog else ():
        dataset_id = parse_topic(topic)[1]
        waiting[dataset_id] = waiting.get(dataset_id, 0) + end - at
    near_retention = backlog.near_retention if backlog else {}
    listed = []
    for dataset in datasets.values():
        record, mine = state.records.get(dataset.id), waiting.get(dataset.id, 0) if backlog else None
        listed.append(
            DatasetStatus(
                dataset.id,
                dataset.name,
                dataset.version,
                dataset.title,
                dataset.sharing,
                mine,
                record,
                is_late(dataset, record, mine),
                {topic: days for topic, days in near_retention.items() if parse_topic(topic)[1] == dataset.id},
                state.failures.get(dataset.id),
            )
        )
    is_up, ready = bus.state.up_process() is not None, bus.state.running()
    return Status(
        str(bus.home),
        _servers(bus),
        backlog is not None,
        is_up,
        bool(is_up and ready and ready.pipeline),
        bus.settings.lake_path,
        tuple(map(str, bus.contracts.folders)),
        tuple(bus.state.refused_contracts()),
        state.ended_at,
        tuple(listed),
        backlog,
    )


def is_late(dataset: Dataset, record: ReleaseRecord | None, waiting: int | None) -> bool:
    """Whether changes wait (on the topics, or in a held candidate) and the last release is older than the contract's freshness."""
    if record is None or dataset.freshness is None or not (waiting or record.status == "held"):
        return False
    since = record.released_at or record.decided_at  # never released: since the last hold
    return datetime.now(UTC) - since > dataset.freshness


def _servers(bus: Bus) -> str | None:
    try:
        return bus.access.servers
    except SuibusError:
        return None


def _backlog(bus: Bus, datasets: Iterable[Dataset], taken: Position) -> Backlog | None:
    try:
        kafka = bus.kafka
        states = kafka.states(t for d in datasets for t in d.topics)
        offsets: dict[tuple[str, int], tuple[int, int]] = {}
        for topic, state in states.items():
            known = taken[topic].next_offsets if topic in taken else {}
            for partition, (first, end) in state.partitions.items():
                if (at := known.get(partition, first)) < end:
                    offsets[topic, partition] = (at, end)
        since, kept = kafka.since(offsets), kafka.retention(topic for topic, _ in offsets)
    except SuibusError:
        return None
    now = time.time()
    near_retention = {t: kept[t] / 86_400 for (t, _), at in since.items() if now - at > kept[t] * RETENTION_ALARM}
    return Backlog(offsets, since, near_retention)
