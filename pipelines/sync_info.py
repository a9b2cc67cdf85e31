"""The result of one pass of the pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from pipelines.lake.position import Position
from pipelines.release.release_record import Records

if TYPE_CHECKING:  # a pass that has nothing to do loads no Spark
    from pipelines.merge.merge import MergeInfo
    from pipelines.release.release import ReleaseInfo


class HopTime(NamedTuple):
    """How long a hop took for one batch of a dataset."""

    hop: str
    dataset: str
    seconds: float


@dataclass(frozen=True)
class SyncInfo:
    """The result of one pass. `failures` holds the reason for each dataset that stopped; the other datasets were processed."""

    ingested: Mapping[str, int] = field(default_factory=dict)  # records, by dataset
    merges: tuple[MergeInfo, ...] = ()
    releases: tuple[ReleaseInfo, ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict)
    records: Records = field(default_factory=dict)  # the newest decision of each dataset
    taken: Position = field(default_factory=dict)  # the position in bronze when the pass ended
    seconds: tuple[HopTime, ...] = ()

    @property
    def did_something(self) -> bool:
        """Whether anything was ingested, merged or judged, or failed."""
        return bool(any(self.ingested.values()) or self.merges or self.releases or self.failures)
