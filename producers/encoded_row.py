"""One row as it goes to the bus: the bytes of its key and value."""

from __future__ import annotations

from typing import NamedTuple


class EncodedRow(NamedTuple):
    """One row that the outbox is to accept; without a value it is a tombstone. `sequence` is the text of the row's sequence column.

    `answers`: the id of the receipt that the row answers. `timestamp_ms`: the Kafka timestamp to send the row with, that of
    the refused record if timestamps order the versions; None for the current time. A time later than the outbox's clock is
    replaced by the clock's time.
    """

    key: bytes
    value: bytes | None
    sequence: bytes | None = None
    answers: str | None = None
    timestamp_ms: int | None = None
