"""A bus in memory, for the tests of whoever publishes: with transactions and positions as a Kafka has them, and with faults.

    bus = MemoryBus()
    with Publisher(dataset, "440106", "outbox.sqlite", "memory", transport=bus.connect) as publisher:
        publisher.publish(row)
    assert [record.key for record in bus.records(publisher.topic)] == [b'{"code":"1"}']

What it holds ends with its process. It lets everybody in, and makes a topic when its first row comes. With
`bus.faults = {"away"}` nothing reaches it, with `bus.faults = set()` all is well again.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Sequence
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
    "commit hangs",  # likewise, and the call returns only when the fault is over
]


class BusRecord(NamedTuple):
    """A record as a reader of committed transactions finds it."""

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes | None
    timestamp_ms: int
    headers: tuple[tuple[str, bytes], ...]


class MemoryBus:
    """The bus itself: several threads may send to it at once. What is in `faults` goes wrong, as long as it is in it."""

    def __init__(self, *faults: Fault, partitions: int = 1) -> None:
        self.faults: set[Fault] = set(faults)
        self.partitions = partitions  # of each topic
        # What its connections share, under the lock.
        self._lock = threading.Lock()
        self._topics: dict[str, list[list[BusRecord]]] = {}
        # Of a group, by topic, with the name of its transaction.
        self._positions: dict[str, dict[str, tuple[int, str]]] = defaultdict(dict)
        self._newest: dict[str, Transport] = {}  # by transactional id

    def connect(self, _: KafkaAccess, identity: Identity, __: float) -> Transport:
        """A connection to this bus: what `flush` and `Publisher` take as `transport`."""
        return _Connection(self, identity)

    def records(self, topic: str) -> list[BusRecord]:
        """The committed records of a topic, partition after partition, each in the order of its offsets."""
        with self._lock:
            return [record for partition in self._topics.get(topic, ()) for record in partition]

    def _append(self, rows: Sequence[Waiting]) -> None:
        """Put rows behind the records of their topics; whoever calls it holds the lock."""
        for row in rows:
            topic = self._topics.setdefault(row.topic, [[] for _ in range(self.partitions)])
            number = (murmur2(row.key) & 0x7FFFFFFF) % self.partitions
            partition = topic[number]
            partition.append(
                BusRecord(row.topic, number, len(partition), row.key, row.value, row.timestamp_ms, tuple(headers(row)))
            )


class _Connection(Transport):
    """A connection holds its open transaction itself, so one that is abandoned leaves nothing on the bus."""

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
        self._alive()
        with self._bus._lock:
            found = self._bus._positions[self._identity.group].values()
            return max((position for position, of in found if of == name), default=None)

    def begin(self) -> None:
        self._alive()
        self._rows, self._position = [], None

    def produce(self, rows: Sequence[Waiting]) -> None:
        self._alive()
        self._refuse_if("no such topic", MissingTopicError)
        self._refuse_if("not allowed", ForbiddenError)
        self._rows += rows

    def position(self, rows: Sequence[Waiting], name: str) -> None:
        self._alive()
        self._position = rows[0].topic, rows[-1].seq + 1, name

    def commit(self) -> None:
        self._alive()
        self._refuse_if("commit fails", TransportError)
        with self._bus._lock:
            self._bus._append(self._rows)
            if self._position:
                topic, position, name = self._position
                self._bus._positions[self._identity.group][topic] = position, name
        while "commit hangs" in self._bus.faults:
            time.sleep(0.01)
        self._refuse_if("commit is not answered", TimeoutError)

    def abort(self) -> None:
        self._alive()
        self._rows, self._position = [], None

    def close(self) -> None:
        pass

    def abandon(self) -> None:
        pass

    def why_refused(self) -> tuple[str, str] | None:
        if "credentials refused" not in self._bus.faults:
            return None
        return "it refuses the credentials of this node", "总线拒绝了本节点的凭据"

    def _alive(self) -> None:
        self._refuse_if("away", TransportError)
        if self._bus._newest.get(self._identity.transactional_id) is not self:
            raise TransportError("a newer connection of the same transactional id has taken over")

    def _refuse_if(self, fault: Fault, error: type[Exception]) -> None:
        if fault in self._bus.faults:
            raise error(f"the bus in memory: {fault}")
