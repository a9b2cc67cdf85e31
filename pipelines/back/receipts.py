"""Back to the districts: a receipt for every quarantined record, on the district's own return topic."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError
from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from pipelines.lake.bronze import appended_files
from pipelines.lake.lake import Lake
from pipelines.lake.table_schemas import REASON
from schemas.dataset import Dataset, Field, receipts_topic
from schemas.errors import UnavailableError, first_line
from schemas.ports.kafka_access import KafkaAccess
from schemas.wire.receipt import LONGEST, Reason, Receipt

# The most receipts, and bytes of them, that are sent before waiting for acknowledgement: limits memory.
ROWS, BYTES = 1_000, 16 << 20
WAIT_MS = 10_000  # how long Kafka may take to answer


def send_receipts(dataset: Dataset, lake: Lake, first: int, last: int, kafka: KafkaAccess) -> int:
    """Send a receipt for each record quarantined in bronze versions `first` to `last`; the number of receipts.

    On return the broker has acknowledged all of them. Done again for the same versions, it sends the same receipts with the same
    ids, and the inboxes keep one of each. UnavailableError if Kafka does not answer or a return topic is missing; some receipts
    may have been sent by then.
    """
    bronze = lake.bronze(dataset)
    files = appended_files(bronze, first, last, quarantined=True)
    if not files:
        return 0
    rows = _quarantined(dataset, bronze.rows(files)).toLocalIterator()
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return _send((_receipt(row, dataset, at) for row in rows), kafka)


def _quarantined(dataset: Dataset, records: DataFrame) -> DataFrame:
    """Quarantined records with every text already cut in Spark, so that long texts never reach this process."""
    columns = [_short(_text(f, F.col(f.name))).alias(f"c{i}") for i, f in enumerate(dataset.table_fields)]
    reasons = F.transform("_reasons", lambda r: F.struct(*(_short(r[n]).alias(n) for n in REASON.names)))
    return (
        records
        .select(
            "_topic", "_partition", "_offset", "_deleted",
            F.left("_key", F.lit(10 * LONGEST + 1)).alias("_key"),
            F.unix_millis("_timestamp").alias("_timestamp_ms"),
            reasons.alias("_reasons"),
            *columns,
        )
    )  # fmt: skip


def _short(text: Column) -> Column:
    # One character more than a receipt keeps, so that it can tell that the text was cut.
    return F.left(text, F.lit(LONGEST + 1))


def _text(field: Field, value: Column) -> Column:
    """A value as the text of a CSV cell, from which `schemas.row.coercer` reads the same value again."""
    if field.kind == "bytes":
        return F.regexp_replace(F.base64(value), r"\s", "")
    if field.kind == "timestamp":
        return F.date_format(value, _MOMENT)
    if field.item or field.fields:
        return F.to_json(value, {"ignoreNullFields": "false", "timestampFormat": _MOMENT})
    return value.cast("string")


_MOMENT = "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX"


def _receipt(row: Row, dataset: Dataset, refused_at: str) -> Receipt:
    record = {f.name: row[f"c{i}"] for i, f in enumerate(dataset.table_fields)}
    return Receipt(
        dataset=dataset.name,
        dataset_id=dataset.id,
        contract_version=dataset.version,
        topic=row["_topic"],
        partition=row["_partition"],
        offset=row["_offset"],
        key=row["_key"],
        timestamp_ms=-1 if row["_timestamp_ms"] is None else row["_timestamp_ms"],  # Kafka's value for no timestamp
        # Without a timestamp it is a record that could not be read, not a delete.
        deleted=row["_deleted"] and row["_timestamp_ms"] is not None,
        reasons=tuple(Reason(**reason.asDict()) for reason in row["_reasons"]),
        record=record if any(text is not None for text in record.values()) else None,
        refused_at=refused_at,
    )


def _send(receipts: Iterable[Receipt], kafka: KafkaAccess) -> int:
    sent = size = 0
    producer = None
    waiting: list[Any] = []
    try:
        producer = KafkaProducer(
            **kafka.kafka_python(), acks="all", enable_idempotence=True, compression_type="gzip", batch_size=1 << 18, linger_ms=5,
            max_request_size=2 << 20, bootstrap_timeout_ms=WAIT_MS, max_block_ms=WAIT_MS, request_timeout_ms=WAIT_MS,
            delivery_timeout_ms=3 * WAIT_MS, allow_auto_create_topics=False, metrics_enabled=False,
        )  # fmt: skip
        for receipt in receipts:
            value = receipt.to_json()
            waiting.append(producer.send(receipts_topic(receipt.district), value, receipt.id.encode()))
            sent, size = sent + 1, size + len(value)
            if len(waiting) >= ROWS or size >= BYTES:
                _wait_for_acks(producer, waiting)
                waiting, size = [], 0
        _wait_for_acks(producer, waiting)
        return sent
    except KafkaError as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        raise UnavailableError(
            f"Receipts for quarantined records could not be sent ({why}). The next pass sends them again. Check that Kafka runs "
            "and has the return topics gz.down.<district>.receipts.v1.",
            f"无法发送隔离记录的回执（{why}），下一轮将重新发送。请检查 Kafka 是否运行，以及是否有回执主题 gz.down.<区>.receipts.v1。",
        ) from None
    finally:
        if producer is not None:
            with suppress(KafkaError):
                producer.close(timeout=1)


def _wait_for_acks(producer: KafkaProducer, waiting: Iterable[Any]) -> None:
    producer.flush()
    for future in waiting:
        future.get(timeout=0)
