"""How far the topics of a dataset are in its bronze table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Taken(NamedTuple):
    """How far a topic was taken: its identity, and the next offset of each partition."""

    id: str
    next: dict[int, int]


Position = dict[str, Taken]  # by topic


def dump_position(position: Position) -> dict[str, Any]:
    """A position as JSON has it."""
    return {t: {"id": taken.id, "next": {str(p): o for p, o in taken.next.items()}} for t, taken in position.items()}


def parse_position(found: Mapping[str, Any]) -> Position:
    """A position from its JSON."""
    return {t: Taken(v["id"], {int(p): int(o) for p, o in v["next"].items()}) for t, v in found.items()}
