"""Where every record went: received = inserted + updated + deleted + unchanged + superseded + duplicate + quarantined.

Each merge adds a row a district. The fate of the version of a key that won is in silver, written by the merge
itself; the others are found by joining the merged events with it. The account can therefore be taken after the
merge, and after a crash between the two.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from pipelines.merge import APPLICATION as MERGE
from pipelines.merge import bronze_changes
from pipelines.tables import ACCOUNT, EVENT, FATES, Lake
from schemas.dataset import Dataset


def account_pending(dataset: Dataset, lake: Lake) -> int:
    """Account for what the last merge took in; the number of rows it changed in silver, 0 if nothing was pending.

    Must follow each merge before the next. Doing it again adds nothing.
    """
    bronze, silver, path = lake.bronze(dataset), lake.silver(dataset), lake.account()
    application = f"account:{dataset.id}"
    done, merged = lake.transaction(path, application), lake.transaction(silver, MERGE)
    if merged <= done:
        return 0
    first, version = max(done + 1, 1), lake.version(silver)
    events = bronze_changes(lake, bronze, first, merged)
    received = events.groupBy("_district").agg(
        F.count("*").alias("received"), F.count_if("_quarantined").alias("quarantined")
    )
    counts: dict[str, Counter[str]] = {
        row["_district"]: Counter(received=row["received"], quarantined=row["quarantined"])
        for row in received.collect()
    }
    for row in _fates(events, lake.read(silver, version), dataset, merged):
        counts[row["_district"]][row["fate"]] += row["events"]
        counts[row["_district"]]["duplicate"] += row["copies"]
        counts[row["_district"]]["lost_to_other_district"] += row["lost"]
        counts[row["_district"]]["took_from_other_district"] += row["took"]
    fixed: dict[str, Any] = {
        "dataset": dataset.id,
        "bronze_from": first,
        "bronze_to": merged,
        "silver_version": version,
    }
    fixed["at"] = datetime.now(UTC)
    empty = dict.fromkeys(ACCOUNT.names, 0)
    rows = [{**empty, **count, "district": district, **fixed} for district, count in sorted(counts.items())]
    lake.append(path, rows, ACCOUNT, application, merged)
    return sum(count["inserted"] + count["updated"] + count["deleted"] for count in counts.values())


def account_totals(account: DataFrame) -> DataFrame:
    """The conservation sum of each district and dataset, and whether it closes."""
    sums = [F.sum(c).alias(c) for c in ("received", *FATES, "lost_to_other_district", "took_from_other_district")]
    closes = F.col("received") == sum((F.col(f) for f in FATES), F.lit(0))
    return account.groupBy("dataset", "district").agg(*sums).withColumn("closes", closes).orderBy("dataset", "district")


def _fates(events: DataFrame, silver: DataFrame, dataset: Dataset, merged: int) -> list[Row]:
    """How many events of each district had each fate, quarantined ones left out.

    Rows that this merge touched lie in the files it wrote, so the join skips the rest of silver by statistics;
    only a key whose every event was older than silver already was has to be looked up in all of it.
    """
    key, event = list(dataset.key), F.struct(*EVENT)
    unique = (
        events.where("NOT _quarantined")
        .groupBy(*key, "_district", event.alias("_event"))
        .agg((F.count("*") - 1).alias("_copies"))
    )
    holders = silver.select(
        *key, event.alias("_winner"), F.col("_district").alias("_holder"), "_bronze", "_fate", "_replaced"
    )
    touched = unique.join(holders.where(F.col("_bronze") == merged), key, "left")
    rows = _count_fates(touched, merged)
    if any(row["fate"] is None for row in rows):
        late = touched.where("_winner IS NULL").select(*key, "_district", "_event", "_copies")
        rows = [row for row in rows if row["fate"] is not None] + _count_fates(late.join(holders, key, "left"), merged)
    return rows


def _count_fates(joined: DataFrame, merged: int) -> list[Row]:
    """Events joined with the silver row of their key, if any, by district and fate; no row, no fate yet."""
    won = F.col("_event") == F.col("_winner")
    mine = won & (F.col("_bronze") == merged)
    fate = (
        F.when(mine, F.col("_fate"))
        .when(won, F.lit("duplicate"))
        .when(F.col("_winner").isNotNull(), F.lit("superseded"))
    )
    return (
        joined.groupBy("_district", fate.alias("fate"))
        .agg(
            F.count("*").alias("events"),
            F.sum("_copies").alias("copies"),
            F.count_if(~won & (F.col("_holder") != F.col("_district"))).alias("lost"),
            F.count_if(mine & F.col("_replaced").isNotNull()).alias("took"),
        )
        .collect()
    )
