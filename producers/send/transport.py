"""The port of the sender: one connection that writes rows to the bus in transactions, and can ask which were committed.

Every transport writes the same records to the same partitions, under the same transactional id, and commits the same
position, so one can continue an outbox that another has begun to send. `producers.send.connect` chooses one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

from producers.outbox import Outbox, Waiting
from schemas.ports.kafka_access import KafkaAccess

TransportName = Literal["kafka-python", "librdkafka"]
BATCH = 1 << 18  # bytes of a batch that a client sends to one partition, before it is compressed


class Identity(NamedTuple):
    """The transactional id and the consumer group of an outbox, the same for every transport.

    The group has no consumers; the position in the outbox is committed as its offset.
    """

    transactional_id: str
    group: str

    @classmethod
    def of(cls, outbox: Outbox) -> Identity:
        """The names of one outbox. With another transactional id, a killed sender's transaction would not be ended.

        Both begin with the district, as the access rights on the bus do, so no other district can read the position.
        """
        return cls(f"suibus.{outbox.district}.{outbox.uuid}", f"suibus.{outbox.district}.outbox.{outbox.uuid}")


class TransportError(Exception):
    """The bus did not accept a request; the message has the cause. A new connection may succeed."""


class MissingTopicError(TransportError):
    """The topic does not exist on the bus, or not yet."""


class RefusedError(TransportError):
    """The bus refuses the request, and trying again does not help."""


class ForbiddenError(RefusedError):
    """This node has no right to write the topic."""


class Transport(Protocol):
    """One connection. Any method may raise TransportError or OSError (a TimeoutError is one).

    After an error the connection cannot be used any more: `abandon` it. The `open` of the next one ends its transaction.
    """

    def open(self) -> None:
        """Connect, and end the transaction that an earlier connection of this identity left open."""

    def committed(self, name: str) -> int | None:
        """The position that the transaction of this name committed; None if it was not committed."""

    def begin(self) -> None:
        """Begin a transaction."""

    def produce(self, rows: Sequence[Waiting]) -> None:
        """Add rows to the transaction: all rows of a key go to one partition, in their order."""

    def add_position(self, rows: Sequence[Waiting], name: str) -> None:
        """Add the position, the last row's seq + 1, and the transaction's name as its metadata, to the transaction."""

    def commit(self) -> None:
        """Commit the transaction. After an error either nothing of it is on the bus, or all of it and the answer was lost."""

    def abort(self) -> None:
        """Abort the transaction: none of its rows becomes readable."""

    def close(self) -> None:
        """Close the connection after its last transaction has ended."""

    def abandon(self) -> None:
        """Close the connection at once, even if a transaction is open."""

    def why_refused(self) -> tuple[str, str] | None:
        """Why the bus refuses this node and what to do, English and Chinese; None if the access is not the problem."""


# Returns a transport that is not open yet; the number is the time limit of one request, in seconds.
Connect = Callable[[KafkaAccess, Identity, float], Transport]


def headers(row: Waiting) -> list[tuple[str, bytes]]:
    """The headers of a row's record: the sequence of a deletion, and the receipt that the row answers."""
    made = [] if row.sequence is None else [("sequence", row.sequence)]
    if row.answers is not None:
        made.append(("answers", row.answers.encode()))
    return made
