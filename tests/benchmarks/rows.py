"""What a benchmark yields (rows of the table, and curves), and how two sides are run in turns."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal


@dataclass(frozen=True)
class Row:
    """One line of the table: the figures of each run of both sides, and what must be reached.

    `peer` empty: there is nothing to compare with, and ours is compared with the figure `limit`.
    """

    id: str
    title: str
    ours: Sequence[float]
    unit: str
    better: Literal["higher", "lower"]
    target: float | None  # of the ratio ours / peer; None: stated, without a target
    peer: Sequence[float] = ()
    peer_name: str = ""
    limit: float | None = None
    note: str = ""  # what each side does and does not do in its time

    @property
    def ratio(self) -> float | None:
        """Median of ours by median of the peer, or by the limit."""
        other = median(self.peer) if self.peer else self.limit
        return median(self.ours) / other if other else None

    @property
    def reached(self) -> bool | None:
        """Whether the ratio is as good as the target; None where there is none."""
        if self.target is None or self.ratio is None:
            return None
        return self.ratio >= self.target if self.better == "higher" else self.ratio <= self.target

    def as_json(self) -> dict[str, Any]:
        """As build/bench.json has it."""
        peer = median(self.peer) if self.peer else self.limit
        found: dict[str, Any] = {
            "id": self.id,
            "title": self.title,
            "ours": median(self.ours),
            "peer": peer,
            "peer_name": self.peer_name,
            "unit": self.unit,
            "ratio": self.ratio,
            "target": self.target,
            "better": self.better,
            "reached": self.reached,
            "ours_min": min(self.ours),
            "ours_max": max(self.ours),
            "runs": len(self.ours),
            "note": self.note,
        }
        if self.peer:
            found |= {"peer_min": min(self.peer), "peer_max": max(self.peer)}
        return found


@dataclass(frozen=True)
class Curve:
    """A picture: lines over an x axis, drawn to build/<id>.png."""

    id: str
    title: str
    x_label: str
    y_label: str
    x: Sequence[float]
    lines: Mapping[str, Sequence[float]] = field(default_factory=dict)


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def in_turns(runs: int, *sides: Callable[[], float]) -> list[list[float]]:
    """The figures of each side, run in turns: A B, B A, A B, … so that neither always has the warmer machine."""
    found: list[list[float]] = [[] for _ in sides]
    for turn in range(runs):
        order = range(len(sides)) if turn % 2 == 0 else reversed(range(len(sides)))
        for side in order:
            found[side].append(sides[side]())
    return found


def jobs(spark: Any, call: Callable[[], object]) -> int:
    """How many Spark jobs a call runs."""
    context, group = spark.sparkContext, uuid.uuid4().hex
    context.setJobGroup(group, "counted")
    try:
        call()
        context._jsc.sc().listenerBus().waitUntilEmpty(60_000)
        return len(context.statusTracker().getJobIdsForGroup(group))
    finally:
        context.setLocalProperty("spark.jobGroup.id", None)
