"""From silver to a release: the gate judges the candidate, and a record says whether that version is shared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.lake.lake import Lake
from pipelines.lake.progress import merged_version
from pipelines.lake.table_schemas import NOT_ANSI
from pipelines.merge.account import unclosed_sums
from pipelines.release.carried_counts import carry_counts
from pipelines.release.release_record import ReleaseRecord, Status
from pipelines.release.release_table import append_record
from quality.gate import judge
from quality.verdict import Result, Verdict
from schemas.dataset import Dataset


@dataclass(frozen=True)
class ReleaseInfo:
    """One decision: the verdict and the release record."""

    dataset: str
    verdict: Verdict
    record: ReleaseRecord

    @property
    def status(self) -> Status:
        """Whether the candidate was released or held."""
        return self.record.status


def release_version(
    dataset: Dataset, lake: Lake, last: ReleaseRecord | None, changed: bool = False, alone: bool = True
) -> ReleaseInfo | None:
    """Judge silver's newest version and record the decision; None if there is nothing new to judge.

    If the candidate is held, departments keep the last released version. A candidate whose account does not close is held. Killed
    before the record is written, the next run judges again.

    `last`: the dataset's newest record. `changed`: merges since then changed rows; if False, the account is read to find out. With
    `alone` False, a rule that could not be evaluated raises RuntimeError and nothing is recorded, since a dataset running in
    parallel may have caused it. StateError if another program wrote to silver.
    """
    if merged_version(dataset, lake) < 0:
        return None  # nothing was ever merged
    silver = lake.silver(dataset)
    version = silver.version
    if last is None or (last.silver_id == silver.id and last.contract_sha256 == dataset.hash):
        judged = last.silver_version if last else 0
        if judged == version:
            return None
        rebuilt = silver.commit(version).operation == "WRITE"
        if not (changed or rebuilt or _changed_since(lake, dataset, judged)):
            return None
    silver.check_own()
    verdict = _judged(dataset, lake, last, version)
    if not alone and (error := next((r.error for r in verdict.results if r.error), None)):
        raise RuntimeError(error)
    now = datetime.now(UTC)
    failed, warnings = (
        [r.rule for r in verdict.failures if (r.severity == "critical") == critical] for critical in (True, False)
    )
    record = ReleaseRecord(
        release=(last.release if last else 0) + 1,
        status="released" if verdict.passed else "held",
        silver_version=version,
        silver_id=silver.id,
        contract_sha256=dataset.hash,
        rows=verdict.rows,
        failed=tuple(failed),
        decided_at=now,
        released_at=now if verdict.passed else last.released_at if last else None,
    )
    append_record(
        dataset.id, lake, record,
        contract_version=dataset.version, warnings=warnings, verdict=verdict.to_json(), sha256=verdict.sha256,
    )  # fmt: skip
    silver.keep(verdict)
    return ReleaseInfo(dataset.id, verdict, record)


def _judged(dataset: Dataset, lake: Lake, last: ReleaseRecord | None, version: int) -> Verdict:
    """The gate's verdict on a version of silver, with the rule that the account closes."""
    lake.spark.conf.set(*NOT_ANSI)
    candidate, account_version = shared_rows(lake, dataset, version), lake.account().version
    if known := carry_counts(dataset, lake, last, version):
        verdict = judge(candidate, dataset, version, known.counts, known.rows)
        verdict = _with_account(replace(verdict, counted_at=known.counted_at), known.unclosed_sums)
    else:
        verdict = judge(candidate, dataset, version)
        verdict = _with_account(verdict, unclosed_sums(dataset, lake, verdict.rows))
    return replace(verdict, account_version=account_version)


def _with_account(verdict: Verdict, unclosed_sums: list[str]) -> Verdict:
    """The verdict with the result of one more rule: the account closes."""
    text = (
        "Received is inserted + updated + deleted + unchanged + superseded + duplicate + quarantined, for every batch and "
        "district, and the number of rows is inserted minus deleted. 收支平衡：每批、每区的接收数等于各去向之和，行数等于新增数减删除数。"
    )
    samples = tuple({"account": found} for found in unclosed_sums)
    result = Result(
        "account_closes", "critical", not unclosed_sums, "account", {}, len(unclosed_sums), samples, None, text
    )
    return replace(verdict, results=(*verdict.results, result), passed=verdict.passed and not unclosed_sums)


def shared_rows(lake: Lake, dataset: Dataset, version: int) -> DataFrame:
    """A silver version as departments see it: the contract's columns, without deleted rows."""
    silver = lake.silver(dataset).read(version)
    names = [f.name for f in dataset.table_fields]
    present = [F.col(n) if n in silver.columns else F.lit(None).alias(n) for n in names]
    return silver.where("NOT _deleted").select(*present)


def _changed_since(lake: Lake, dataset: Dataset, judged: int) -> bool:
    """Whether a merge after the judged version changed any row, according to the account."""
    later = lake.account().read().where((F.col("dataset") == dataset.id) & (F.col("silver_version") > judged))
    return not later.where("inserted + updated + deleted > 0").isEmpty()
