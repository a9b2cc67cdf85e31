"""A release record: the gate's decision on one candidate. It needs no Spark, since the state of a pass also stores records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, Self

Status = Literal["released", "held"]


@dataclass(frozen=True)
class ReleaseRecord:
    """One decision of the gate: a row of the releases table without its verdict."""

    release: int  # 1, 2, 3 … per dataset, held ones included
    status: Status
    silver_version: int
    silver_id: str  # Delta's id of the silver table that has this version
    contract_sha256: str
    rows: int
    failed: tuple[str, ...]  # the critical rules that failed
    decided_at: datetime
    released_at: datetime | None  # when a version of the dataset was last released; None if never

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object, times as text."""
        times = {name: None if at is None else str(at) for name, at in self._times().items()}
        return {**asdict(self), "failed": list(self.failed), **times}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """The record that `to_json` wrote."""
        times = {
            name: None if found[name] is None else datetime.fromisoformat(found[name])
            for name in ("decided_at", "released_at")
        }
        return cls(**{**found, "failed": tuple(found["failed"]), **times})

    def _times(self) -> dict[str, datetime | None]:
        return {"decided_at": self.decided_at, "released_at": self.released_at}


Records = Mapping[str, ReleaseRecord]  # by dataset id
