"""Changes of topics that could skip or mix up records, and the position from which a dataset then continues."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pipelines.ingest.topics import TopicState, present_topics
from pipelines.lake.position import Position, TopicPosition
from schemas.dataset import Dataset


def topic_changes(dataset: Dataset, position: Position, states: Mapping[str, TopicState]) -> Iterable[tuple[str, str]]:
    """Each change of the dataset's topics that could skip or mix up records, in English and Chinese.

    Such a change is: deleted, recreated, records removed before they were ingested, records gone after it, a partition added.
    """
    for topic in position:
        if topic not in states:
            yield f"{topic} was deleted", f"主题 {topic} 已被删除"
    for topic, state in present_topics(dataset, states).items():
        before = position.get(topic)
        if before and before.id != state.id:
            yield (
                f"{topic} was deleted and recreated (its id was {before.id} and is now {state.id}): its records that were not "
                "yet ingested are lost, and none of its present records was ingested",
                f"主题 {topic} 被删除后重建（原标识 {before.id}，现为 {state.id}）：尚未入库的记录已丢失，现有记录均未入库",
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
                    f"{here_zh} 从偏移量 {first} 开始，而下一个应入库的偏移量为 {at}：有 {first - at} 个偏移量在入库前已被清除（超过保留期）",
                )
            elif at > end:
                yield (
                    f"{here} ends at offset {end}, but the next to ingest is {at}: records that were ingested are gone from the topic",
                    f"{here_zh} 止于偏移量 {end}，而下一个应入库的偏移量为 {at}：已入库的记录在主题中已不存在",
                )


def position_after_change(dataset: Dataset, position: Position, states: Mapping[str, TopicState]) -> Position:
    """The position from which a dataset continues after its topics changed.

    A partition continues at its old offset if the topic still has it. Otherwise it continues at the nearest offset that the topic
    has; a new partition and a recreated topic start at their first offset.
    """
    found: Position = {}
    for topic, state in present_topics(dataset, states).items():
        before = position.get(topic)
        same = before is not None and before.id == state.id
        kept = before.next_offsets if before and same else {}
        found[topic] = TopicPosition(
            state.id, {p: max(min(kept.get(p, first), end), first) for p, (first, end) in state.partitions.items()}
        )
    return found
