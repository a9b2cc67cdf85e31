"""How rows get onto the bus: one connection that sends them in Kafka transactions, by kafka-python or by librdkafka.

kafka-python is the default and needs nothing but Python. librdkafka (the extra `fast`) spends a tenth of its time on
a record. Both write the same records to the same partitions, under the same transactional id and with the same position
committed, so an outbox may be sent by the one today and by the other tomorrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal, Protocol

import kafka.errors as kafka_errors
from kafka import KafkaProducer
from kafka.structs import OffsetAndMetadata, TopicPartition

from producers.outbox import Waiting
from schemas.errors import InputError

TransportName = Literal["kafka-python", "librdkafka"]
BATCH = 1 << 18  # bytes of a batch, before it is compressed
LARGEST_REQUEST = 1 << 20
RETRY_MS = 20  # kafka-python waits so long four times before its first row, for each thing it does not know yet: 100 by default
COMPRESSION = "zstd"  # of librdkafka; kafka-python has gzip without a further library


class MissingTopicError(Exception):
    """The bus has no such topic, or not yet."""


class Transport(Protocol):
    """One connection; on any error it is of no more use, and the next one ends what it left open."""

    def open(self) -> None:
        """Connect, and end what an earlier connection of this name left open."""

    def begin(self) -> None:
        """Begin a transaction."""

    def produce(self, rows: Sequence[Waiting]) -> None:
        """Put rows into the transaction: a key's all into one partition, in their order."""

    def position(self, rows: Sequence[Waiting], name: str) -> None:
        """Put the position behind the rows into the transaction, with its name."""

    def commit(self) -> None:
        """All of it is on the bus; or an error, and then none of it, or the answer was lost."""

    def abort(self) -> None:
        """None of it is on the bus."""

    def close(self) -> None:
        """Leave in good order."""

    def abandon(self) -> None:
        """Leave at once, a transaction open."""


def connect(
    name: TransportName, client: Mapping[str, Any], servers: str, ids: tuple[str, str], seconds: float
) -> Transport:
    """A transport, not yet open. `client`: kafka-python's settings; `ids`: the transactional id, and the group."""
    made = _KafkaPython if name == "kafka-python" else _Librdkafka
    return made(client, servers, *ids, seconds)


def check_transport(name: TransportName, client: Mapping[str, Any]) -> None:
    """InputError where it is not installed, or has no name for a security setting."""
    if name == "librdkafka":
        _librdkafka()
        librdkafka_settings(client)


def _librdkafka() -> Any:
    try:
        import confluent_kafka
    except ImportError:
        raise InputError(
            "SUIBUS_TRANSPORT is librdkafka, which is not installed. In the project's folder: pip install '.[fast]'",
            "SUIBUS_TRANSPORT 设为 librdkafka，但尚未安装。请在项目文件夹执行：pip install '.[fast]'",
        ) from None
    return confluent_kafka


def _headers(row: Waiting) -> list[tuple[str, bytes]] | None:
    named = [] if row.sequence is None else [("sequence", row.sequence)]
    if row.answers is not None:
        named.append(("answers", row.answers.encode()))
    return named or None


class _KafkaPython:
    def __init__(
        self, client: Mapping[str, Any], servers: str, transactional_id: str, group: str, seconds: float
    ) -> None:
        self._group = group
        self._futures: list[Any] = []
        wait_ms = int(seconds * 1000)
        self._producer = KafkaProducer(
            **client, bootstrap_servers=servers.split(","), bootstrap_timeout_ms=wait_ms, max_block_ms=wait_ms,
            transactional_id=transactional_id, acks="all", compression_type="gzip", batch_size=BATCH, linger_ms=5,
            allow_auto_create_topics=False, metrics_enabled=False, retry_backoff_ms=RETRY_MS,
        )  # fmt: skip

    def open(self) -> None:
        self._producer.init_transactions()

    def begin(self) -> None:
        self._producer.begin_transaction()

    def produce(self, rows: Sequence[Waiting]) -> None:
        send = self._producer.send
        # Where there is one partition no key needs hashing.
        only = {t: 0 if len(self._partitions(t)) == 1 else None for t in {row.topic for row in rows}}
        self._futures = [
            send(row.topic, row.value, row.key, _headers(row), only[row.topic], row.timestamp_ms) for row in rows
        ]

    def _partitions(self, topic: str) -> set[int]:
        try:
            return set(self._producer.partitions_for(topic))
        except kafka_errors.KafkaTimeoutError as error:
            raise MissingTopicError(str(error)) from None

    def position(self, rows: Sequence[Waiting], name: str) -> None:
        place = TopicPartition(rows[0].topic, 0)
        self._producer.send_offsets_to_transaction({place: OffsetAndMetadata(rows[-1].seq + 1, name, -1)}, self._group)

    def commit(self) -> None:
        self._producer.flush()
        for future in self._futures:  # none is committed unless each is acknowledged
            if future.failed():
                raise future.exception
        self._producer.commit_transaction()

    def abort(self) -> None:
        self._producer.abort_transaction()

    def close(self) -> None:
        self._producer.close(timeout=5)

    def abandon(self) -> None:
        # close() would first wait for batches nobody takes; the next connection ends the transaction.
        self._producer._sender.force_close()
        self._producer._sender.join(2)
        with suppress(kafka_errors.KafkaError):
            self._producer.close(timeout=0)


# kafka-python's name of a security setting, and librdkafka's.
_SECURITY = {
    "security_protocol": "security.protocol",
    "ssl_cafile": "ssl.ca.location",
    "ssl_certfile": "ssl.certificate.location",
    "ssl_keyfile": "ssl.key.location",
    "ssl_password": "ssl.key.password",
    "sasl_mechanism": "sasl.mechanism",
    "sasl_plain_username": "sasl.username",
    "sasl_plain_password": "sasl.password",
}


def librdkafka_settings(client: Mapping[str, Any]) -> dict[str, Any]:
    """kafka-python's security settings under librdkafka's names; InputError for one that it has no name for.

    A setting that was passed over in silence could let in a broker that kafka-python would refuse.
    """
    found = {_SECURITY[name]: str(value) for name, value in client.items() if name in _SECURITY}
    rest = {name: value for name, value in client.items() if name not in _SECURITY}
    if "ssl_check_hostname" in rest:
        found["ssl.endpoint.identification.algorithm"] = "https" if rest.pop("ssl_check_hostname") else "none"
    if rest:
        names = ", ".join(sorted(rest))
        raise InputError(
            f"librdkafka has no setting for {names}. Leave it out, or send with kafka-python (SUIBUS_TRANSPORT unset).",
            f"librdkafka 没有与 {names} 对应的设置。请去掉该设置，或改用 kafka-python（不设置 SUIBUS_TRANSPORT）。",
        )
    return found


class _Librdkafka:
    def __init__(
        self, client: Mapping[str, Any], servers: str, transactional_id: str, group: str, seconds: float
    ) -> None:
        self._kafka, self._seconds, self._known = _librdkafka(), seconds, set[str]()
        common = {**librdkafka_settings(client), "bootstrap.servers": servers, "log_level": 0}
        self._refused: kafka_errors.KafkaError | None = None
        # Java's partitioner, which is kafka-python's too: else a key's rows would change their partition.
        self._producer = self._kafka.Producer(
            {
                **common, "transactional.id": transactional_id, "compression.type": COMPRESSION,
                "batch.size": BATCH, "linger.ms": 5, "partitioner": "murmur2_random", "allow.auto.create.topics": False,
                "message.max.bytes": LARGEST_REQUEST, "error_cb": self._note,
            }
        )  # fmt: skip
        reader = self._kafka.Consumer({**common, "group.id": group})
        self._group = reader.consumer_group_metadata()  # the only way to it
        reader.close()

    def _note(self, error: Any) -> None:
        if error.code() == self._kafka.KafkaError._AUTHENTICATION:
            self._refused = kafka_errors.SaslAuthenticationFailedError(error.str())

    @contextmanager
    def _as_kafka_python(self) -> Iterator[None]:
        """Errors as kafka-python has them."""
        try:
            yield
        except self._kafka.KafkaException as error:
            raise self._refused or _error(error.args[0]) from None
        except BufferError as error:
            raise TimeoutError(str(error)) from None

    def open(self) -> None:
        with self._as_kafka_python():
            self._producer.init_transactions(self._seconds)

    def begin(self) -> None:
        with self._as_kafka_python():
            self._producer.begin_transaction()

    def produce(self, rows: Sequence[Waiting]) -> None:
        produce = self._producer.produce
        with self._as_kafka_python():
            for topic in {row.topic for row in rows} - self._known:
                found = self._producer.list_topics(topic, self._seconds).topics[topic]
                if found.error is not None:
                    raise _error(found.error)
                self._known.add(topic)
            for row in rows:
                if row.value is not None and row.answers is None:
                    produce(row.topic, row.value, row.key, timestamp=row.timestamp_ms)
                else:
                    produce(row.topic, row.value, row.key, timestamp=row.timestamp_ms, headers=_headers(row) or [])

    def position(self, rows: Sequence[Waiting], name: str) -> None:
        place = self._kafka.TopicPartition(rows[0].topic, 0, rows[-1].seq + 1, metadata=name)
        with self._as_kafka_python():
            self._producer.send_offsets_to_transaction([place], self._group, self._seconds)

    def commit(self) -> None:
        with self._as_kafka_python():
            self._producer.commit_transaction(self._seconds)  # first flushes; a row that failed fails it

    def abort(self) -> None:
        with self._as_kafka_python():
            self._producer.abort_transaction(self._seconds)

    def close(self) -> None:
        self._producer.close()

    def abandon(self) -> None:
        with suppress(self._kafka.KafkaException):
            self._producer.purge()


def _error(error: Any) -> Exception:
    """What the sender knows, of librdkafka's error: the broker's by its number, its own by what to do."""
    if error.code() in (error.UNKNOWN_TOPIC_OR_PART, error._UNKNOWN_TOPIC, error._UNKNOWN_PARTITION):
        return MissingTopicError(error.str())
    if error.code() == error._TIMED_OUT:
        return TimeoutError(error.str())
    known: type[Exception] = (
        kafka_errors.for_code(error.code()) if error.code() > 0 else kafka_errors.KafkaConnectionError
    )
    return known(error.str())
