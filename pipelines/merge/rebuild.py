"""Making a table again: silver from bronze, bronze from the topics. What was there is kept, out of the way."""

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
    """Make silver again from bronze, as far as bronze is accounted for; the next pass merges the rest.

    It is a new version of the table, so that released versions stay as they are; where the table itself cannot be read
    any more it is set aside and made anew. Killed half way and run again, it does the same.
    """
    done = accounted_version(dataset, lake)
    try:
        whole = merged_version(dataset, lake) in (-1, done)  # -1: nothing was ever merged into it
    except (*SPARK_ERRORS, StateError):
        whole = False
    if not whole:  # a merge that is not accounted for must be done again, which its table would not let
        lake.set_aside(f"silver/{dataset.id}")
    silver = lake.silver(dataset)
    if done < 1:
        return
    bronze = lake.bronze(dataset)
    rows = latest(bronze.rows(appended_files(bronze, 1, done, quarantined=False)), dataset)
    columns = [F.col(f"`{f.name}`").cast(f.dataType) for f in silver_schema(dataset)]
    silver.overwrite(rows.select(columns), merge_application(bronze), done)


def rebuild_bronze(dataset: Dataset, lake: Lake) -> None:
    """Set bronze aside, so that the next pass takes everything that the topics still hold again.

    Silver stays: what it holds is never older than what is taken again, so nothing is lost that the topics no longer hold.
    """
    lake.set_aside(f"bronze/{dataset.id}")
