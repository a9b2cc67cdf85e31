"""From silver to a released version: the gate judges the candidate, and a pointer says which version is shared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.lake.lake import NOT_ANSI, RELEASE, Lake
from pipelines.merge.account import open_sums
from pipelines.merge.merge import merged_version
from pipelines.release.carried_counts import carry
from quality.gate import judge
from quality.verdict import Result, Verdict
from schemas.dataset import Dataset

RECORD = ("release", "status", "silver_version", "silver_id", "contract_sha256", "rows", "failed", "decided_at")
RELEASED = ("release", "silver_version", "silver_id", "contract_sha256", "rows", "decided_at")


@dataclass(frozen=True)
class ReleaseInfo:
    """One decision: the verdict, and whether the candidate was released or held."""

    dataset: str
    release: int
    status: str  # released or held
    verdict: Verdict
    record: dict[str, Any]  # as `last_records` gives it


@dataclass(frozen=True)
class Records:
    """What the releases say at one version of their table, by dataset id."""

    table: str  # its id: a table made anew has another
    version: int
    last: dict[str, dict[str, Any]]  # the newest record, released or held
    released: dict[str, dict[str, Any]]  # the newest that was released

    def plus(self, dataset_id: str, record: Mapping[str, Any]) -> Records:
        """With the record of the next version."""
        released = {dataset_id: {n: record[n] for n in RELEASED}} if record["status"] == "released" else {}
        return Records(
            self.table, self.version + 1, {**self.last, dataset_id: dict(record)}, {**self.released, **released}
        )


def last_records(lake: Lake) -> dict[str, dict[str, Any]]:
    """The newest record of each dataset, released or held, by dataset id.

    `released_at` beside it is when a version was last released, None if none ever was.
    """
    return dict(_records(lake).last)


def released_versions(lake: Lake) -> dict[str, dict[str, Any]]:
    """The last released (not held) record of each dataset, by dataset id."""
    return dict(_records(lake).released)


def _records(lake: Lake) -> Records:
    """One scan for all; none where no rows came since the last."""
    path = lake.releases()
    known, version = lake.records.get(path), lake.version(path)
    if (
        not known
        or known.table != lake.table_id(path)
        or known.version > version
        or any(
            lake.commit(path, v).changes_rows  # compaction changes none
            for v in range(version, known.version, -1)
        )
    ):
        known = _scan(lake, path, version)
    lake.records[path] = known = replace(known, version=version)
    return known


def _scan(lake: Lake, path: str, version: int) -> Records:
    released = F.col("status") == "released"
    newest = (
        lake.read(path, version)
        .groupBy("dataset")
        .agg(
            F.max_by(F.struct(*RECORD), "release").alias("last"),
            F.max(F.when(released, F.col("decided_at"))).alias("released_at"),
            F.max_by(F.struct(*RELEASED), F.when(released, F.col("release"))).alias("released"),
        )
        .collect()
    )
    last = {row["dataset"]: {**row["last"].asDict(), "released_at": row["released_at"]} for row in newest}
    for record in last.values():  # Spark hands out naive datetimes in this process's zone
        for name in ("decided_at", "released_at"):
            record[name] = record[name].astimezone(UTC) if record[name] else None
    shared = {row["dataset"]: row["released"].asDict() for row in newest if row["released_at"]}
    for record in shared.values():
        record["decided_at"] = record["decided_at"].astimezone(UTC)
    return Records(lake.table_id(path), version, last, shared)


def release_version(
    dataset: Dataset, lake: Lake, last: Mapping[str, Any] | None, changed: bool = False, alone: bool = True
) -> ReleaseInfo | None:
    """Judge silver's newest version and record the decision; None if there is nothing new to judge.

    `last` is the dataset's newest record, from `last_records`; `changed` says that merges since then are known
    to have changed rows; else the account is asked. A held candidate changes nothing for departments:
    the last released version stays in force. Killed before the record is written, the next run judges again.
    A dataset whose account does not close is held. RuntimeError, and no record, if a rule could not be judged and the
    process is not this dataset's `alone`, for another may have been the reason. StateError if another program wrote to silver.
    """
    silver, path = lake.silver(dataset), lake.releases()
    if merged_version(dataset, lake) < 0:
        return None  # nothing was ever merged
    version, table = lake.version(silver), lake.table_id(silver)
    same_table = last is None or last["silver_id"] in (None, table)
    if same_table and (last is None or last["contract_sha256"] == dataset.hash):
        judged = last["silver_version"] if last else 0
        if judged == version:
            return None
        rebuilt = lake.commit(silver, version).operation == "WRITE"
        if not (changed or rebuilt or _changed_since(lake, dataset, judged)):
            return None
    lake.check_own(silver)
    lake.spark.conf.set(*NOT_ANSI)
    candidate, account = shared_rows(lake, dataset, version), lake.version(lake.account())
    if known := carry(dataset, lake, last, version):
        verdict = judge(candidate, dataset, version, known.counts, known.rows)
        verdict = _with_account(replace(verdict, counted_at=known.counted_at), known.unclosed)
    else:
        verdict = judge(candidate, dataset, version)
        verdict = _with_account(verdict, open_sums(dataset, lake, verdict.rows))
    if not alone and (error := next((r.error for r in verdict.results if r.error), None)):
        raise RuntimeError(error)
    verdict = replace(verdict, account_version=account)
    number = (last["release"] if last else 0) + 1
    status = "released" if verdict.passed else "held"
    row = {
        "dataset": dataset.id,
        "release": number,
        "status": status,
        "silver_version": version,
        "silver_id": table,
        "rows": verdict.rows,
        "contract_version": dataset.version,
        "contract_sha256": dataset.hash,
        "verdict_sha256": verdict.sha256,
        "failed": [r.rule for r in verdict.failures if r.severity == "critical"],
        "warnings": [r.rule for r in verdict.failures if r.severity != "critical"],
        "decided_at": datetime.now(UTC),
        "verdict": verdict.to_json(),
    }
    released_at = row["decided_at"] if verdict.passed else last["released_at"] if last else None
    record = {name: row[name] for name in RECORD} | {"released_at": released_at}
    with lake.shared:
        before, mark = lake.version(path), {"verdict": verdict.sha256}
        lake.append(path, [row], RELEASE, f"release:{dataset.id}", number, mark)
        read = lake.records.get(path)
        if read and read.version == before and lake.commit(path, before + 1).metadata == mark:
            lake.records[path] = read.plus(dataset.id, record)  # no need to read again what was just written
    lake.verdicts[dataset.id] = asdict(verdict)
    return ReleaseInfo(dataset.id, number, status, verdict, record)


def _with_account(verdict: Verdict, unclosed: list[str]) -> Verdict:
    """The verdict with one rule more: that the account closes."""
    text = (
        "Received is inserted + updated + deleted + unchanged + superseded + duplicate + quarantined, of every batch and "
        "district, and the rows are those inserted and not deleted. 收支平衡：接收数等于各去向之和，行数等于新增减删除。"
    )
    samples = tuple({"account": found} for found in unclosed)
    result = Result("account_closes", "critical", not unclosed, "account", {}, len(unclosed), samples, None, text)
    return replace(verdict, results=(*verdict.results, result), passed=verdict.passed and not unclosed)


def shared_rows(lake: Lake, dataset: Dataset, version: int) -> DataFrame:
    """A silver version as departments see it: the contract's columns, deleted rows left out."""
    silver = lake.read(lake.silver(dataset), version)
    names = [f.name for f in dataset.table_fields]
    present = [F.col(n) if n in silver.columns else F.lit(None).alias(n) for n in names]
    return silver.where("NOT _deleted").select(*present)


def _changed_since(lake: Lake, dataset: Dataset, judged: int) -> bool:
    """Whether a merge after the judged version changed any row; if none did, there is nothing new to judge."""
    later = lake.read(lake.account()).where((F.col("dataset") == dataset.id) & (F.col("silver_version") > judged))
    return not later.where("inserted + updated + deleted > 0").isEmpty()
