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

from pipelines.lake.lake import ACCOUNT, COUNTED, Lake
from pipelines.merge.merge import merged_version
from pipelines.sync_info import FATES
from schemas.dataset import Dataset


def account_pending(dataset: Dataset, lake: Lake) -> int:
    """Copy the account of what was merged since; the number of rows that it changed in silver, 0 if nothing was pending.

    Doing it again adds nothing.
    """
    bronze, silver, path = lake.bronze(dataset), lake.silver(dataset), lake.account()
    done, merged = accounted_version(dataset, lake), merged_version(dataset, lake)
    rows: list[dict[str, Any]] = []
    said: dict[str, Counter[str]] = defaultdict(Counter)
    fixed = {"dataset": dataset.id, "bronze_id": lake.table_id(bronze), "at": datetime.now(UTC)}
    version = lake.version(silver)
    while merged > done:
        first, last, table = (found := lake.commit(silver, version).metadata).get("bronze", (0, 0, None))
        if table == fixed["bronze_id"] and done < last <= merged:
            about = {**fixed, "bronze_from": first, "bronze_to": last, "silver_version": version}
            for district, counts in found["account"].items():
                rows.append({**about, "district": district, **counts})
                said[district].update(counts)
            if first <= max(done + 1, 1):
                break
        version -= 1
    if rows:
        lake.append(path, rows, ACCOUNT, _application(dataset, lake), merged, {"dataset": dataset.id, "account": said})
    return sum(row["inserted"] + row["updated"] + row["deleted"] for row in rows)


def accounted_version(dataset: Dataset, lake: Lake) -> int:
    """The newest version of bronze that is accounted for, -1 if none."""
    path = lake.account()
    done = lake.transaction(path, _application(dataset, lake))
    if done >= 0 or any(a.startswith(f"account:{dataset.id}:") for a in lake.applications(path)):
        return done
    return lake.transaction(path, f"account:{dataset.id}")  # a lake of Suibus 0.1


def _application(dataset: Dataset, lake: Lake) -> str:
    return f"account:{dataset.id}:{lake.table_id(lake.bronze(dataset))}"


def open_sums(dataset: Dataset, lake: Lake, rows: int) -> list[str]:
    """What of the dataset's account does not close, empty if all does; `rows` is what the candidate for release has.

    Checked: of every batch and district, received is the sum of its fates; all that was received is all that bronze holds;
    the rows there are, are those inserted and not deleted since.
    """
    bronze = lake.bronze(dataset)
    account = lake.read(lake.account()).where(F.col("dataset") == dataset.id)
    here = F.coalesce(F.col("bronze_id") == lake.table_id(bronze), F.lit(True))
    (sums,) = account.agg(
        F.count_if(F.col("received") != _all_fates()).alias("open"),
        F.sum(F.when(here, F.col("received"))).alias("received"),
        F.sum(F.col("inserted") - F.col("deleted")).alias("rows"),
    ).collect()
    arrived = lake.read(bronze, accounted_version(dataset, lake)).count()  # from Delta's statistics
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
