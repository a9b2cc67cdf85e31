"""Where every record went: received = inserted + updated + deleted + unchanged + superseded + duplicate + quarantined.

Each merge adds a row a district. It is counted by the merge, and committed with its rows in silver's log; here it is copied
to a table of its own, which any reader can query.
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
    """Copy the account of what was merged since; the number of rows that it changed in silver, 0 if nothing was pending.

    Doing it again adds nothing.
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
    if rows:
        account.append(rows, account_application(dataset, bronze), merged, AccountNote(dataset.id, sums))
    return sum(row["inserted"] + row["updated"] + row["deleted"] for row in rows)


def unclosed_sums(dataset: Dataset, lake: Lake, rows: int) -> list[str]:
    """Each sum of the dataset's account that does not close, none if all do; `rows` is the number of rows of the candidate.

    Checked: received is the sum of the fates, for every batch and district; what was received is what bronze holds; the rows of
    the candidate are those inserted and not deleted since.
    """
    bronze = lake.bronze(dataset)
    account = lake.account().read().where(F.col("dataset") == dataset.id)
    (sums,) = account.agg(
        F.count_if(F.col("received") != _all_fates()).alias("open"),
        F.sum(F.when(F.col("bronze_id") == bronze.id, F.col("received"))).alias("received"),
        F.sum(F.col("inserted") - F.col("deleted")).alias("rows"),
    ).collect()
    arrived = bronze.read(accounted_version(dataset, lake)).count()  # from Delta's statistics
    found = []
    if sums["open"]:
        found.append(f"{sums['open']} batches whose received is not the sum of their fates")
    if sums["received"] != arrived:
        found.append(f"received {sums['received']}, bronze holds {arrived}")
    if sums["rows"] != rows:
        found.append(f"inserted - deleted = {sums['rows']}, the candidate has {rows} rows")
    return found


def account_totals(account: DataFrame) -> DataFrame:
    """The conservation sum of each district and dataset, and whether it closes for every batch of theirs."""
    sums = [F.sum(c).alias(c) for c in COUNTED]
    closes = F.every(F.col("received") == _all_fates()).alias("closes")
    return account.groupBy("dataset", "district").agg(*sums, closes).orderBy("dataset", "district")


def _all_fates() -> Column:
    return sum((F.col(f) for f in FATES), F.lit(0))
