"""A bus in memory for tests of code that publishes: with transactions and positions like Kafka, and with faults.

    bus = MemoryBus()
    with Publisher(dataset, "440106", "outbox.sqlite", "memory", transport=bus.connect) as publisher:
        publisher.publish(row)
    assert [record.key for record in bus.records(publisher.topic)] == [b'{"code":"1"}']

Its records are gone when the process ends. It needs no credentials, and creates a topic with its first row. With
`bus.faults = {"away"}` it cannot be reached; `bus.faults = set()` ends all faults.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

from kafka.partitioner import murmur2

from producers.outbox import Waiting
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

Fault = Literal[
    "away",  # no connection can be made, and those that are open break
    "no such topic",
    "not allowed",  # to write any topic
    "credentials refused",
    "commit fails",  # nothing of the transaction is on the bus
    "commit is not answered",  # all of it is on the bus, and the sender does not hear of it
    "commit hangs",  # likewise, and the call returns only when the fault is removed
]


class BusRecord(NamedTuple):
    """A record as a consumer of committed transactions reads it."""

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes | None
    timestamp_ms: int
    headers: tuple[tuple[str, bytes], ...]


class MemoryBus:
    """The bus itself; several threads may send to it at once. A fault occurs as long as it is in `faults`."""

    def __init__(self, *faults: Fault, partitions: int = 1) -> None:
        self.faults: set[Fault] = set(faults)
        self.partitions = partitions  # of each topic
        # Shared by all connections; read and changed only under the lock.
        self._lock = threading.Lock()
        self._topics: dict[str, list[list[BusRecord]]] = {}
        # Position and transaction name, by group and topic.
        self._positions: dict[str, dict[str, tuple[int, str]]] = defaultdict(dict)
        self._newest: dict[str, Transport] = {}  # connection, by transactional id

    def connect(self, _: KafkaAccess, identity: Identity, __: float) -> Transport:
        """A connection to this bus: what `flush` and `Publisher` take as `transport`."""
        return _Connection(self, identity)

    def records(self, topic: str) -> list[BusRecord]:
        """The committed records of a topic, partition after partition, each in the order of its offsets."""
        with self._lock:
            return [record for partition in self._topics.get(topic, ()) for record in partition]

    def _append(self, rows: Sequence[Waiting]) -> None:
        """Append rows to their topics; the caller must hold the lock."""
        for row in rows:
            topic = self._topics.setdefault(row.topic, [[] for _ in range(self.partitions)])
            number = (murmur2(row.key) & 0x7FFFFFFF) % self.partitions
            partition = topic[number]
            partition.append(
                BusRecord(row.topic, number, len(partition), row.key, row.value, row.timestamp_ms, tuple(headers(row)))
            )


class _Connection(Transport):
    """A connection keeps the rows of its open transaction itself, so one that is abandoned leaves nothing on the bus."""

    def __init__(self, bus: MemoryBus, identity: Identity) -> None:
        self._bus, self._identity = bus, identity
        self._rows: list[Waiting] = []
        self._position: tuple[str, int, str] | None = None  # topic, position and name

    def open(self) -> None:
        self._refuse_if("away", TransportError)
        self._refuse_if("credentials refused", RefusedError)
        with self._bus._lock:
            self._bus._newest[self._identity.transactional_id] = self

    def committed(self, name: str) -> int | None:
        with self._usable():
            committed = self._bus._positions[self._identity.group].values()
            return max((position for position, transaction in committed if transaction == name), default=None)

    def begin(self) -> None:
        with self._usable():
            self._rows, self._position = [], None

    def produce(self, rows: Sequence[Waiting]) -> None:
        with self._usable():
            self._refuse_if("no such topic", MissingTopicError)
            self._refuse_if("not allowed", ForbiddenError)
            self._rows += rows

    def add_position(self, rows: Sequence[Waiting], name: str) -> None:
        with self._usable():
            self._position = rows[0].topic, rows[-1].seq + 1, name

    def commit(self) -> None:
        with self._usable():
            self._refuse_if("commit fails", TransportError)
            self._bus._append(self._rows)
            if self._position:
                topic, position, name = self._position
                self._bus._positions[self._identity.group][topic] = position, name
        while "commit hangs" in self._bus.faults:
            time.sleep(0.01)
        self._refuse_if("commit is not answered", TimeoutError)

    def abort(self) -> None:
        with self._usable():
            self._rows, self._position = [], None

    def close(self) -> None:
        pass

    def abandon(self) -> None:
        pass

    def why_refused(self) -> tuple[str, str] | None:
        if "credentials refused" not in self._bus.faults:
            return None
        return "it refuses the credentials of this node", "总线拒绝了本节点的凭据"

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Hold the lock of the bus; TransportError if this connection is not the newest of its transactional id."""
        self._refuse_if("away", TransportError)
        with self._bus._lock:
            if self._bus._newest.get(self._identity.transactional_id) is not self:
                raise TransportError("a newer connection of the same transactional id has taken over")
            yield

    def _refuse_if(self, fault: Fault, error: type[Exception]) -> None:
        if fault in self._bus.faults:
            raise error(f"the bus in memory: {fault}")
