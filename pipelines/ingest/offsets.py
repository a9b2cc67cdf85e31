"""Which records come next: planned from what bronze holds and what the topics have, before anything is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from pipelines.lake.position import Position, TopicPosition
from schemas.dataset import Dataset
from schemas.errors import StateError
from schemas.ports.kafka_access import KafkaAccess

SHARE = 100_000  # records a district and dataset may have in one batch
BATCH = 400_000  # records of a batch: bounds memory, and the work that a killed batch has to do again


class TopicState(NamedTuple):
    """What a topic has: its identity, and the first offset kept and the next to be written of each partition."""

    id: str
    partitions: dict[int, tuple[int, int]]


class Topics(Protocol):
    """The bus as the pipeline sees it; `infra.kafka.topics.Kafka` is one."""

    @property
    def access(self) -> KafkaAccess:
        """How its records are read, and receipts are sent to it."""

    def states(self, topics: Iterable[str]) -> dict[str, TopicState]:
        """The state of each topic that exists. UnavailableError where no broker answers."""


class Range(NamedTuple):
    """Offsets of one partition, `end` left out."""

    topic: str
    partition: int
    start: int
    end: int


@dataclass(frozen=True)
class Plan:
    """The offsets of one batch, the position behind them, and how many still wait after it, by topic."""

    ranges: tuple[Range, ...]
    after: Position
    waiting: dict[str, int] = field(default_factory=dict)

    @property
    def drained(self) -> bool:
        """Whether some district's records are all in with this batch: its changes can be shown."""
        return any(not self.waiting.get(r.topic) for r in self.ranges)


def all_taken(datasets: Iterable[Dataset], taken: Position, states: Mapping[str, TopicState]) -> bool:
    """Whether no topic has more than was taken. StateError if one is not as it was left."""
    return not any(
        plan(dataset, {t: taken[t] for t in dataset.topics if t in taken}, states).ranges for dataset in datasets
    )


def plan(dataset: Dataset, position: Position, states: Mapping[str, TopicState]) -> Plan:
    """The next batch of a dataset: a share for each district, so that one with a long backlog holds up no other.

    StateError names every topic that is not as it was left; then nothing is taken, so nothing can be skipped.
    """
    if problems := list(topic_changes(dataset, position, states)):
        listed = "\n  ".join(en for en, _ in problems)
        listed_zh = "\n  ".join(zh for _, zh in problems)
        raise StateError(
            f"Dataset {dataset.name} is stopped, and nothing of it was skipped:\n  {listed}\n"
            f"Restore what is missing, or let the districts publish it again, and then go on with: suibus resume {dataset.name}",
            f"数据集 {dataset.name} 已停止，未跳过任何记录：\n  {listed_zh}\n"
            f"请恢复缺失的内容，或请相关区重新发布，然后执行：suibus resume {dataset.name}",
        )
    waiting: dict[str, dict[int, tuple[int, int]]] = {}
    for topic, state in _present(dataset, states).items():
        at = (
            position[topic].next_offsets
            if topic in position
            else {p: first for p, (first, _) in state.partitions.items()}
        )
        waiting[topic] = {p: (at[p], end) for p, (_, end) in state.partitions.items() if at[p] < end}
    backlog = {topic: sum(end - start for start, end in parts.values()) for topic, parts in waiting.items() if parts}
    level = _fair_level(backlog.values(), SHARE, BATCH)
    ranges: list[Range] = []
    after = dict(position)
    for topic in backlog:
        parts, state = waiting[topic], states[topic]
        most = _fair_level((end - start for start, end in parts.values()), level, level)
        here = [Range(topic, p, start, min(end, start + most)) for p, (start, end) in sorted(parts.items())]
        before = (
            position[topic].next_offsets
            if topic in position
            else {p: first for p, (first, _) in state.partitions.items()}
        )
        after[topic] = TopicPosition(state.id, {**before, **{r.partition: r.end for r in here}})
        backlog[topic] -= sum(r.end - r.start for r in here)
        ranges += here
    return Plan(tuple(ranges), after, backlog)


def _fair_level(backlogs: Iterable[int], most: int, total: int) -> int:
    """What each may have at most, so that small backlogs go whole and large ones share the rest evenly."""
    ordered = sorted(backlogs)
    for count, backlog in zip(range(len(ordered), 0, -1), ordered, strict=True):
        if backlog > (level := max(min(most, total // count), 1)):
            return level
        total -= backlog
    return most


def _present(dataset: Dataset, states: Mapping[str, TopicState]) -> dict[str, TopicState]:
    return {name: states[name] for name in dataset.topics if name in states}


def topic_changes(dataset: Dataset, position: Position, states: Mapping[str, TopicState]) -> Iterable[tuple[str, str]]:
    """What became of the dataset's topics that would skip or mix records, in English and Chinese."""
    for topic in position:
        if topic not in states:
            yield f"{topic} was deleted", f"主题 {topic} 已被删除"
    for topic, state in _present(dataset, states).items():
        before = position.get(topic)
        if before and before.id != state.id:
            yield (
                f"{topic} was deleted and made again (its id was {before.id}, is {state.id}): what was on it and not yet "
                "taken is gone, and what is on it now was never seen",
                f"主题 {topic} 被删除后重建（原标识 {before.id}，现为 {state.id}）：尚未接入的记录已丢失，现有记录从未接入",
            )
            continue
        for partition, (first, end) in sorted(state.partitions.items()):
            here, here_zh = f"{topic} partition {partition}", f"{topic} 分区 {partition}"
            at = before.next_offsets.get(partition) if before else 0
            if at is None:
                yield (
                    f"{here} was added: a key may now be on another partition than its earlier versions",
                    f"{here_zh} 为新增：同一主键的新旧版本可能位于不同分区",
                )
            elif at < first:
                yield (
                    f"{here} begins at offset {first}, and {at} is the next to be taken: {first - at} offsets were removed "
                    "(retention) before they were taken",
                    f"{here_zh} 从偏移量 {first} 开始，而应接入的下一个为 {at}：有 {first - at} 个偏移量在接入前已被清除（超过保留期）",
                )
            elif at > end:
                yield (
                    f"{here} ends at offset {end}, and {at} is the next to be taken: records that were taken are gone from it",
                    f"{here_zh} 止于偏移量 {end}，而应接入的下一个为 {at}：已接入的记录在主题中已不存在",
                )


def position_after_change(dataset: Dataset, position: Position, states: Mapping[str, TopicState]) -> Position:
    """The position from which a dataset goes on after its topics changed: each from the first offset it still has."""
    found: Position = {}
    for topic, state in _present(dataset, states).items():
        before = position.get(topic)
        same = before is not None and before.id == state.id
        kept = before.next_offsets if before and same else {}
        found[topic] = TopicPosition(
            state.id, {p: max(min(kept.get(p, first), end), first) for p, (first, end) in state.partitions.items()}
        )
    return found
