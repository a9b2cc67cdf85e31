"""The ways back: silver made again from bronze, bronze from the topics. What was there is kept, out of the way."""

from __future__ import annotations

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import functions as F

from pipelines.lake.lake import Lake, silver_schema
from pipelines.merge.account import accounted_version
from pipelines.merge.merge import bronze_files, bronze_rows, latest, merge_application, merged_version
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
    except (PySparkException, Py4JJavaError, StateError):
        whole = False
    if not whole:  # a merge that is not accounted for must be done again, which its table would not let
        lake.set_aside(f"silver/{dataset.id}")
    silver = lake.silver(dataset)
    if done < 1:
        return
    bronze = lake.bronze(dataset)
    rows = latest(bronze_rows(lake, bronze, bronze_files(lake, bronze, 1, done, quarantined=False)), dataset)
    columns = [F.col(f"`{f.name}`").cast(f.dataType) for f in silver_schema(dataset)]
    lake.overwrite(silver, rows.select(columns), merge_application(dataset, lake), done)


def rebuild_bronze(dataset: Dataset, lake: Lake) -> None:
    """Set bronze aside, so that the next pass takes everything that the topics still hold again.

    Silver stays: what it has is never older than what comes again, so nothing is lost that the topics no longer hold.
    """
    lake.set_aside(f"bronze/{dataset.id}")
