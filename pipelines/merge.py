"""From bronze to silver: one row a key, the latest sequence, ties by offset; deletes stay as tombstones.

The order of two versions of a key is total and made of the events themselves (`tables.ORDER`), so any order and
any duplication of the same events gives the same silver. Which bronze version silver holds is in silver's own
transaction log, written by the same commit as the rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from delta.tables import DeltaTable
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from pipelines.tables import ORDER, SET_BY_MERGE, Lake, silver_schema, spark_schema
from schemas.dataset import Dataset


def merged_version(dataset: Dataset, lake: Lake) -> int:
    """The newest version of bronze that silver holds, -1 if none; of this bronze, not of one that was set aside."""
    silver = lake.silver(dataset)
    done = lake.transaction(silver, merge_application(dataset, lake))
    return (
        done
        if done >= 0 or any(c.startswith("merge:") for c in lake.applications(silver))
        else lake.transaction(silver, "merge")
    )


def merge_application(dataset: Dataset, lake: Lake) -> str:
    """The Delta transaction application id of the merge, in silver."""
    return f"merge:{lake.table_id(lake.bronze(dataset))}"


@dataclass(frozen=True)
class MergeInfo:
    """One merge: which bronze versions it took in, and silver's version after it."""

    dataset: str
    bronze_from: int
    bronze_to: int
    silver_version: int


def merge_pending(dataset: Dataset, lake: Lake) -> MergeInfo | None:
    """Bring silver up to the newest bronze version; None if it is there already.

    Doing it again, or after being killed half way, changes nothing more. StateError if another program wrote to bronze
    or silver since.
    """
    bronze, silver = lake.bronze(dataset), lake.silver(dataset)
    done, newest = merged_version(dataset, lake), lake.version(bronze)
    start = max(done + 1, 1)  # version 0 made the table and has no rows
    if newest < start:
        return None
    lake.check_own(bronze, done)
    lake.check_own(silver)
    changes = bronze_changes(lake, bronze, start, newest).where("NOT _quarantined")
    _merge(lake, silver, dataset, latest(changes, dataset), newest)
    return MergeInfo(dataset.id, start, newest, lake.version(silver))


def bronze_changes(lake: Lake, bronze: str, first: int, last: int) -> DataFrame:
    """The rows that the bronze versions from `first` to `last` appended."""
    return (
        lake.spark.read.format("delta")
        .option("readChangeFeed", "true")
        .option("startingVersion", first)
        .option("endingVersion", last)
        .load(bronze)
        .where("_change_type = 'insert'")
    )


def latest(changes: DataFrame, dataset: Dataset) -> DataFrame:
    """Of each key the version that is last in the total order."""
    newest_first = Window.partitionBy(*dataset.key).orderBy(*(F.desc(c) for c in ORDER))
    return changes.withColumn("_rank", F.row_number().over(newest_first)).where("_rank = 1")


def _merge(lake: Lake, silver: str, dataset: Dataset, latest: DataFrame, bronze_version: int) -> None:
    columns = [f.name for f in spark_schema(dataset).fields]
    order = {side: f"struct({', '.join(f'{side}.{c}' for c in ORDER)})" for side in "sc"}
    same = " AND ".join(f"s.`{c}` <=> c.`{c}`" for c in columns if c not in dataset.key) or "true"
    fate = (
        "CASE WHEN s._deleted AND c._deleted THEN 'unchanged' WHEN c._deleted THEN 'deleted' "
        f"WHEN s._deleted THEN 'inserted' WHEN {same} THEN 'unchanged' ELSE 'updated' END"
    )
    carried = [f.name for f in silver_schema(dataset).fields if f.name not in SET_BY_MERGE]
    values: dict[str, str | Column] = {f"`{c}`": f"c.`{c}`" for c in carried}
    values |= {"_bronze": str(bronze_version), "_bronze_id": f"'{lake.table_id(lake.bronze(dataset))}'"}
    replaced = "CASE WHEN s._district <> c._district THEN s._district END"
    conf = lake.spark.conf
    conf.set("spark.databricks.delta.write.txnAppId", merge_application(dataset, lake))
    conf.set("spark.databricks.delta.write.txnVersion", str(bronze_version))
    try:
        (
            DeltaTable.forPath(lake.spark, silver)
            .alias("s")
            .merge(latest.alias("c"), " AND ".join(f"s.`{k}` = c.`{k}`" for k in dataset.key))
            .whenMatchedUpdate(
                condition=f"{order['c']} > {order['s']}", set=values | {"_fate": fate, "_replaced": replaced}
            )
            .whenNotMatchedInsert(
                values=values
                | {"_fate": "CASE WHEN c._deleted THEN 'unchanged' ELSE 'inserted' END", "_replaced": "NULL"}
            )
            .execute()
        )
    finally:  # a later write under the same version would be dropped without a word
        conf.unset("spark.databricks.delta.write.txnAppId")
        conf.unset("spark.databricks.delta.write.txnVersion")
