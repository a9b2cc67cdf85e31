"""From the topics to bronze: every record exactly once, the ones that break a row rule marked as quarantined.

One streaming query serves all datasets and districts. A batch costs one append commit a dataset; nothing is
read back and nothing is merged here. Quarantine is a partition of bronze rather than a table beside it, so one
commit decides a record's fate and no crash can put it in both places or in neither.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException, StreamingQueryException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.decode import cause, change_log, refused
from pipelines.tables import Lake
from schemas.dataset import districts, parse_topic
from schemas.errors import StateError, SuibusError, UnavailableError
from schemas.registry import Registry
from schemas.store import ContractStore

log = logging.getLogger(__name__)
BATCH = 400_000  # records a micro-batch at most: bounds memory, and what a killed batch has to do again


@dataclass(frozen=True)
class IngestInfo:
    """What one run of the query took in."""

    batches: int
    records: int
    datasets: frozenset[str]


def ingest_available(
    lake: Lake,
    store: ContractStore,
    bootstrap_servers: str,
    registry: Registry | None = None,
    refresh: Callable[[], object] = lambda: None,
) -> IngestInfo:
    """Append everything published so far on the topics of the contracts in force to bronze, and stop.

    Killed anywhere and run again, each record is in bronze once: Spark replays the same offsets under the same
    batch number, and Delta drops a batch that a table already has. A topic that was deleted or has lost records
    raises, since going on would skip them in silence. UnavailableError if a registry is needed and away, or the
    lake: the batch stays to be done.

    `refresh` puts the newest contracts in force. It is called once a batch's records are fixed, so that none of them
    can be newer than the contracts it is read with.
    """
    touched: set[str] = set()
    failed: list[Exception] = []
    topics = [dataset.topic(code) for dataset in store.datasets().values() for code in districts()]
    if not topics:
        return IngestInfo(0, 0, frozenset())

    def batch(frame: DataFrame, number: int) -> None:
        try:
            refresh()
            touched.update(ingest_batch(frame, number, lake, store, registry))
        except Exception as error:  # Spark would wrap it in a stack of Java
            failed.append(error)
            raise

    query = (
        lake.spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", bootstrap_servers)
        .option("kafka.isolation.level", "read_committed")
        .option("subscribe", ",".join(topics))
        .option("startingOffsets", "earliest")
        .option("failOnDataLoss", "true")
        .option("includeHeaders", "true")
        .option("maxOffsetsPerTrigger", BATCH)
        .load()
        .writeStream.foreachBatch(batch)
        .option("checkpointLocation", lake.checkpoint)
        .trigger(availableNow=True)
        .start()
    )
    try:
        query.awaitTermination()
    except StreamingQueryException as error:
        if failed and isinstance(failed[-1], SuibusError):
            raise failed[-1] from None
        if failed:
            reason = cause(failed[-1])
            raise UnavailableError(
                f"Ingest stopped and skipped nothing: {reason}. Look at the lake and its disk; the next pass takes the "
                "same records again.",
                f"数据接入已停止，未跳过任何记录：{reason}。请检查数据湖及其磁盘；下一轮将重新处理同一批记录。",
            ) from failed[-1]
        reason = str(error).split("terminated with exception: ")[-1].splitlines()[0]
        raise StateError(
            f"Ingest stopped and skipped nothing: {reason} If a topic was deleted or lost records, restore it; "
            "else run the pass again.",
            f"数据接入已停止，未跳过任何记录：{reason} 若主题被删除或丢失记录，请先恢复；否则请重新运行。",
        ) from error
    finally:
        query.stop()
    progress = [p for p in query.recentProgress if p["numInputRows"]]
    return IngestInfo(len(progress), sum(p["numInputRows"] for p in progress), frozenset(touched))


def ingest_batch(
    frame: DataFrame, number: int, lake: Lake, store: ContractStore, registry: Registry | None = None
) -> set[str]:
    """Append one micro-batch, a commit a dataset; the ids of the datasets that had records in it."""
    spark: Any = frame.sparkSession
    application = "ingest:" + spark.sparkContext.getLocalProperty("sql.streaming.queryId")
    claimed: dict[str, list[str]] = defaultdict(list)
    for topic in _topics_of_batch(lake, number):
        claimed[parse_topic(topic)[1]].append(topic)
    if len(claimed) > 1 or registry:
        frame = frame.persist()  # else Kafka would be read once a dataset, and once more for a registry's ids
    try:
        for dataset_id, topics in sorted(claimed.items()):
            dataset = store.versions(dataset_id)[-1]
            records, bronze = frame.where(F.col("topic").isin(topics)), lake.bronze(dataset)

            def append(rows: DataFrame, bronze: str = bronze) -> None:
                tasks = spark.sparkContext.defaultParallelism
                writer = rows.coalesce(tasks).write.format("delta").mode("append")
                writer.option("txnAppId", application).option("txnVersion", number).save(bronze)

            rows = change_log(records, dataset, store, registry)
            try:
                append(rows)
            except (PySparkException, Py4JJavaError) as error:
                if _computes(rows) or not _computes(records):
                    raise  # it is not the contract's rules that fail
                append(refused(records, dataset, cause(error)))  # else one dataset would stop all others
    finally:
        frame.unpersist()
    return set(claimed)


def _computes(rows: DataFrame) -> bool:
    """Whether every row can be computed, without writing any."""
    try:
        rows.write.format("noop").mode("overwrite").save()
    except (PySparkException, Py4JJavaError):
        return False
    return True


def _topics_of_batch(lake: Lake, number: int) -> list[str]:
    """The topics with records in a batch, from the query's own offset log: no job, and no guess.

    Line three of each file in <checkpoint>/offsets is the end offset of every partition, as JSON.
    """
    ends = _offset_log(lake, number)
    starts = _offset_log(lake, number - 1) if number else {}
    return sorted(t for t, parts in ends.items() if any(int(starts.get(t, {}).get(p, 0)) < o for p, o in parts.items()))


def _offset_log(lake: Lake, number: int) -> dict[str, dict[str, int]]:
    spark: Any = lake.spark
    path = spark._jvm.org.apache.hadoop.fs.Path(f"{lake.checkpoint}/offsets/{number}")
    stream = path.getFileSystem(spark._jsc.hadoopConfiguration()).open(path)
    try:
        text = spark._jvm.org.apache.commons.io.IOUtils.toString(stream, "UTF-8")
    finally:
        stream.close()
    found: dict[str, dict[str, int]] = json.loads(text.splitlines()[2])
    return found
