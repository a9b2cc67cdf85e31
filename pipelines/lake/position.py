"""The position of a dataset: how far its bronze table has taken each of its topics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class TopicPosition(NamedTuple):
    """How far bronze has taken a topic: the topic's id in Kafka, and the next offset to take by partition."""

    id: str
    next_offsets: dict[int, int]


Position = dict[str, TopicPosition]  # by topic


def dump_position(position: Position) -> dict[str, Any]:
    """A position as a JSON object."""
    return {
        t: {"id": taken.id, "next": {str(p): o for p, o in taken.next_offsets.items()}} for t, taken in position.items()
    }


def parse_position(found: Mapping[str, Any]) -> Position:
    """The position that `dump_position` wrote."""
    return {t: TopicPosition(v["id"], {int(p): int(o) for p, o in v["next"].items()}) for t, v in found.items()}
