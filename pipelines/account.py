"""Where every record went: received = inserted + updated + deleted + unchanged + superseded + duplicate + quarantined.

Each merge adds a row a district. The fate of the version of a key that won is in silver, written by the merge
itself; the others are found by joining the merged events with it. The account can therefore be taken after the
merge, and after a crash between the two.
"""

from __future__ import annotations

from datetime import UTC, datetime

from pyspark.sql import Column, DataFrame
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
    fates = _fates(events, lake.read(silver, version), dataset, merged)
    counts = (
        events.groupBy("_district")
        .agg(F.count("*").alias("received"), F.count_if("_quarantined").alias("quarantined"))
        .join(fates, "_district", "left")
        .collect()
    )
    now = datetime.now(UTC)
    rows = []
    for count in counts:
        values = count.asDict()
        values.update(
            dataset=dataset.id,
            district=values.pop("_district"),
            bronze_from=first,
            bronze_to=merged,
            silver_version=version,
            at=now,
        )
        rows.append(tuple(0 if values[f.name] is None else values[f.name] for f in ACCOUNT.fields))
    (
        lake.spark.createDataFrame(rows, ACCOUNT)
        .coalesce(1)
        .write.format("delta")
        .mode("append")
        .option("txnAppId", application)
        .option("txnVersion", merged)
        .save(path)
    )
    return sum(c["inserted"] + c["updated"] + c["deleted"] for c in counts if c["inserted"] is not None)


def account_totals(account: DataFrame) -> DataFrame:
    """The conservation sum of each district and dataset, and whether it closes."""
    sums = [F.sum(c).alias(c) for c in ("received", *FATES, "lost_to_other_district", "took_from_other_district")]
    closes = F.col("received") == sum((F.col(f) for f in FATES), F.lit(0))
    return account.groupBy("dataset", "district").agg(*sums).withColumn("closes", closes).orderBy("dataset", "district")


def _fates(events: DataFrame, silver: DataFrame, dataset: Dataset, merged: int) -> DataFrame:
    """Counts of each fate by district, quarantined ones left out.

    Rows that this merge touched lie in the files it wrote, so the join skips the rest of silver by statistics;
    only a key whose every event was older than silver already was has to be looked up in all of it.
    """
    key, event = list(dataset.key), F.struct(*EVENT)
    unique = (
        events.where("NOT _quarantined")
        .groupBy(*key, "_district", event.alias("_event"))
        .agg(F.count("*").alias("copies"))
    )
    of_silver: list[Column] = [
        *(F.col(k) for k in key), event.alias("_winner"), F.col("_district").alias("_holder"), F.col("_fate"), F.col("_replaced"),
    ]  # fmt: skip
    touched = F.broadcast(silver.where(F.col("_bronze") == merged).select(*of_silver, F.lit(True).alias("_touched")))
    joined = unique.join(touched, key, "left")
    older = joined.where("_touched IS NULL").select(*key, "_district", "_event", "copies")
    resolved = joined.where("_touched")
    if not older.isEmpty():
        late = older.join(silver.select(*of_silver, F.lit(False).alias("_touched")), key, "left")
        resolved = resolved.unionByName(late)
    won = F.col("_event") == F.col("_winner")
    fate = F.when(won & F.col("_touched"), F.col("_fate")).when(won, F.lit("duplicate")).otherwise(F.lit("superseded"))
    fated = resolved.withColumn("fate", fate)
    counted = [
        F.coalesce(F.sum(F.when(F.col("fate") == name, 1)), F.lit(0)).alias(name)
        for name in FATES
        if name not in ("quarantined", "duplicate")
    ]
    copies = F.sum(F.col("copies") - 1 + F.when(F.col("fate") == "duplicate", 1).otherwise(0)).alias("duplicate")
    lost = F.count_if((F.col("fate") == "superseded") & (F.col("_holder") != F.col("_district")))
    took = F.count_if(won & F.col("_touched") & F.col("_replaced").isNotNull())
    return fated.groupBy("_district").agg(
        *counted, copies, lost.alias("lost_to_other_district"), took.alias("took_from_other_district")
    )
