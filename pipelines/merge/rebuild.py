"""Rebuild a table: silver from bronze, or bronze from the topics. Old versions or the old table are kept."""

from __future__ import annotations

from pyspark.sql import functions as F

from pipelines.lake.bronze import appended_files
from pipelines.lake.lake import Lake
from pipelines.lake.progress import accounted_version, merge_application, merged_version
from pipelines.lake.spark_jvm import SPARK_ERRORS
from pipelines.lake.table_schemas import silver_schema
from pipelines.merge.winner import latest
from schemas.dataset import Dataset
from schemas.errors import StateError


def rebuild_silver(dataset: Dataset, lake: Lake) -> None:
    """Rebuild silver from all bronze versions that are accounted for; the next pass merges the later ones.

    The result is a new version of the table, so released versions stay readable. If the table cannot be read, or holds a merge
    that is not accounted for, it is set aside and a new table is made. Killed half way and run again, the result is the same.
    """
    done = accounted_version(dataset, lake)
    try:
        can_stay = merged_version(dataset, lake) in (-1, done)  # -1: nothing was merged yet
    except (*SPARK_ERRORS, StateError):
        can_stay = False
    if not can_stay:  # the merge must be repeated, and a table skips a merge that it already holds
        lake.set_aside("silver", dataset)
    silver = lake.silver(dataset)
    if done < 1:
        return
    bronze = lake.bronze(dataset)
    rows = latest(bronze.rows(appended_files(bronze, 1, done, quarantined=False)), dataset)
    columns = [F.col(f"`{f.name}`").cast(f.dataType) for f in silver_schema(dataset)]
    silver.overwrite(rows.select(columns), merge_application(bronze), done)


def rebuild_bronze(dataset: Dataset, lake: Lake) -> None:
    """Set bronze aside, so that the next pass ingests again every record that the topics still hold.

    Silver stays: its rows are never older than the records ingested again, so it keeps also what the topics no longer hold.
    """
    lake.set_aside("bronze", dataset)
