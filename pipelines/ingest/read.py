"""Planned offset ranges as a DataFrame of Spark's Kafka source: only committed records, and no waiting for records that are not there."""

from __future__ import annotations

import json
from uuid import uuid4

from pyspark.sql import DataFrame, SparkSession

from pipelines.ingest.offsets import Range
from schemas.ports.kafka_access import KafkaAccess

# Bytes of a partition that are asked for at a time: at Kafka's one megabyte a third of reading is waiting.
FETCH = 8 << 20
_TASK = 10_000  # records; fewer are read sooner by one task than shared out


def read_ranges(
    spark: SparkSession, kafka: KafkaAccess, ranges: tuple[Range, ...], *, alone: bool = False
) -> DataFrame:
    """The records of some ranges, at most one range a partition: Spark's source has one start and one end for it.

    `alone`: one record at a time and with a consumer of its own, so that one that cannot be read (it may unpack to more than
    memory holds) takes no other with it.
    """
    assigned: dict[str, list[int]] = {}
    first: dict[str, dict[str, int]] = {}
    last: dict[str, dict[str, int]] = {}
    for topic, partition, start, end in ranges:
        if partition in assigned.get(topic, []):
            raise ValueError(f"two ranges of {topic} {partition} in one read")
        assigned.setdefault(topic, []).append(partition)
        first.setdefault(topic, {})[str(partition)] = start
        last.setdefault(topic, {})[str(partition)] = end
    options = {
        **kafka.spark(),
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
    # Shared out before anything is computed: Spark would else prepare that anew for each partition of each topic.
    records = sum(end - start for *_, start, end in ranges)
    tasks = min(spark.sparkContext.defaultParallelism, -(-records // _TASK))
    return spark.read.format("kafka").options(**options).load().coalesce(tasks)
