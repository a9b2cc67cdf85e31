"""A release record: what was decided of one candidate. Read and written without Spark, since the state of a pass holds them too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, Self

Status = Literal["released", "held"]


@dataclass(frozen=True)
class ReleaseRecord:
    """One decision of the gate, as the releases keep it, without its verdict."""

    release: int  # 1, 2, 3 … of the dataset, held ones counted
    status: Status
    silver_version: int
    silver_id: str  # Delta's id of the silver table that version is of
    contract_sha256: str
    rows: int
    failed: tuple[str, ...]  # critical rules that failed
    decided_at: datetime
    released_at: datetime | None  # when a version was last released, None if none ever was

    def to_json(self) -> dict[str, Any]:
        """The record as JSON has it, moments as text."""
        moments = {name: None if at is None else str(at) for name, at in self._moments().items()}
        return {**asdict(self), "failed": list(self.failed), **moments}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """A record from what `to_json` made."""
        moments = {
            name: None if found[name] is None else datetime.fromisoformat(found[name])
            for name in ("decided_at", "released_at")
        }
        return cls(**{**found, "failed": tuple(found["failed"]), **moments})

    def _moments(self) -> dict[str, datetime | None]:
        return {"decided_at": self.decided_at, "released_at": self.released_at}


Records = Mapping[str, ReleaseRecord]  # by dataset id
