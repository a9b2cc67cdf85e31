"""The fast transport: librdkafka (the extra `fast`), which needs a tenth of kafka-python's time for a record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from producers.outbox import Waiting
from producers.send.access_refused import why_refused
from producers.send.committed_position import committed_position
from producers.send.transport import (
    BATCH,
    ForbiddenError,
    Identity,
    MissingTopicError,
    RefusedError,
    Transport,
    TransportError,
    headers,
)
from schemas.errors import InputError
from schemas.ports.kafka_access import KafkaAccess

LARGEST_REQUEST = 1 << 20
COMPRESSION = "zstd"


def confluent_kafka() -> Any:
    """The Python package of librdkafka; InputError if it is not installed."""
    try:
        import confluent_kafka  # not part of a light install
    except ImportError:
        raise InputError(
            "SUIBUS_TRANSPORT is librdkafka, which is not installed. In the project's folder: pip install '.[fast]'",
            "SUIBUS_TRANSPORT 设为 librdkafka，但尚未安装。请在项目文件夹执行：pip install '.[fast]'",
        ) from None
    return confluent_kafka


class Librdkafka(Transport):
    """Sends with librdkafka, compressed with zstd."""

    def __init__(self, access: KafkaAccess, identity: Identity, seconds: float) -> None:
        self._kafka = confluent_kafka()
        self._access, self._identity, self._seconds = access, identity, seconds
        self._settings = {**access.librdkafka(), "log_level": 0}
        self._known_topics: set[str] = set()  # topics known to exist
        self._refused: RefusedError | None = None  # librdkafka tells error_cb of it, not the call that fails
        self._producer: Any = None
        self._group: Any = None

    def open(self) -> None:
        with self._errors():
            # The partitioner of Java and kafka-python; with another one, the rows of a key would move to another partition.
            self._producer = self._kafka.Producer(
                {
                    **self._settings, "transactional.id": self._identity.transactional_id, "batch.size": BATCH,
                    "compression.type": COMPRESSION, "linger.ms": 5, "partitioner": "murmur2_random",
                    "allow.auto.create.topics": False, "message.max.bytes": LARGEST_REQUEST, "error_cb": self._note,
                }
            )  # fmt: skip
            reader = self._kafka.Consumer({**self._settings, "group.id": self._identity.group})
            self._group = reader.consumer_group_metadata()  # only a consumer can make this
            reader.close()
            self._producer.init_transactions(self._seconds)

    def _note(self, error: Any) -> None:
        if error.code() == self._kafka.KafkaError._AUTHENTICATION:
            self._refused = RefusedError(error.str())

    def committed(self, name: str) -> int | None:
        return committed_position(self._access, self._identity, name, int(self._seconds * 1000))

    def begin(self) -> None:
        with self._errors():
            self._producer.begin_transaction()

    def produce(self, rows: Sequence[Waiting]) -> None:
        produce = self._producer.produce
        with self._errors():
            for topic in {row.topic for row in rows} - self._known_topics:
                metadata = self._producer.list_topics(topic, self._seconds).topics[topic]
                if metadata.error is not None:
                    raise self._error(metadata.error)
                self._known_topics.add(topic)
            for row in rows:
                if row.value is not None and row.answers is None:
                    produce(row.topic, row.value, row.key, timestamp=row.timestamp_ms)
                else:
                    produce(row.topic, row.value, row.key, timestamp=row.timestamp_ms, headers=headers(row))

    def add_position(self, rows: Sequence[Waiting], name: str) -> None:
        offset = self._kafka.TopicPartition(rows[0].topic, 0, rows[-1].seq + 1, metadata=name)
        with self._errors():
            self._producer.send_offsets_to_transaction([offset], self._group, self._seconds)

    def commit(self) -> None:
        with self._errors():
            self._producer.commit_transaction(self._seconds)  # flushes first, and fails if a row has failed

    def abort(self) -> None:
        with self._errors():
            self._producer.abort_transaction(self._seconds)

    def close(self) -> None:
        self._producer.close()

    def abandon(self) -> None:
        if self._producer is not None:
            with suppress(self._kafka.KafkaException):
                self._producer.purge()

    def why_refused(self) -> tuple[str, str] | None:
        return why_refused(self._access)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise the errors of librdkafka as those of `producers.send.transport`."""
        try:
            yield
        except self._kafka.KafkaException as error:
            raise self._refused or self._error(error.args[0]) from None
        except BufferError as error:
            raise TimeoutError(str(error)) from None

    def _error(self, error: Any) -> Exception:
        codes, code = self._kafka.KafkaError, error.code()
        if code in (codes.UNKNOWN_TOPIC_OR_PART, codes._UNKNOWN_TOPIC, codes._UNKNOWN_PARTITION):
            return MissingTopicError(error.str())
        if code == codes._TIMED_OUT:
            return TimeoutError(error.str())
        if code in (
            codes.TOPIC_AUTHORIZATION_FAILED, codes.GROUP_AUTHORIZATION_FAILED, codes.CLUSTER_AUTHORIZATION_FAILED,
            codes.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        ):  # fmt: skip
            return ForbiddenError(error.str())
        if code in (codes.SASL_AUTHENTICATION_FAILED, codes.UNSUPPORTED_VERSION, codes.MSG_SIZE_TOO_LARGE):
            return RefusedError(error.str())
        return TransportError(error.str())
