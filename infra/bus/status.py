"""A look at the bus: what runs, what is in force, what waits. It starts no Spark and changes nothing."""

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

RETENTION_ALARM = 0.5  # of its topic's retention: a record that has waited longer is in danger


@dataclass(frozen=True)
class Backlog:
    """What waits on the topics."""

    offsets: Mapping[tuple[str, int], tuple[int, int]]  # by topic and partition: the next offset to take, and the end
    oldest_accepted: Mapping[
        tuple[str, int], float
    ]  # when its first waiting record was accepted, in seconds since 1970
    near_retention: Mapping[str, float]  # the retention, in days, of the topics whose records are in danger of it


@dataclass(frozen=True)
class DatasetStatus:
    """One dataset in force."""

    id: str
    dataset: str
    version: str
    title: str
    sharing: str
    offsets_waiting: int | None  # None: Kafka is away
    last_decision: ReleaseRecord | None
    late: bool  # changes wait longer than the contract allows
    near_retention: Mapping[str, float]  # its topics whose records are in danger, with their retention in days
    failure: str | None  # why the last pass stopped at it


@dataclass(frozen=True)
class Status:
    """The whole bus at one moment."""

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
    backlog: Backlog | None  # None: Kafka is away

    def to_json(self) -> dict[str, Any]:
        """The status as `suibus status --json` prints it; what waits is told of each dataset."""
        found = {name: value for name, value in asdict(self).items() if name != "backlog"}
        for shown, dataset in zip(found["datasets"], self.datasets, strict=True):
            shown["last_decision"] = dataset.last_decision and dataset.last_decision.to_json()
        return found


def read_status(bus: Bus) -> Status:
    """The bus as it is now. A Kafka that is away is told, not raised."""
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
    is_up, ready = bus.state.up_lease.holder() is not None, bus.state.running()
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
    """Whether changes wait, on the topics or held at the gate, and the release is older than its contract's freshness."""
    if record is None or dataset.freshness is None or not (waiting or record.status == "held"):
        return False
    since = record.released_at or record.decided_at  # never released: from its last hold
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
