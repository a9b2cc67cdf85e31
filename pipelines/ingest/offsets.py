"""Plan the offsets of the next batch from the position in bronze and the state of the topics, before any record is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from pipelines.lake.position import Position, TopicPosition
from schemas.dataset import Dataset
from schemas.errors import StateError
from schemas.ports.kafka_access import KafkaAccess

DISTRICT_SHARE = 100_000  # the most records of one district in a batch
BATCH_RECORDS = 400_000  # the most records in a batch: limits memory, and the work to repeat after a kill


class TopicState(NamedTuple):
    """A topic in Kafka: its id, and by partition the first offset kept and the end offset (the next to be written)."""

    id: str
    partitions: dict[int, tuple[int, int]]


class Topics(Protocol):
    """The port to Kafka that the pipeline needs; `infra.kafka.topics.Kafka` implements it."""

    @property
    def access(self) -> KafkaAccess:
        """The access with which records are read and receipts are sent."""

    def states(self, topics: Iterable[str]) -> dict[str, TopicState]:
        """The state of each of these topics that exists. UnavailableError if no broker answers."""


class Range(NamedTuple):
    """Offsets of one partition, from `start` up to and without `end`."""

    topic: str
    partition: int
    start: int
    end: int


@dataclass(frozen=True)
class Plan:
    """The offsets of one batch, the position after it, and by topic how many offsets are left."""

    ranges: tuple[Range, ...]
    after: Position
    waiting: dict[str, int] = field(default_factory=dict)

    @property
    def drained(self) -> bool:
        """Whether the batch completes some district (all its waiting records), so that its changes can be released."""
        return any(not self.waiting.get(r.topic) for r in self.ranges)


def all_taken(datasets: Iterable[Dataset], taken: Position, states: Mapping[str, TopicState]) -> bool:
    """Whether no topic has records after the position. StateError if a topic changed: see `topic_changes`."""
    return not any(
        plan(dataset, {t: taken[t] for t in dataset.topics if t in taken}, states).ranges for dataset in datasets
    )


def plan(dataset: Dataset, position: Position, states: Mapping[str, TopicState]) -> Plan:
    """The next batch of a dataset: each district gets a share, so that a long backlog does not delay other districts.

    StateError names every topic that changed (see `topic_changes`); nothing is ingested then, so nothing can be skipped.
    """
    if problems := list(topic_changes(dataset, position, states)):
        listed = "\n  ".join(en for en, _ in problems)
        listed_zh = "\n  ".join(zh for _, zh in problems)
        raise StateError(
            f"Dataset {dataset.name} is stopped; none of its records was skipped:\n  {listed}\n"
            f"Restore what is missing, or have the districts publish it again. Then run: suibus resume {dataset.name}",
            f"数据集 {dataset.name} 已停止，未跳过任何记录：\n  {listed_zh}\n"
            f"请恢复缺失的内容，或请相关区重新发布，然后执行：suibus resume {dataset.name}",
        )
    waiting: dict[str, dict[int, tuple[int, int]]] = {}
    for topic, state in _present(dataset, states).items():
        at = _next_offsets(topic, position, state)
        waiting[topic] = {p: (at[p], end) for p, (_, end) in state.partitions.items() if at[p] < end}
    backlog = {topic: sum(end - start for start, end in parts.values()) for topic, parts in waiting.items() if parts}
    level = _fair_level(backlog.values(), DISTRICT_SHARE, BATCH_RECORDS)
    ranges: list[Range] = []
    after = dict(position)
    for topic in backlog:
        parts, state = waiting[topic], states[topic]
        most = _fair_level((end - start for start, end in parts.values()), level, level)
        here = [Range(topic, p, start, min(end, start + most)) for p, (start, end) in sorted(parts.items())]
        before = _next_offsets(topic, position, state)
        after[topic] = TopicPosition(state.id, {**before, **{r.partition: r.end for r in here}})
        backlog[topic] -= sum(r.end - r.start for r in here)
        ranges += here
    return Plan(tuple(ranges), after, backlog)


def _next_offsets(topic: str, position: Position, state: TopicState) -> dict[int, int]:
    """The next offset to ingest, by partition: from the position, or the first offsets of a new topic."""
    if topic in position:
        return position[topic].next_offsets
    return {partition: first for partition, (first, _) in state.partitions.items()}


def _fair_level(backlogs: Iterable[int], most: int, total: int) -> int:
    """The most that each backlog may contribute: small ones fit whole, large ones share the rest of `total` evenly, up to `most`."""
    ordered = sorted(backlogs)
    for count, backlog in zip(range(len(ordered), 0, -1), ordered, strict=True):
        if backlog > (level := max(min(most, total // count), 1)):
            return level
        total -= backlog
    return most


def _present(dataset: Dataset, states: Mapping[str, TopicState]) -> dict[str, TopicState]:
    return {name: states[name] for name in dataset.topics if name in states}


def topic_changes(dataset: Dataset, position: Position, states: Mapping[str, TopicState]) -> Iterable[tuple[str, str]]:
    """Each change of the dataset's topics that could skip or mix up records, in English and Chinese.

    Such a change is: deleted, recreated, records removed before they were ingested, records gone after it, a partition added.
    """
    for topic in position:
        if topic not in states:
            yield f"{topic} was deleted", f"主题 {topic} 已被删除"
    for topic, state in _present(dataset, states).items():
        before = position.get(topic)
        if before and before.id != state.id:
            yield (
                f"{topic} was deleted and recreated (its id was {before.id} and is now {state.id}): its records that were not "
                "yet ingested are lost, and none of its present records was ingested",
                f"主题 {topic} 被删除后重建（原标识 {before.id}，现为 {state.id}）：尚未接入的记录已丢失，现有记录均未接入",
            )
            continue
        for partition, (first, end) in sorted(state.partitions.items()):
            here, here_zh = f"{topic} partition {partition}", f"{topic} 分区 {partition}"
            at = before.next_offsets.get(partition) if before else 0
            if at is None:
                yield (
                    f"{here} was added: the new version of a key may be on another partition than its earlier versions",
                    f"{here_zh} 为新增：同一主键的新旧版本可能位于不同分区",
                )
            elif at < first:
                yield (
                    f"{here} begins at offset {first}, but the next to ingest is {at}: {first - at} offsets were removed "
                    "(retention) before they were ingested",
                    f"{here_zh} 从偏移量 {first} 开始，而下一个应接入的偏移量为 {at}：有 {first - at} 个偏移量在接入前已被清除（超过保留期）",
                )
            elif at > end:
                yield (
                    f"{here} ends at offset {end}, but the next to ingest is {at}: records that were ingested are gone from the topic",
                    f"{here_zh} 止于偏移量 {end}，而下一个应接入的偏移量为 {at}：已接入的记录在主题中已不存在",
                )


def position_after_change(dataset: Dataset, position: Position, states: Mapping[str, TopicState]) -> Position:
    """The position from which a dataset continues after its topics changed.

    A partition continues at its old offset if the topic still has it. Otherwise it continues at the nearest offset that the topic
    has; a new partition and a recreated topic start at their first offset.
    """
    found: Position = {}
    for topic, state in _present(dataset, states).items():
        before = position.get(topic)
        same = before is not None and before.id == state.id
        kept = before.next_offsets if before and same else {}
        found[topic] = TopicPosition(
            state.id, {p: max(min(kept.get(p, first), end), first) for p, (first, end) in state.partitions.items()}
        )
    return found
