"""The account of every record: received = inserted + updated + deleted + unchanged + superseded + duplicate + quarantined.

Each merge counts the fates of its records and commits the counts with its rows, as a note in silver's log. Here they are copied to
the account table, one row per merge and district, where they can be queried.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipelines.fates import COUNTED, FATES
from pipelines.lake.commit_notes import AccountNote, MergeNote
from pipelines.lake.lake import Lake
from pipelines.lake.progress import account_application, accounted_version, merged_version
from schemas.dataset import Dataset


def account_pending(dataset: Dataset, lake: Lake) -> int:
    """Copy the account of every merge that is not in the account table yet; the number of silver rows that these merges changed.

    Doing it again adds nothing and returns 0. Killed half way, nothing was added.
    """
    bronze, silver, account = lake.bronze(dataset), lake.silver(dataset), lake.account()
    done, merged = accounted_version(dataset, lake), merged_version(dataset, lake)
    rows: list[dict[str, Any]] = []
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    now, version = datetime.now(UTC), silver.version
    while merged > done:
        note = silver.commit(version).note
        if isinstance(note, MergeNote) and note.bronze_id == bronze.id and done < note.bronze_to <= merged:
            about = {
                "dataset": dataset.id,
                "bronze_from": note.bronze_from,
                "bronze_to": note.bronze_to,
                "bronze_id": bronze.id,
                "silver_version": version,
                "at": now,
            }
            for district, counts in note.account.items():
                rows.append({**about, "district": district, **counts})
                sums[district].update(counts)
            if note.bronze_from <= max(done + 1, 1):
                break
        version -= 1
    if merged > done:  # also if no record was merged, as after `suibus resume`: the progress is in the commit
        account.append(rows, account_application(dataset, bronze), merged, AccountNote(dataset.id, sums))
    return sum(row["inserted"] + row["updated"] + row["deleted"] for row in rows)


def unclosed_sums(dataset: Dataset, lake: Lake, rows: int) -> list[str]:
    """A description of each sum of the dataset's account that does not close; empty if all close.

    Checked: `received` is the sum of the fates in every row of the account; the sum of `received` is the number of records in bronze;
    inserted minus deleted is `rows`, the number of rows of the candidate.
    """
    bronze = lake.bronze(dataset)
    account = lake.account().read().where(F.col("dataset") == dataset.id)
    (sums,) = account.agg(
        F.count_if(F.col("received") != _all_fates()).alias("open"),
        F.sum(F.when(F.col("bronze_id") == bronze.id, F.col("received"))).alias("received"),
        F.sum(F.col("inserted") - F.col("deleted")).alias("rows"),
    ).collect()
    arrived = bronze.read(accounted_version(dataset, lake)).count()  # from Delta's statistics
    unclosed = []
    if sums["open"]:
        unclosed.append(f"received is not the sum of the fates in {sums['open']} rows of the account")
    if sums["received"] != arrived:
        unclosed.append(f"received {sums['received']} records, but bronze holds {arrived}")
    if sums["rows"] != rows:
        unclosed.append(f"inserted - deleted = {sums['rows']}, but the candidate has {rows} rows")
    return unclosed


def account_totals(account: DataFrame) -> DataFrame:
    """The sums of the account by dataset and district, and whether the account closes in each of its rows (`closes`)."""
    sums = [F.sum(c).alias(c) for c in COUNTED]
    closes = F.every(F.col("received") == _all_fates()).alias("closes")
    return account.groupBy("dataset", "district").agg(*sums, closes).orderBy("dataset", "district")


def _all_fates() -> Column:
    return sum((F.col(f) for f in FATES), F.lit(0))
