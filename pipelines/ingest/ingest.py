"""From the topics to bronze: every record exactly once; records that break a row rule are quarantined.

A batch of a dataset is one read of planned offset ranges and one append commit, which also holds the position after the batch.
Nothing is read back and nothing is merged here. Quarantine is a partition of bronze, not a separate table: one commit writes
every record, so after a crash no record is both quarantined and accepted, and none is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

from pyspark.sql import DataFrame

from pipelines.ingest.decode import bronze_rows, quarantine_all, quarantine_unreadable
from pipelines.ingest.find_bad_records import can_be_computed, find_bad_ranges, subtract_ranges
from pipelines.ingest.offsets import Plan, Range, plan
from pipelines.ingest.read import read_ranges
from pipelines.ingest.topic_changes import position_after_change
from pipelines.ingest.topics import Topics, TopicState
from pipelines.lake.commit_notes import IngestNote
from pipelines.lake.delta import written_by_another
from pipelines.lake.lake import Lake
from pipelines.lake.position import Position
from pipelines.lake.progress import INGEST, ingested_position
from pipelines.lake.spark_jvm import SPARK_ERRORS, cause, drop_kafka_data
from pipelines.lake.table import Table
from pipelines.lake.table_log import count_rows
from schemas.dataset import Dataset
from schemas.errors import UnavailableError
from schemas.store import ContractStore
from schemas.wire.registry import Registry


@dataclass(frozen=True)
class Batch:
    """One batch of a dataset, committed to bronze. `records` is 0 if none were waiting; then nothing was committed."""

    records: int
    after: Position  # the position after the batch
    waiting: int = 0  # offsets left for the next batch
    drained: bool = False  # all waiting records of some district are ingested


def ingest_batch(
    dataset: Dataset,
    lake: Lake,
    store: ContractStore,
    kafka: Topics,
    states: Mapping[str, TopicState],
    registry: Registry | None = None,
    alone: bool = True,
) -> Batch:
    """Append the dataset's next batch to bronze.

    Killed anywhere and run again, each record is in bronze once: one commit holds the rows and the position after them.
    If Spark fails, the records that caused it (unreadable, or a rule cannot be evaluated) are found and quarantined, the others
    ingested. With `alone` False Spark's error is raised instead, since a dataset running in parallel may have caused it.
    StateError if a topic was deleted, recreated, truncated or given partitions; UnavailableError if Kafka, the registry or
    the lake is unavailable. On an error nothing is ingested.
    """
    bronze = lake.bronze(dataset)
    # Read before the position: of two processes only one can commit this number.
    number = bronze.transaction(INGEST) + 1
    position = ingested_position(bronze)
    planned = plan(dataset, position, states)
    if not planned.ranges:
        return Batch(0, position)

    def rows(records: DataFrame) -> DataFrame:
        return bronze_rows(records, dataset, store, registry)

    records = read_ranges(lake.spark, kafka.access, planned.ranges)
    if registry:
        records = records.persist()  # the registry ids are collected first: without it Kafka would be read twice
    try:
        try:
            taken = _append(bronze, rows(records), planned.after, number)
        except SPARK_ERRORS as error:
            drop_kafka_data(lake.spark)
            states = kafka.states(states)  # raises if Kafka is unavailable
            plan(dataset, position, states)  # raises if a topic has changed
            if not alone:
                raise
            if can_be_computed(rows(records)):
                raise UnavailableError(
                    f"Bronze of {dataset.name} cannot be written; nothing was skipped: {cause(error)}. Check the lake and its "
                    "disk; the next pass ingests the same records again.",
                    f"无法写入 {dataset.name} 的 bronze 表，未跳过任何记录：{cause(error)}。请检查数据湖及其磁盘；"
                    "下一轮将重新入库同一批记录。",
                ) from error
            rows_to_append = _with_bad_quarantined(dataset, lake, store, kafka, registry, planned, error)
            taken = _append(bronze, rows_to_append, planned.after, number)
    finally:
        records.unpersist()
    return Batch(taken, planned.after, sum(planned.waiting.values()), planned.drained)


def _with_bad_quarantined(
    dataset: Dataset,
    lake: Lake,
    store: ContractStore,
    kafka: Topics,
    registry: Registry | None,
    planned: Plan,
    error: Exception,
) -> DataFrame:
    """The rows of a batch that Spark failed on; the records that caused it are quarantined.

    UnavailableError if Kafka fails meanwhile: a read that fails then says nothing about the records.
    """

    def read(part: Range) -> DataFrame:
        return read_ranges(lake.spark, kafka.access, (part,), one_by_one=True)

    def rows(part: Range) -> DataFrame:
        return bronze_rows(read(part), dataset, store, registry)

    def works(rows: DataFrame) -> bool:
        if can_be_computed(rows):
            return True
        drop_kafka_data(lake.spark)  # else what this read left in memory fails the next one
        kafka.states(part.topic for part in planned.ranges)
        return False

    bad = find_bad_ranges(planned.ranges, lambda part: works(rows(part)))
    parts = [rows(good) for good in subtract_ranges(planned.ranges, bad)]
    for one in bad:
        records = read(one)
        parts.append(
            quarantine_all(records, dataset, cause(error))
            if works(records)
            else quarantine_unreadable(lake.spark, one, dataset, cause(error))
        )
    return reduce(DataFrame.unionByName, parts).coalesce(lake.spark.sparkContext.defaultParallelism)


def resume(dataset: Dataset, lake: Lake, states: Mapping[str, TopicState]) -> None:
    """Accept that the dataset's topics changed: bronze gets a commit without rows whose position is that of `position_after_change`."""
    bronze = lake.bronze(dataset)
    number = bronze.transaction(INGEST) + 1
    position = position_after_change(dataset, ingested_position(bronze), states)
    _append(bronze, bronze.read().limit(0), position, number)


def _append(bronze: Table, rows: DataFrame, position: Position, number: int) -> int:
    """Commit batch `number`, the rows with the position after them; the number of rows. StateError if another process did."""
    version = bronze.append(rows, INGEST, number, IngestNote(position))
    if version is None:
        raise written_by_another(bronze.address)
    return count_rows(bronze.commit(version).added)
