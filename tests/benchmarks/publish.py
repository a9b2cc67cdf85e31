"""How many rows a node publishes per second, compared with fastavro, kafka-python and librdkafka alone.

Ours is `publish_source`: each row is validated, encoded, kept in the outbox (SQLite, synced), sent in transactions, acknowledged
by a real broker, and removed from the outbox. The peers do less: a loop over rows that are known to be right, which a kill loses.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from confluent_kafka import Producer
from fastavro import parse_schema, schemaless_writer
from kafka import KafkaProducer

import producers.send.librdkafka
from infra.kafka.broker import Broker
from infra.kafka.topics import Kafka
from infra.settings import Settings
from producers.encoded_row import EncodedRow
from producers.outbox import CHUNK, Outbox
from producers.publish.delivery import publish_source
from producers.publish.publisher import Publisher
from producers.send.sender import flush
from producers.send.transport import TransportName
from producers.sources.source import Record, Source
from schemas.row.coercer import RowCoercer
from schemas.wire.avro import avro_schema
from tests.benchmarks.data import contract, rows
from tests.benchmarks.rows import Row, in_turns, timed

DISTRICT = "440106"
OURS = "validated, encoded, kept in the outbox (synced), sent in transactions, acknowledged, let go; a sender process beside"
FASTAVRO = "schemaless_writer in a loop over the same typed rows, nothing else"
KAFKA_PYTHON = "fastavro and send() in a loop, then flush(): acks=all, gzip, linger 20 ms, batches of 256 KiB"
LIBRDKAFKA = "fastavro and produce() in a loop, then flush(): acks=all, zstd, linger 20 ms, batches of 256 KiB"
FAST: TransportName = "librdkafka"
DEFAULT: TransportName = "kafka-python"


class Side:
    """The same rows of one width for each side; every call returns rows per second."""

    def __init__(self, columns: int, count: int, folder: Path, servers: str) -> None:
        self.dataset = contract(f"wide{columns}", columns)
        self.rows = rows(self.dataset, count, DISTRICT, seed=columns)
        self.topic = self.dataset.topic(DISTRICT)
        self.servers, self._folder, self._numbers = servers, folder / str(columns), itertools.count()
        self._schema = parse_schema(avro_schema(self.dataset))
        Kafka(servers).ensure([self.topic], 1, 1)

    def _rate(self, call: Callable[[], object]) -> float:
        return len(self.rows) / timed(call)

    def _outbox(self) -> Path:
        return self._folder / f"{next(self._numbers)}.sqlite"

    def ours(self, transport: TransportName, count: int | None = None) -> float:
        """A whole publish."""
        mine = self.rows[:count]
        publisher = Publisher(self.dataset, DISTRICT, self._outbox(), self.servers, transport=transport)
        source = Source("rows", lambda: (Record(n, None, row) for n, row in enumerate(mine, 1)), total=len(mine))

        def publish() -> None:
            info = publish_source(publisher, source)
            assert (info.sent, info.waiting, info.problem) == (len(mine), 0, None), info

        with publisher.outbox:
            return self._rate(publish)

    def _values(self) -> Iterator[tuple[bytes, bytes]]:
        for row in self.rows:
            out = BytesIO()
            schemaless_writer(out, self._schema, row)
            yield row["id"].encode(), out.getvalue()

    def fastavro(self) -> float:
        """Encoding alone."""

        def encode() -> None:
            for row in self.rows:
                out = BytesIO()
                schemaless_writer(out, self._schema, row)
                out.getvalue()

        return self._rate(encode)

    def kafka_python(self) -> float:
        """The plain loop."""
        producer = KafkaProducer(
            bootstrap_servers=self.servers, acks="all", compression_type="gzip", linger_ms=20, batch_size=1 << 18
        )

        def send() -> None:
            for key, value in self._values():
                producer.send(self.topic, value, key)
            producer.flush()

        try:
            return self._rate(send)
        finally:
            producer.close()

    def librdkafka(self) -> float:
        """The plain loop."""
        settings: dict[str, Any] = {
            "bootstrap.servers": self.servers, "acks": "all", "compression.type": "zstd", "linger.ms": 20,
            "batch.size": 1 << 18,
        }  # fmt: skip
        producer = Producer(settings)

        def send() -> None:
            for n, (key, value) in enumerate(self._values()):
                producer.produce(self.topic, value, key)
                if n % 10_000 == 0:
                    producer.poll(0)
            assert producer.flush(60) == 0

        return self._rate(send)

    # what each stage costs

    def encoding(self) -> tuple[list[EncodedRow], float]:
        """Validating and encoding alone."""
        coerce = RowCoercer(self.dataset, False, DISTRICT).coerce
        publisher = Publisher(self.dataset, DISTRICT, self._outbox(), self.servers)
        made: list[EncodedRow] = []
        with publisher.outbox:
            rate = self._rate(lambda: made.extend(publisher.encode(coerce(row)) for row in self.rows))
        return made, rate

    def keeping(self, rows: list[EncodedRow]) -> tuple[Path, float]:
        """Into the outbox, chunk by chunk."""
        with Outbox(path := self._outbox()) as outbox:
            chunks = [rows[at : at + CHUNK] for at in range(0, len(rows), CHUNK)]

            def keep() -> None:
                for chunk in chunks:
                    outbox.accept(self.topic, chunk)

            return path, self._rate(keep)

    def sending(self, rows: list[EncodedRow], transport: TransportName) -> float:
        """From the outbox to the bus."""
        path, _ = self.keeping(rows)
        return self._rate(lambda: flush(path, self.servers, transport=transport))


def run(quick: bool) -> Iterator[Row]:
    """The rows of the table."""
    with TemporaryDirectory() as folder:
        broker = Broker(Settings(home=Path(folder) / "bus"))
        servers = broker.start()
        try:
            for columns, count in ((68, 5_000), (12, 10_000)) if quick else ((68, 50_000), (12, 100_000)):
                side = Side(columns, count, Path(folder), servers)
                for transport in (FAST, DEFAULT):
                    side.ours(transport, 4 * CHUNK)  # so that the broker's code is compiled and the topic exists
                yield from _whole(side, columns, 2 if quick else 3)
                if not quick:
                    yield from _stages(side, columns)
        finally:
            broker.stop()


def _whole(side: Side, columns: int, runs: int) -> Iterator[Row]:
    fast, default, fastavro, kafka_python, librdkafka = in_turns(
        runs, lambda: side.ours(FAST), lambda: side.ours(DEFAULT), side.fastavro, side.kafka_python, side.librdkafka
    )
    peers = (
        ("fastavro", "fastavro's encoding alone", fastavro, FASTAVRO, 0.8 if columns == 68 else None),
        ("kafka_python", "a plain kafka-python loop", kafka_python, KAFKA_PYTHON, 3.0 if columns == 12 else None),
        ("librdkafka", "a plain librdkafka loop", librdkafka, LIBRDKAFKA, None),
    )
    for name, what, peer, does, target in peers:
        for transport, ours in ((FAST, fast), (DEFAULT, default)):
            yield Row(
                f"publish.{columns}.{name}" + ("" if transport == FAST else ".default"),
                f"publish {columns} columns with {transport}",
                ours,
                "rows/s",
                "higher",
                target if transport == FAST else None,
                peer,
                what,
                note=f"ours: {OURS}; SUIBUS_TRANSPORT={transport}. peer: {does}.",
            )


def _stages(side: Side, columns: int) -> Iterator[Row]:
    encoding, keeping = [], []
    sending: dict[str, list[float]] = {}
    for _ in range(2):
        rows, rate = side.encoding()
        encoding.append(rate)
        keeping.append(side.keeping(rows)[1])
        sending.setdefault(f"send with {DEFAULT}, gzip", []).append(side.sending(rows, DEFAULT))
        chosen = producers.send.librdkafka.COMPRESSION
        for codec in (None, "none", "gzip", "lz4"):
            producers.send.librdkafka.COMPRESSION = codec or chosen
            sending.setdefault(f"send with {FAST}, {codec or chosen}", []).append(side.sending(rows, FAST))
        producers.send.librdkafka.COMPRESSION = chosen
    note = "one stage alone, one after the other; a publish runs the first two beside the third"
    for name, rates in {"validate and encode": encoding, "keep in the outbox": keeping, **sending}.items():
        stage = f"publish.{columns}.stage.{name.replace(', ', '.').replace(' ', '_')}"
        yield Row(stage, f"{name}, {columns} columns", rates, "rows/s", "higher", None, note=note)
