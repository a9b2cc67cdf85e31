"""From the topics to bronze: every record exactly once, the ones that break a row rule marked as quarantined.

A batch of a dataset is one read of planned offset ranges and one append commit, which carries the position behind it;
nothing is read back and nothing is merged here. Quarantine is a partition of bronze rather than a table beside it,
so one commit decides a record's fate and no crash can put it in both places or in neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

from pyspark.sql import DataFrame

from pipelines.ingest.decode import bronze_rows, quarantine_all, quarantine_unreadable
from pipelines.ingest.find_bad_records import can_be_computed, find_bad_ranges, subtract_ranges
from pipelines.ingest.offsets import Plan, Range, Topics, TopicState, plan, position_after_change
from pipelines.ingest.read import read_ranges
from pipelines.lake.commit_notes import IngestNote
from pipelines.lake.delta import written_by_another
from pipelines.lake.lake import Lake
from pipelines.lake.position import Position
from pipelines.lake.progress import INGEST, ingested_position
from pipelines.lake.spark_jvm import SPARK_ERRORS, cause
from pipelines.lake.table import Table
from pipelines.lake.table_log import count_rows
from schemas.dataset import Dataset
from schemas.errors import UnavailableError
from schemas.store import ContractStore
from schemas.wire.registry import Registry


@dataclass(frozen=True)
class Batch:
    """One batch of a dataset in bronze, or none if nothing waited (`records` is 0)."""

    records: int
    after: Position
    waiting: int = 0  # offsets that wait for the next batch
    drained: bool = False  # some district has no more waiting


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

    Killed anywhere and run again, each record is in bronze once: the commit that brings rows brings their position too.
    A record that cannot be read, or that a rule cannot be evaluated for, is quarantined alone; if the process is not this
    batch's `alone`, Spark's error is raised instead, for another dataset may have caused it. StateError if a topic is
    not as it was left, UnavailableError if Kafka, a registry that is needed, or the lake is away; then nothing was taken.
    """
    bronze = lake.bronze(dataset)
    number = bronze.transaction(INGEST) + 1  # read before the position: of two processes the faster one takes it
    position = ingested_position(bronze)
    planned = plan(dataset, position, states)
    if not planned.ranges:
        return Batch(0, position)

    def rows(records: DataFrame) -> DataFrame:
        return bronze_rows(records, dataset, store, registry)

    records = read_ranges(lake.spark, kafka.access, planned.ranges)
    if registry:
        records = records.persist()  # else Kafka would be read once more for the registry's ids
    try:
        try:
            taken = _append(bronze, rows(records), planned.after, number)
        except SPARK_ERRORS as error:
            states = kafka.states(states)  # Kafka away, or a topic no longer as it was: then that is the reason
            plan(dataset, position, states)
            if not alone:
                raise
            if can_be_computed(rows(records)):
                raise UnavailableError(
                    f"Bronze of {dataset.name} cannot be written, and nothing was skipped: {cause(error)}. Look at the lake "
                    "and its disk; the next pass takes the same records again.",
                    f"无法写入 {dataset.name} 的变更日志，未跳过任何记录：{cause(error)}。请检查数据湖及其磁盘；"
                    "下一轮将重新处理同一批记录。",
                ) from error
            found = _with_bad_quarantined(dataset, lake, store, kafka, registry, planned, error)
            taken = _append(bronze, found, planned.after, number)
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
    """The rows of a batch that failed, with the records that made it fail quarantined."""

    def read(one: Range) -> DataFrame:
        return read_ranges(lake.spark, kafka.access, (one,), alone=True)

    def rows(one: Range) -> DataFrame:
        return bronze_rows(read(one), dataset, store, registry)

    bad = find_bad_ranges(planned.ranges, lambda one: can_be_computed(rows(one)))
    parts = [rows(good) for good in subtract_ranges(planned.ranges, bad)]
    for one in bad:
        records = read(one)
        readable = can_be_computed(records)
        parts.append(
            quarantine_all(records, dataset, cause(error))
            if readable
            else quarantine_unreadable(lake.spark, one, dataset, cause(error))
        )
    return reduce(DataFrame.unionByName, parts).coalesce(lake.spark.sparkContext.defaultParallelism)


def resume(dataset: Dataset, lake: Lake, states: Mapping[str, TopicState]) -> None:
    """Go on after the dataset's topics changed, each from the first offset it still has; bronze's log keeps that it was so."""
    bronze = lake.bronze(dataset)
    number = bronze.transaction(INGEST) + 1
    position = position_after_change(dataset, ingested_position(bronze), states)
    _append(bronze, bronze.read().limit(0), position, number)


def _append(bronze: Table, rows: DataFrame, position: Position, number: int) -> int:
    """Commit the batch of that number, the rows and the position behind them; how many rows it was."""
    version = bronze.append(rows, INGEST, number, IngestNote(position))
    if version is None:
        raise written_by_another(bronze.address)
    return count_rows(bronze.commit(version).added)
