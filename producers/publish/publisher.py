"""Accept rows of one dataset for one district into the outbox, and send the outbox."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from producers.encoded_row import EncodedRow
from producers.outbox import CHUNK, Outbox
from producers.send.background_sender import BackgroundSender, SendOrder
from producers.send.connect import choose_transport
from producers.send.sender import FlushInfo, flush
from producers.send.transport import Connect, TransportName
from schemas.dataset import Dataset
from schemas.districts import check_district
from schemas.ports.kafka_access import KafkaAccess
from schemas.row.coercer import Defect, RowCoercer, RowError
from schemas.wire.avro import LARGEST
from schemas.wire.encoder import Encoder, sequence_text

_NUMBERS = ("int", "long", "float", "double", "decimal", "date", "timestamp")


class Publisher:
    """Publishes rows of one dataset for one district, as a context manager.

    A row given to `publish` is stored in the outbox once its chunk is full or the block is left, also by an exception.
    Leaving the block without an exception sends what waits. UnavailableError if the bus cannot be reached; the accepted rows
    stay in the outbox.

    `kafka`: the address of the bus, or the access with credentials. `timeout`: seconds, see `flush`. `transport`: the name of
    a transport, or a function that connects, such as `MemoryBus.connect`. `registry_id`: the id of the schema in a registry,
    if one is used.
    """

    def __init__(
        self,
        dataset: Dataset,
        district: str,
        outbox_path: str | Path,
        kafka: KafkaAccess | str,
        *,
        timeout: float = 30.0,
        transport: TransportName | Connect = "kafka-python",
        registry_id: int | None = None,
    ) -> None:
        choose_transport(transport)  # raises before any row is accepted
        self.dataset = dataset
        self.district = check_district(district)
        self.topic = dataset.topic(district)
        numeric = dataset.sequence is not None and dataset.field(dataset.sequence).kind in _NUMBERS
        self.outbox = Outbox(outbox_path, order=_number if numeric else bytes)
        self._access, self._timeout, self._transport = KafkaAccess.to(kafka), timeout, transport
        self._background: BackgroundSender | None = None
        self._encoder = Encoder(dataset, registry_id)
        self._coercer = RowCoercer(dataset, False, district)
        self._coerce_key = self.key_coercer()
        self._taken: list[EncodedRow] = []

    def publish(self, row: Mapping[str, Any]) -> None:
        """Take one row of typed Python values; RowError with every defect if it does not fit the contract."""
        self._take(self.encode(self._coercer.coerce(row)))

    def delete(self, key: Mapping[str, Any]) -> None:
        """Take a deletion: the key columns, and the sequence column if there is one; RowError if they do not fit."""
        (entry,) = self.tombstones([self._coerce_key(key)])
        if isinstance(entry, RowError):
            raise entry
        self._take(entry)

    def _take(self, entry: EncodedRow) -> None:
        self._taken.append(entry)
        if len(self._taken) >= CHUNK:
            self.accept()

    def accept(self) -> None:
        """Store the rows taken so far in the outbox; afterwards they survive a kill."""
        if self._taken:
            self.outbox.accept(self.topic, self._taken)
            full_chunk, self._taken = len(self._taken) >= CHUNK, []
            if full_chunk:  # there is probably more: send while it is taken
                self.send_in_background()

    def send_in_background(self) -> None:
        """Start a process that sends accepted rows until `send` or `stop`, unless one runs already.

        Nothing is started if the transport was given as a function: another process may not reach what it connects to.
        """
        if self._background is None and isinstance(self._transport, str):
            order = SendOrder(self.outbox.path, self._access, self._timeout, self._transport)
            self._background = BackgroundSender(order)

    def send(self, progress: Callable[[int], None] | None = None) -> FlushInfo:
        """Send all rows that wait in the outbox; UnavailableError if the bus cannot be reached, and they stay there."""
        start, sent_in_background = time.monotonic(), 0
        if background := self._background:
            self._background = None
            background.finish(progress)
            sent_in_background = background.sent
        # Nothing waits now, unless the background sender was killed.
        info = flush(
            self.outbox.path, self._access, self._timeout, transport=self._transport,
            progress=progress and (lambda sent: progress(sent_in_background + sent)),
        )  # fmt: skip
        return FlushInfo(sent_in_background + info.sent, info.waiting, time.monotonic() - start)

    def stop(self) -> None:
        """End the background sender, if one runs; what it has not sent stays in the outbox."""
        if self._background:
            self._background.stop()
            self._background = None

    def close(self) -> None:
        """Accept and send the rows taken; UnavailableError if the bus cannot be reached, and they stay in the outbox."""
        try:
            self.accept()
            self.send()
        finally:
            self.stop()
            self.outbox.close()

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self.close()
            return
        try:
            self.accept()
        finally:
            self.stop()
            self.outbox.close()

    # --- encoding -----------------------------------------------------------------------------------

    def encode(self, row: Mapping[str, Any]) -> EncodedRow:
        """The key, value and sequence of a coerced row; RowError if it is larger than the bus accepts."""
        key, value = self._encoder.key(row), self._encoder.value(row)
        if (size := len(key) + len(value)) > LARGEST:
            raise RowError(
                [
                    Defect(
                        "",
                        f"{size} bytes",
                        f"the row is larger than the {LARGEST} bytes that the bus accepts: shorten it",
                        f"该行超过总线可接收的 {LARGEST} 字节：请缩短",
                    )
                ]
            )
        sequence = row[self.dataset.sequence] if self.dataset.sequence else None
        return EncodedRow(key, value, None if sequence is None else sequence_text(sequence))

    def key_coercer(self, text: bool = False, sql: bool = False) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        """A function that coerces the key columns of a row to delete, and its sequence and district columns if it has them.

        `text` and `sql`: how the values are written, see `RowCoercer`.
        """
        dataset = self.dataset

        @cache
        def coercer_of(present: tuple[str, ...]) -> RowCoercer:
            return RowCoercer(dataset, text, self.district, sql=sql, columns=(*dataset.key, *present))

        def coerce(row: Mapping[str, Any]) -> dict[str, Any]:
            present = (c for c in (dataset.sequence, dataset.district) if c and row.get(c) not in (None, ""))
            return coercer_of(tuple(present)).coerce(row)

        return coerce

    def tombstones(self, rows: Iterable[Mapping[str, Any]]) -> list[EncodedRow | RowError]:
        """A tombstone for each coerced key, or the RowError of a key whose sequence is not known.

        The sequence is that of the row, else the one last accepted for the key (its later offset makes the tombstone
        newer), else the current time or day if the sequence is a timestamp or date.
        """
        rows = list(rows)
        name = self.dataset.sequence
        keys = [self._encoder.key(row) for row in rows]
        if name is None:
            return [EncodedRow(key, None) for key in keys]
        known, default = self.outbox.sequences(self.topic, keys), self.sequence_now()
        made: list[EncodedRow | RowError] = []
        for row, key in zip(rows, keys, strict=True):
            own = row.get(name)
            sequence = sequence_text(own) if own is not None else known.get(key) or default
            if sequence is None:
                defect = Defect(
                    name,
                    "(absent)",
                    "a deletion needs its sequence, and the outbox knows none for this key: add the column",
                    "删除需要顺序值，而发件箱中没有此主键的顺序值：请添加该列",
                )
                made.append(RowError([defect]))
            else:
                made.append(EncodedRow(key, None, sequence))
        return made

    def sequence_now(self) -> bytes | None:
        """The current time or day as a sequence; None if the dataset's sequence is not a timestamp or date."""
        now = datetime.now(UTC)
        kind = self.dataset.field(self.dataset.sequence).kind if self.dataset.sequence else ""
        return {"timestamp": sequence_text(now), "date": sequence_text(now.date())}.get(kind)


def _number(sequence: bytes) -> Decimal:
    return Decimal(sequence.decode())
