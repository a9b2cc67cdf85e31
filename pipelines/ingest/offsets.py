"""Plan the offsets of the next batch from the position in bronze and the state of the topics, before any record is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pipelines.ingest.topic_changes import topic_changes
from pipelines.ingest.topics import TopicState, present_topics
from pipelines.lake.position import Position, TopicPosition
from schemas.dataset import Dataset
from schemas.errors import StateError

DISTRICT_SHARE = 100_000  # the most records of one district in a batch
BATCH_RECORDS = 400_000  # the most records in a batch: limits memory, and the work to repeat after a kill


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
    for topic, state in present_topics(dataset, states).items():
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
