"""The state that the processes of one state folder share: small JSON files and leases in <home>/run.

    run/pipeline.json    the state after the last pass: `PassState`
        metrics.json     running totals: `infra.bus.totals.Totals`
        up.json          the process that runs the bus: `Running`
        contracts.json   the contracts that cannot be put in force
        up.lock          held by the process that runs the bus, backs it up or restores its lake; it says which: `Work`
        pipeline.lock    held by the process that is running a pass

All of these files may be lost: the tables and topics hold the same facts, but reading them takes longer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

from infra.bus.totals import Totals
from pipelines.lake.position import Position, dump_position, parse_position
from pipelines.lake.unchanged_tables import CommitStat, CommitStats
from pipelines.release.release_record import Records, ReleaseRecord
from schemas.ports.files import write_whole
from schemas.ports.lease import Lease
from schemas.ports.state_format import make_state_folder

Work = Literal["up", "backup", "restore"]  # of which one process at a time does one


@dataclass(frozen=True)
class PassState:
    """The state after a pass. It shows whether another pass has anything to do, and gives `status` what it prints."""

    records: Records = field(default_factory=dict)  # the newest decision of each dataset
    failures: Mapping[str, str] = field(default_factory=dict)  # by dataset id: why it stopped
    taken: Position = field(default_factory=dict)  # how far bronze has taken each topic
    contracts: Mapping[str, str] = field(default_factory=dict)  # the hash of each contract in force when the pass began
    tables: CommitStats = field(default_factory=dict)  # the newest commit of each table; empty if one was unknown
    ended_at: str | None = None  # ISO 8601, UTC; None: no pass has ended yet

    def to_json(self) -> dict[str, Any]:
        """The state as a JSON object."""
        return {
            "records": {name: record.to_json() for name, record in self.records.items()},
            "failures": dict(self.failures),
            "taken": dump_position(self.taken),
            "contracts": dict(self.contracts),
            "tables": {name: list(stat) for name, stat in self.tables.items()},
            "ended_at": self.ended_at,
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """The state that `to_json` wrote."""
        return cls(
            {name: ReleaseRecord.from_json(record) for name, record in found["records"].items()},
            found["failures"],
            parse_position(found["taken"]),
            found["contracts"],
            {name: CommitStat(*stat) for name, stat in found["tables"].items()},
            found["ended_at"],
        )


@dataclass(frozen=True)
class Running:
    """The process that runs the bus and is ready."""

    pid: int
    pipeline: bool  # True: it runs passes; False: the services only
    since: str  # ISO 8601, UTC


@dataclass(frozen=True)
class Refusal:
    """Why a contract cannot be put in force."""

    en: str
    zh: str


class RunState:
    """The files and leases in <home>/run. A file that is missing or damaged is treated as never written."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._folder = home / "run"
        self.up_lease = Lease(self._folder / "up.lock")
        self.pass_lease = Lease(self._folder / "pipeline.lock")
        self.up_log = self._folder / "up.log"

    def up_process(self) -> int | None:
        """The id of the process that runs the bus, whether it is ready or not; None if none does."""
        holder = self.up_lease.holder()
        return holder.pid if holder and holder.work == "up" else None

    def last_pass(self) -> PassState:
        """The state after the last pass; an empty state before the first."""
        try:
            return PassState.from_json(self._read("pipeline.json"))
        except (KeyError, TypeError, ValueError, AttributeError):
            return PassState()

    def note_pass(self, state: PassState) -> None:
        """Write the state after a pass."""
        self._write("pipeline.json", state.to_json())

    def forget_pass(self) -> None:
        """Delete the state of the last pass, which belongs to another lake, so that the next pass processes all datasets."""
        (self._folder / "pipeline.json").unlink(missing_ok=True)

    def totals(self) -> Totals:
        """The running totals, zero before the first pass."""
        try:
            return Totals.from_json(self._read("metrics.json"))
        except (KeyError, TypeError, ValueError, AttributeError):
            return Totals()

    def note_totals(self, totals: Totals) -> None:
        """Write the running totals."""
        self._write("metrics.json", totals.to_json())

    def running(self) -> Running | None:
        """The process that runs the bus and is ready. It may have been killed since: `up_process` tells."""
        try:
            return Running(**self._read("up.json"))
        except TypeError:
            return None

    def note_running(self, running: Running | None) -> None:
        """Write which process runs the bus and is ready; None: no process."""
        if running is None:
            (self._folder / "up.json").unlink(missing_ok=True)
        else:
            self._write("up.json", asdict(running))

    def refused_contracts(self) -> list[Refusal]:
        """The contracts that could not be put in force when they were last read."""
        try:
            return [Refusal(**one) for one in self._read("contracts.json").get("refused", [])]
        except (TypeError, AttributeError):
            return []

    def note_refused_contracts(self, refused: Sequence[Refusal]) -> None:
        """Write which contracts could not be put in force."""
        self._write("contracts.json", {"refused": [asdict(one) for one in refused]})

    def _read(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads((self._folder / name).read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _write(self, name: str, value: Any) -> None:
        make_state_folder(self._home)
        write_whole(self._folder / name, json.dumps(value, ensure_ascii=False))


def now() -> str:
    """The current time as text: ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
