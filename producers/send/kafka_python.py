"""The default transport: kafka-python, which is pure Python."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import kafka.errors as kafka_errors
from kafka import KafkaProducer
from kafka.structs import OffsetAndMetadata, TopicPartition

from producers.outbox import Waiting
from producers.send.access_refused import why_refused
from producers.send.committed_position import committed_position, kafka_python_errors
from producers.send.kafka_internals import end_at_once
from producers.send.transport import (
    BATCH,
    Identity,
    MissingTopicError,
    Transport,
    headers,
)
from schemas.ports.kafka_access import KafkaAccess

# Milliseconds before kafka-python repeats a request for missing metadata; this happens four times before the first row. Its
# default is 100.
RETRY_MS = 20
# Without a handler Python would print each failed reconnect; the sender raises one error for all of them.
logging.getLogger("kafka").addHandler(logging.NullHandler())


class KafkaPython(Transport):
    """Sends with kafka-python, compressed with gzip, which needs no further library."""

    def __init__(self, access: KafkaAccess, identity: Identity, seconds: float) -> None:
        self._access, self._identity, self._wait_ms = access, identity, int(seconds * 1000)
        self._producer: Any = None
        self._futures: list[Any] = []

    def open(self) -> None:
        with kafka_python_errors():
            self._producer = KafkaProducer(
                **self._access.kafka_python(), bootstrap_timeout_ms=self._wait_ms, max_block_ms=self._wait_ms,
                transactional_id=self._identity.transactional_id, acks="all", compression_type="gzip", batch_size=BATCH,
                linger_ms=5, allow_auto_create_topics=False, metrics_enabled=False, retry_backoff_ms=RETRY_MS,
            )  # fmt: skip
            self._producer.init_transactions()

    def committed(self, name: str) -> int | None:
        return committed_position(self._access, self._identity, name, self._wait_ms)

    def begin(self) -> None:
        with kafka_python_errors():
            self._producer.begin_transaction()

    def produce(self, rows: Sequence[Waiting]) -> None:
        send = self._producer.send
        with kafka_python_errors():
            # With a single partition, naming it saves hashing the keys.
            partition = {t: 0 if len(self._partitions(t)) == 1 else None for t in {row.topic for row in rows}}
            self._futures = [
                send(row.topic, row.value, row.key, headers(row), partition[row.topic], row.timestamp_ms)
                for row in rows
            ]

    def _partitions(self, topic: str) -> set[int]:
        try:
            return set(self._producer.partitions_for(topic))
        except kafka_errors.KafkaTimeoutError as error:
            raise MissingTopicError(str(error)) from None

    def add_position(self, rows: Sequence[Waiting], name: str) -> None:
        offsets = {TopicPartition(rows[0].topic, 0): OffsetAndMetadata(rows[-1].seq + 1, name, -1)}
        with kafka_python_errors():
            self._producer.send_offsets_to_transaction(offsets, self._identity.group)

    def commit(self) -> None:
        with kafka_python_errors():
            self._producer.flush()
            for future in self._futures:  # commit only if every row was acknowledged
                if future.failed():
                    raise future.exception
            self._producer.commit_transaction()

    def abort(self) -> None:
        with kafka_python_errors():
            self._producer.abort_transaction()

    def close(self) -> None:
        with kafka_python_errors():
            self._producer.close(timeout=5)

    def abandon(self) -> None:
        if self._producer is not None:
            end_at_once(self._producer)

    def why_refused(self) -> tuple[str, str] | None:
        return why_refused(self._access)
