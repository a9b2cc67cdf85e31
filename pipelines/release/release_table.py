"""The table of release records: read in one scan for all datasets, written in one commit per decision."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import functions as F

from pipelines.lake.commit_notes import ReleaseNote
from pipelines.lake.lake import Lake
from pipelines.lake.table import Table
from pipelines.release.release_record import Records, ReleaseRecord


@dataclass(frozen=True)
class _NewestRecords:
    """The newest records of every dataset at one version of the releases table."""

    table_id: str
    version: int
    last: Records  # by dataset: the newest record, released or held
    released: Records  # by dataset: the newest released record

    def with_record(self, version: int, dataset_id: str, record: ReleaseRecord) -> _NewestRecords:
        """The same with the record that the next version of the table adds."""
        released = {dataset_id: record} if record.status == "released" else {}
        return replace(
            self, version=version, last={**self.last, dataset_id: record}, released={**self.released, **released}
        )


def last_records(lake: Lake) -> Records:
    """The newest record of each dataset, released or held."""
    return _read(lake).last


def released_records(lake: Lake) -> Records:
    """The newest released record of each dataset: the versions that departments see."""
    return _read(lake).released


def append_record(
    dataset_id: str,
    lake: Lake,
    record: ReleaseRecord,
    *,
    contract_version: str,
    warnings: list[str],
    verdict: str,
    sha256: str,
) -> None:
    """Record a decision in one commit; does nothing if its number is recorded already. `verdict` is canonical JSON, `sha256` its hash."""
    releases, known = lake.releases(), _read(lake)
    row = {
        **asdict(record),
        "dataset": dataset_id,
        "failed": list(record.failed),
        "contract_version": contract_version,
        "warnings": warnings,
        "verdict": verdict,
        "verdict_sha256": sha256,
    }
    version = releases.append([row], f"release:{dataset_id}", record.release, ReleaseNote(sha256))
    if version == known.version + 1:  # nothing else was written: no new scan is needed
        releases.keep(known.with_record(version, dataset_id, record))


def _read(lake: Lake) -> _NewestRecords:
    """The newest records, from the cache if no row was added since; otherwise from one scan for all datasets."""
    releases = lake.releases()
    known, version = releases.kept(_NewestRecords), releases.version
    if (
        known is None
        or known.table_id != releases.id
        or known.version > version
        # A compaction changes no rows.
        or any(releases.commit(v).changes_rows for v in range(version, known.version, -1))
    ):
        known = _scan(releases, version)
    known = replace(known, version=version)
    releases.keep(known)
    return known


def _scan(releases: Table, version: int) -> _NewestRecords:
    kept = ("release", "status", "silver_version", "silver_id", "contract_sha256", "rows", "failed", "decided_at")
    released = F.col("status") == "released"
    newest = (
        releases.read(version)
        .groupBy("dataset")
        .agg(
            F.max_by(F.struct(*kept), "release").alias("last"),
            F.max_by(F.struct(*kept), F.when(released, F.col("release"))).alias("released"),
        )
        .collect()
    )
    last, shared = {}, {}
    for row in newest:
        released_at = row["released"] and _utc(row["released"]["decided_at"])
        last[row["dataset"]] = _record(row["last"].asDict(), released_at)
        if row["released"]:
            shared[row["dataset"]] = _record(row["released"].asDict(), released_at)
    return _NewestRecords(releases.id, version, last, shared)


def _record(found: dict[str, Any], released_at: datetime | None) -> ReleaseRecord:
    moment = _utc(found["decided_at"])
    return ReleaseRecord(**{**found, "failed": tuple(found["failed"]), "decided_at": moment}, released_at=released_at)


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)  # Spark returns naive datetimes in this process's time zone
