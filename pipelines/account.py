"""Where every record went: received = inserted + updated + deleted + unchanged + superseded + duplicate + quarantined.

Each merge adds a row a district. The fate of the version of a key that won is in silver, written by the merge
itself; the others are found by joining the merged events with it. The account can therefore be taken after the
merge, and after a crash between the two.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from pipelines.merge import bronze_changes, merged_version
from pipelines.tables import ACCOUNT, EVENT, FATES, Lake
from schemas.dataset import Dataset


def account_pending(dataset: Dataset, lake: Lake) -> int:
    """Account for what the last merge took in; the number of rows it changed in silver, 0 if nothing was pending.

    Must follow each merge before the next. Doing it again adds nothing.
    """
    bronze, silver, path = lake.bronze(dataset), lake.silver(dataset), lake.account()
    done, merged = accounted_version(dataset, lake), merged_version(dataset, lake)
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
    mine = (F.col("_bronze") == merged) & (F.col("_bronze_id") == lake.table_id(bronze))
    for row in _fates(events, lake.read(silver, version), dataset, mine):
        counts[row["_district"]][row["fate"]] += row["events"]
        counts[row["_district"]]["duplicate"] += row["copies"]
        counts[row["_district"]]["lost_to_other_district"] += row["lost"]
        counts[row["_district"]]["took_from_other_district"] += row["took"]
    fixed: dict[str, Any] = {
        "dataset": dataset.id,
        "bronze_from": first,
        "bronze_to": merged,
        "bronze_id": lake.table_id(bronze),
        "silver_version": version,
    }
    fixed["at"] = datetime.now(UTC)
    empty = dict.fromkeys(ACCOUNT.names, 0)
    rows = [{**empty, **count, "district": district, **fixed} for district, count in sorted(counts.items())]
    lake.append(path, rows, ACCOUNT, _application(dataset, lake), merged)
    return sum(count["inserted"] + count["updated"] + count["deleted"] for count in counts.values())


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
    sums = [F.sum(c).alias(c) for c in ("received", *FATES, "lost_to_other_district", "took_from_other_district")]
    closes = F.every(F.col("received") == _all_fates()).alias("closes")
    return account.groupBy("dataset", "district").agg(*sums, closes).orderBy("dataset", "district")


def _all_fates() -> Column:
    return sum((F.col(f) for f in FATES), F.lit(0))


def _fates(events: DataFrame, silver: DataFrame, dataset: Dataset, mine: Column) -> list[Row]:
    """How many events of each district had each fate, quarantined ones left out; `mine`: the merge touched the row.

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
        *key,
        event.alias("_winner"),
        F.col("_district").alias("_holder"),
        F.coalesce(mine, F.lit(False)).alias("_mine"),
        "_bronze",
        "_bronze_id",
        "_fate",
        "_replaced",
    )
    touched = unique.join(holders.where(mine), key, "left")
    rows = _count_fates(touched)
    if any(row["fate"] is None for row in rows):
        late = touched.where("_winner IS NULL").select(*key, "_district", "_event", "_copies")
        rows = [row for row in rows if row["fate"] is not None] + _count_fates(late.join(holders, key, "left"))
    return rows


def _count_fates(joined: DataFrame) -> list[Row]:
    """Events joined with the silver row of their key, if any, by district and fate; no row, no fate yet."""
    won = F.col("_event") == F.col("_winner")
    mine = won & F.col("_mine")
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
