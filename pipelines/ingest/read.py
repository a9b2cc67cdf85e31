"""Read planned offset ranges with Spark's Kafka source: committed records only, without waiting for new ones."""

from __future__ import annotations

import json

from pyspark.sql import DataFrame, SparkSession

from pipelines.ingest.offsets import Range
from schemas.ports.kafka_access import KafkaAccess

# Bytes fetched from a partition at a time: with Kafka's default of 1 MiB a third of the time is spent waiting.
FETCH = 8 << 20
_TASK = 10_000  # records per task: fewer are read faster by one task than by several


def read_ranges(
    spark: SparkSession, kafka: KafkaAccess, ranges: tuple[Range, ...], *, one_by_one: bool = False
) -> DataFrame:
    """The records of these ranges. Spark's source takes one range per partition: ValueError if a partition has two.

    `one_by_one`: read one record at a time with a separate consumer, so that a record that cannot be read (it may decompress to more
    than memory holds) does not fail others.
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
        # A fixed group: with a generated one Spark makes a new consumer for each read, 0.3 s per partition.
        "kafka.group.id": "suibus.city.probe" if one_by_one else "suibus.city.ingest",
        # All records in the ranges exist: by default the broker waits half a second for more, once per partition.
        "kafka.fetch.max.wait.ms": "0",
        "kafka.max.partition.fetch.bytes": str(FETCH),
        # Records of up to 1 MiB each: limits memory. With 100, reading took a third longer; a batch too large for memory is retried
        # record by record.
        "kafka.max.poll.records": "1" if one_by_one else "500",
        "assign": json.dumps(assigned),
        "startingOffsets": json.dumps(first),
        "endingOffsets": json.dumps(last),
        "failOnDataLoss": "true",
        "includeHeaders": "true",
    }
    # Coalesced before any computation: otherwise Spark sets it up again for each partition of each topic.
    records = sum(end - start for *_, start, end in ranges)
    tasks = min(spark.sparkContext.defaultParallelism, -(-records // _TASK))
    return spark.read.format("kafka").options(**options).load().coalesce(tasks)
