"""From the topics to bronze: every record exactly once, the ones that break a row rule marked as quarantined.

A batch of a dataset is one read of planned offset ranges and one append commit, which carries the position behind it;
nothing is read back and nothing is merged here. Quarantine is a partition of bronze rather than a table beside it,
so one commit decides a record's fate and no crash can put it in both places or in neither.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any
from uuid import uuid4

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.ingest.decode import change_log, refused, unread
from pipelines.ingest.offsets import (
    Position,
    Range,
    Taken,
    Topics,
    TopicState,
    accept,
    dump_position,
    parse_position,
    plan,
)
from pipelines.lake.delta import Delta, cause, written_by_another
from pipelines.lake.lake import Lake, count_rows
from schemas.dataset import Dataset
from schemas.errors import UnavailableError
from schemas.store import ContractStore
from schemas.wire.registry import Registry

APPLICATION = "ingest"  # the Delta transaction application id of a batch, in bronze
# Bytes of a partition that are asked for at a time: at Kafka's one megabyte a third of reading is waiting.
FETCH = 8 << 20
_TASK = 10_000  # records that are sooner read by one task than shared out
PROBES = 60  # reads spent on finding the records that cannot be read or held against the rules


@dataclass(frozen=True)
class Batch:
    """One batch of a dataset in bronze, or none if nothing waited (`records` is 0)."""

    records: int
    after: Position
    waiting: int = 0  # offsets that wait for the next batch
    drained: bool = False  # some district's records are all in with it


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
    A record that cannot be read, or that a rule cannot be held against, is quarantined alone; if the process is not this
    batch's `alone`, Spark's error is raised instead, for another dataset may have been the reason. StateError if a topic is
    not as it was left, UnavailableError if Kafka, a registry that is needed, or the lake is away; then nothing was taken.
    """
    bronze = lake.bronze(dataset)
    number = lake.transaction(bronze, APPLICATION) + 1  # read before the position: who is faster takes it
    position = read_position(dataset, lake, states)
    planned = plan(dataset, position, states)
    if not planned.ranges:
        return Batch(0, position)

    def read(ranges: tuple[Range, ...]) -> DataFrame:
        return _read(lake, kafka, ranges, alone=True)

    def rows(records: DataFrame) -> DataFrame:
        return change_log(records, dataset, store, registry)

    records = _read(lake, kafka, planned.ranges)
    if registry:
        records = records.persist()  # else Kafka would be read once more for the registry's ids
    try:
        try:
            taken = _append(lake, bronze, rows(records), planned.after, number)
        except (PySparkException, Py4JJavaError) as error:
            states = kafka.states(states)  # away, or no longer as it was: then that is the reason
            plan(dataset, position, states)
            if not alone:
                raise
            if _computes(rows(records)):
                raise UnavailableError(
                    f"Bronze of {dataset.name} cannot be written, and nothing was skipped: {cause(error)}. Look at the lake "
                    "and its disk; the next pass takes the same records again.",
                    f"无法写入 {dataset.name} 的变更日志，未跳过任何记录：{cause(error)}。请检查数据湖及其磁盘；"
                    "下一轮将重新处理同一批记录。",
                ) from error
            bad = _isolate(planned.ranges, lambda ranges: _computes(rows(read(ranges))))
            parts = [rows(read((place,))) for place in _without(planned.ranges, bad)]
            for place in bad:
                records_there = read((place,))
                readable = _computes(records_there)
                parts.append(
                    refused(records_there, dataset, cause(error))
                    if readable
                    else unread(lake.spark, place, dataset, cause(error))
                )
            found = reduce(DataFrame.unionByName, parts).coalesce(_cores(lake))
            taken = _append(lake, bronze, found, planned.after, number)
    finally:
        records.unpersist()
    return Batch(taken, planned.after, sum(planned.waiting.values()), planned.drained)


def read_position(dataset: Dataset, lake: Lake, states: Mapping[str, TopicState]) -> Position:
    """How far each topic of the dataset is in bronze.

    It is in the newest commit of a batch; where there is none (a lake of Suibus 0.1), in the rows.
    """
    bronze = lake.bronze(dataset)
    newest = lake.newest(bronze)
    known = lake.positions.get(bronze)
    if known and known[0] is newest:  # the same version, as far as a look at its commit tells
        return known[1]
    for version in range(newest.version, -1, -1):
        found = lake.commit(bronze, version)
        if "position" in found.metadata:
            lake.positions[bronze] = newest, parse_position(found.metadata["position"])
            return lake.positions[bronze][1]
        if found.own:
            break
    last = lake.read(bronze).groupBy("_topic", "_partition").agg(F.max("_offset").alias("last")).collect()
    position: Position = {}
    for row in last:
        if row["_topic"] in states:
            taken = position.setdefault(row["_topic"], Taken(states[row["_topic"]].id, {}))
            taken.next[row["_partition"]] = row["last"] + 1
    for topic, taken in position.items():
        for partition in states[topic].partitions:
            taken.next.setdefault(partition, 0)
    return position


def resume(dataset: Dataset, lake: Lake, states: Mapping[str, TopicState]) -> None:
    """Go on after the dataset's topics changed, each from the first offset it still has; bronze's log keeps that it was so."""
    bronze = lake.bronze(dataset)
    number = lake.transaction(bronze, APPLICATION) + 1
    position = accept(dataset, read_position(dataset, lake, states), states)
    _append(lake, bronze, lake.read(bronze).limit(0), position, number)


def _read(lake: Lake, kafka: Topics, ranges: tuple[Range, ...], alone: bool = False) -> DataFrame:
    """The records of some ranges. `alone`: each by itself and with a consumer of its own, so that one that cannot be read
    (it may unpack to more than memory holds) takes no other with it.
    """
    assigned: dict[str, list[int]] = {}
    first: dict[str, dict[str, int]] = {}
    last: dict[str, dict[str, int]] = {}
    for place in ranges:  # of each partition one: Spark's source has one start and one end for it
        if place.partition in assigned.get(place.topic, []):
            raise ValueError(f"two ranges of {place.topic} {place.partition} in one read")
        assigned.setdefault(place.topic, []).append(place.partition)
        first.setdefault(place.topic, {})[str(place.partition)] = place.start
        last.setdefault(place.topic, {})[str(place.partition)] = place.end
    options = {
        **kafka.access.spark(),
        "kafka.isolation.level": "read_committed",
        # One name, else Spark makes a new consumer for each read: 0.3 s a partition.
        "kafka.group.id": f"suibus.city.probe.{uuid4()}" if alone else "suibus.city.ingest",
        # What is asked for is there: by default the broker waits half a second for more, and each partition costs that.
        "kafka.fetch.max.wait.ms": "0",
        "kafka.max.partition.fetch.bytes": str(FETCH),
        # Of up to a megabyte each: bounds memory. 100 cost a third of the reading; what does not fit is read again, alone.
        "kafka.max.poll.records": "1" if alone else "500",
        "assign": json.dumps(assigned),
        "startingOffsets": json.dumps(first),
        "endingOffsets": json.dumps(last),
        "failOnDataLoss": "true",
        "includeHeaders": "true",
    }
    # Shared out before anything is computed of them: Spark would else prepare that anew for each partition of each topic.
    tasks = min(_cores(lake), -(-sum(place.end - place.start for place in ranges) // _TASK))
    return lake.spark.read.format("kafka").options(**options).load().coalesce(tasks)


def _cores(lake: Lake) -> int:
    spark: Any = lake.spark
    return int(spark.sparkContext.defaultParallelism)


def _append(lake: Lake, bronze: str, rows: DataFrame, position: Position, number: int) -> int:
    """One commit, the batch of that number: the rows and the position behind them; how many rows it was."""
    newest, metadata = lake.newest(bronze), {"position": dump_position(position)}
    if newest.transactions.get(APPLICATION, -1) >= number:
        raise written_by_another(bronze)
    version = Delta(lake.spark, bronze).append(rows, APPLICATION, number, metadata, newest.version)
    return count_rows(lake.commit(bronze, version).added)


def _computes(rows: DataFrame) -> bool:
    """Whether every row can be computed, without writing any."""
    try:
        rows.write.format("noop").mode("overwrite").save()
    except (PySparkException, Py4JJavaError):
        return False
    return True


def _isolate(ranges: tuple[Range, ...], computes: Callable[[tuple[Range, ...]], bool]) -> tuple[Range, ...]:
    """The smallest ranges that fail, found by halving; after too many probes what still fails is left whole."""
    todo, bad, probes = list(ranges), [], 0
    while todo:
        place = todo.pop()
        probes += 1
        if computes((place,)):
            continue
        if place.end - place.start == 1 or probes >= PROBES:
            bad.append(place)
        else:
            middle = (place.start + place.end) // 2
            todo += [place._replace(end=middle), place._replace(start=middle)]
    return tuple(sorted(bad))


def _without(ranges: tuple[Range, ...], bad: tuple[Range, ...]) -> tuple[Range, ...]:
    good: list[Range] = []
    for place in ranges:
        start = place.start
        for hole in bad:
            if hole[:2] == place[:2] and place.start <= hole.start < place.end:
                if start < hole.start:
                    good.append(place._replace(start=start, end=hole.start))
                start = hole.end
        if start < place.end:
            good.append(place._replace(start=start))
    return tuple(good)
