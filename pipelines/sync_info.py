"""What one pass over the road did, and whether another would do anything: without Spark, which is not even imported here.

Another would certainly do nothing where the last was through with everything and since then no topic has more, no contract is
another, and the newest commit of every table is the same file.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.ingest.offsets import Position, TopicState, plan
from schemas.dataset import Dataset

if TYPE_CHECKING:
    from pipelines.merge.merge import MergeInfo
    from pipelines.release.release import ReleaseInfo

log = logging.getLogger(__name__)
# What may become of a record that was received.
FATES = ("inserted", "updated", "deleted", "unchanged", "superseded", "duplicate", "quarantined")
Mark = tuple[int, int, int]  # when the commit's file was written, its size, its inode
ABSENT = -1  # the version of a table that there is none of


@dataclass
class SyncInfo:
    """What one pass did. `failures` names the datasets that stopped, with the reason; the others went on."""

    ingested: dict[str, int] = field(default_factory=dict)  # records, by dataset
    merges: list[MergeInfo] = field(default_factory=list)
    releases: list[ReleaseInfo] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    records: dict[str, dict[str, Any]] = field(default_factory=dict)  # the newest decision of each dataset
    taken: Position = field(default_factory=dict)  # how far each topic is in bronze
    seconds: list[tuple[str, str, float]] = field(default_factory=list)  # hop, dataset, what it took

    def done(self, hop: str, dataset: Dataset, began: float, batch: str, event: str, *values: object) -> None:
        """A hop has done something: how long it took since `began`, and a line in the log."""
        seconds = time.monotonic() - began
        self.seconds.append((hop, dataset.id, seconds))
        about = {"dataset": dataset.id, "batch": batch, "hop": hop, "seconds": round(seconds, 3)}
        log.info(event, *values, extra={"about": about})


def tables(datasets: Iterable[str]) -> list[str]:
    """The names of all tables of a lake with these datasets."""
    return ["releases", "account", *(f"{layer}/{name}" for name in datasets for layer in ("bronze", "silver"))]


def all_taken(datasets: Iterable[Dataset], taken: Position, states: Mapping[str, TopicState]) -> bool:
    """Whether no topic has more than was taken. StateError where one is not as it was left."""
    return not any(
        plan(dataset, {t: taken[t] for t in dataset.topics if t in taken}, states).ranges for dataset in datasets
    )


def commit_mark(path: str, version: int) -> Mark | None:
    """What tells one commit's file from another in its place; None where a later commit is there, or it cannot be known."""
    if "://" in path:
        return None
    log = Path(path) / "_delta_log"
    try:
        found = (log / f"{version:020}.json").stat()
    except OSError:
        return None
    return None if (log / f"{version + 1:020}.json").exists() else (found.st_mtime_ns, found.st_size, found.st_ino)


def absent(path: str) -> bool:
    """Whether there is no such table, as far as that can be told."""
    return "://" not in path and not (Path(path) / "_delta_log").exists()


def as_left(root: str, marks: Mapping[str, Sequence[int]]) -> bool:
    """Whether each table is still at the version and the commit of its mark, by name; False where there are no marks."""
    return bool(marks) and all(
        absent(f"{root}/{name}") if version == ABSENT else commit_mark(f"{root}/{name}", version) == tuple(mark)
        for name, (version, *mark) in marks.items()
    )
