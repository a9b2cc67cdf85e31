"""The port under the sender: one connection that puts rows onto the bus in transactions, and knows which of them arrived.

Every transport writes the same records to the same partitions, under the same transactional id and with the same position
committed, so an outbox may be sent by one today and by another tomorrow. `producers.send.connect` chooses one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

from producers.outbox import Outbox, Waiting
from schemas.ports.kafka_access import KafkaAccess

TransportName = Literal["kafka-python", "librdkafka"]


class Identity(NamedTuple):
    """The names under which an outbox is sent, whoever sends it: Kafka keeps its transaction and its position by them."""

    transactional_id: str
    group: str

    @classmethod
    def of(cls, outbox: Outbox) -> Identity:
        """The outbox's own names: under others a killed sender's transaction could still end.

        They begin as the rights of its district do, so no other district can read how far the outbox is.
        """
        return cls(f"suibus.{outbox.district}.{outbox.uuid}", f"suibus.{outbox.district}.outbox.{outbox.uuid}")


class TransportError(Exception):
    """The bus did not take it; its text says why. A new connection may succeed."""


class MissingTopicError(TransportError):
    """The bus has no such topic, or not yet."""


class RefusedError(TransportError):
    """The bus refuses it, and no waiting changes that."""


class ForbiddenError(RefusedError):
    """The bus does not let this node write the topic."""


class Transport(Protocol):
    """One connection. Any method may raise TransportError, OSError or TimeoutError.

    After an error the connection is of no more use: `abandon` it, and the `open` of the next one ends its transaction.
    """

    def open(self) -> None:
        """Connect, and end the transaction that an earlier connection of this identity left open."""

    def committed(self, name: str) -> int | None:
        """The position that the transaction of this name has committed; None if no transaction of it is on the bus."""

    def begin(self) -> None:
        """Begin a transaction."""

    def produce(self, rows: Sequence[Waiting]) -> None:
        """Put rows into the transaction: all rows of a key into one partition, in their order."""

    def position(self, rows: Sequence[Waiting], name: str) -> None:
        """Put the position behind the last row, and the transaction's name, into the transaction."""

    def commit(self) -> None:
        """All of the transaction is on the bus. After an error none of it is, or all of it and the answer was lost."""

    def abort(self) -> None:
        """Nothing of the transaction is on the bus."""

    def close(self) -> None:
        """End the connection in good order."""

    def abandon(self) -> None:
        """End the connection at once, also with a transaction open."""

    def why_refused(self) -> tuple[str, str] | None:
        """What a person must do before the bus lets this node in, English and Chinese; None if that is not what is wrong."""


Connect = Callable[
    [KafkaAccess, Identity, float], Transport
]  # not open yet; the seconds are the most that one step may take


def headers(row: Waiting) -> list[tuple[str, bytes]]:
    """The headers of a row's record: the sequence of a deletion, and the receipt that the row answers."""
    made = [] if row.sequence is None else [("sequence", row.sequence)]
    if row.answers is not None:
        made.append(("answers", row.answers.encode()))
    return made
