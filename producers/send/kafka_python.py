"""The default transport: kafka-python, which is pure Python."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import kafka.errors as kafka_errors
from kafka import KafkaAdminClient, KafkaProducer
from kafka.structs import OffsetAndMetadata, TopicPartition

from producers.outbox import Waiting
from producers.send.access_refused import why_refused
from producers.send.kafka_internals import end_at_once
from producers.send.transport import (
    ForbiddenError,
    Identity,
    MissingTopicError,
    RefusedError,
    Transport,
    TransportError,
    headers,
)
from schemas.ports.kafka_access import KafkaAccess

BATCH = 1 << 18  # bytes of a batch, before it is compressed
# The pause before kafka-python asks again for what it does not know yet, four times before the first row; its default is 100.
RETRY_MS = 20
_PERMANENT_ERRORS = (  # trying again does not help
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.UnsupportedVersionError,
    kafka_errors.MessageSizeTooLargeError,
)
# Without a handler Python would print each failed reconnect; the sender raises one error for all of them.
logging.getLogger("kafka").addHandler(logging.NullHandler())


class KafkaPython(Transport):
    """Sends with kafka-python, compressed with gzip, which needs no further library."""

    def __init__(self, access: KafkaAccess, identity: Identity, seconds: float) -> None:
        self._access, self._identity, self._wait_ms = access, identity, int(seconds * 1000)
        self._producer: Any = None
        self._futures: list[Any] = []

    def open(self) -> None:
        with _errors():
            self._producer = KafkaProducer(
                **self._access.kafka_python(), bootstrap_timeout_ms=self._wait_ms, max_block_ms=self._wait_ms,
                transactional_id=self._identity.transactional_id, acks="all", compression_type="gzip", batch_size=BATCH,
                linger_ms=5, allow_auto_create_topics=False, metrics_enabled=False, retry_backoff_ms=RETRY_MS,
            )  # fmt: skip
            self._producer.init_transactions()

    def committed(self, name: str) -> int | None:
        with _errors():
            admin = KafkaAdminClient(**self._access.kafka_python(), bootstrap_timeout_ms=self._wait_ms)
            try:
                offsets = admin.list_group_offsets(self._identity.group)[self._identity.group]
            finally:
                admin.close()
        # confluent-kafka appends a zero byte to the name.
        return max((o.offset for o in offsets.values() if o.metadata.rstrip("\0") == name), default=None)

    def begin(self) -> None:
        with _errors():
            self._producer.begin_transaction()

    def produce(self, rows: Sequence[Waiting]) -> None:
        send = self._producer.send
        with _errors():
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
        with _errors():
            self._producer.send_offsets_to_transaction(offsets, self._identity.group)

    def commit(self) -> None:
        with _errors():
            self._producer.flush()
            for future in self._futures:  # commit only if every row was acknowledged
                if future.failed():
                    raise future.exception
            self._producer.commit_transaction()

    def abort(self) -> None:
        with _errors():
            self._producer.abort_transaction()

    def close(self) -> None:
        with _errors():
            self._producer.close(timeout=5)

    def abandon(self) -> None:
        if self._producer is not None:
            end_at_once(self._producer)

    def why_refused(self) -> tuple[str, str] | None:
        return why_refused(self._access)


@contextmanager
def _errors() -> Iterator[None]:
    """Raise the errors of kafka-python as those of `producers.send.transport`."""
    try:
        yield
    except kafka_errors.AuthorizationError as error:
        raise ForbiddenError(str(error)) from None
    except _PERMANENT_ERRORS as error:
        raise RefusedError(str(error)) from None
    except kafka_errors.KafkaError as error:
        raise TransportError(str(error)) from None
