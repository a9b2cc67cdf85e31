"""Accept rows of one dataset for one district into the outbox, and send the outbox."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from producers.outbox import CHUNK, Entry, Outbox
from producers.send.background_sender import Ahead, Order
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

    A row that `publish` has taken is kept once its chunk is full or the block is left, also by an exception.
    Leaving the block sends what waits: UnavailableError if the bus is away, and what was accepted is kept.

    `kafka`: the bus, by its address or with credentials. `timeout`: seconds to try, see `flush`. `transport`: what sends, by
    name or by what connects, such as `MemoryBus.connect`. `registry_id`: the schema's in a registry, where there is one.
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
        choose_transport(transport)  # before anything is accepted
        self.dataset = dataset
        self.district = check_district(district)
        self.topic = dataset.topic(district)
        numeric = dataset.sequence is not None and dataset.field(dataset.sequence).kind in _NUMBERS
        self.outbox = Outbox(outbox_path, order=_number if numeric else bytes)
        self._access, self._timeout, self._transport = KafkaAccess.to(kafka), timeout, transport
        self._ahead: Ahead | None = None
        self._encoder = Encoder(dataset, registry_id)
        self._coercer = RowCoercer(dataset, False, district)
        self._coerce_key = self.key_coercer()
        self._taken: list[Entry] = []

    def publish(self, row: Mapping[str, Any]) -> None:
        """Take one row, typed Python values; RowError with every defect if it does not fit the contract."""
        self._take(self.entry(self._coercer.coerce(row)))

    def delete(self, key: Mapping[str, Any]) -> None:
        """Take a deletion: the key columns, and the sequence column if there is one; RowError if unfit."""
        (entry,) = self.tombstones([self._coerce_key(key)])
        if isinstance(entry, RowError):
            raise entry
        self._take(entry)

    def _take(self, entry: Entry) -> None:
        self._taken.append(entry)
        if len(self._taken) >= CHUNK:
            self.accept()

    def accept(self) -> None:
        """Keep what was taken so far: it survives a kill from here on."""
        if self._taken:
            self.outbox.accept(self.topic, self._taken)
            many, self._taken = len(self._taken) >= CHUNK, []
            if many:  # there may be many more
                self.send_ahead()

    def send_ahead(self) -> None:
        """From here on a process beside this one sends what is accepted, until `send` or `stop`.

        None is started for a transport that is not one of ours by name: it may not be able to share what it connects to.
        """
        if self._ahead is None and isinstance(self._transport, str):
            self._ahead = Ahead(Order(self.outbox.path, self._access, self._timeout, self._transport))

    @property
    def sender_pid(self) -> int | None:
        """The id of the process that sends beside this one, if there is one."""
        return self._ahead.pid if self._ahead else None

    def send(self, progress: Callable[[int], None] | None = None) -> FlushInfo:
        """Send all that waits in the outbox; UnavailableError if the bus is away."""
        start, sent_ahead = time.monotonic(), 0
        if ahead := self._ahead:
            self._ahead = None
            ahead.finish(progress)
            sent_ahead = ahead.sent
        # Nothing waits any more, unless the process beside was killed.
        info = flush(
            self.outbox.path, self._access, self._timeout, transport=self._transport,
            progress=progress and (lambda sent: progress(sent_ahead + sent)),
        )  # fmt: skip
        return FlushInfo(sent_ahead + info.sent, info.waiting, time.monotonic() - start)

    def stop(self) -> None:
        """End the process that sends beside this one, if there is one; what it has not sent waits."""
        if self._ahead:
            self._ahead.stop()
            self._ahead = None

    def close(self) -> None:
        """Accept and send what was taken; UnavailableError if the bus is away, and it is kept."""
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

    # --- rows to entries --------------------------------------------------------------------------

    def entry(self, row: Mapping[str, Any]) -> Entry:
        """The key, value and sequence of a coerced row; RowError if it is more than the bus takes."""
        key, value = self._encoder.key(row), self._encoder.value(row)
        if (size := len(key) + len(value)) > LARGEST:
            raise RowError(
                [
                    Defect(
                        "",
                        f"{size} bytes",
                        f"the row is larger than the {LARGEST} bytes the bus takes: shorten it",
                        f"该行超过总线可接收的 {LARGEST} 字节：请缩短",
                    )
                ]
            )
        sequence = row[self.dataset.sequence] if self.dataset.sequence else None
        return Entry(key, value, None if sequence is None else sequence_text(sequence))

    def key_coercer(self, text: bool = False, sql: bool = False) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        """What coerces the key columns of rows to delete, with their sequence and district where they have them.

        `text` and `sql` say how the rows' values are written, as `RowCoercer` has it.
        """
        dataset = self.dataset

        @cache
        def coercer_of(present: tuple[str, ...]) -> RowCoercer:
            return RowCoercer(dataset, text, self.district, sql=sql, columns=(*dataset.key, *present))

        def coerce(row: Mapping[str, Any]) -> dict[str, Any]:
            present = (c for c in (dataset.sequence, dataset.district) if c and row.get(c) not in (None, ""))
            return coercer_of(tuple(present)).coerce(row)

        return coerce

    def tombstones(self, rows: Iterable[Mapping[str, Any]]) -> list[Entry | RowError]:
        """A tombstone for each coerced key.

        Its sequence: the row's own, else the one last accepted for the key (the later offset decides), else
        this moment or day where the sequence is a time; else a RowError that asks for the column.
        """
        rows = list(rows)
        name = self.dataset.sequence
        keys = [self._encoder.key(row) for row in rows]
        if name is None:
            return [Entry(key, None) for key in keys]
        known, default = self.outbox.sequences(self.topic, keys), self.sequence_now()
        made: list[Entry | RowError] = []
        for row, key in zip(rows, keys, strict=True):
            own = row.get(name)
            sequence = sequence_text(own) if own is not None else known.get(key) or default
            if sequence is None:
                defect = Defect(
                    name,
                    "(absent)",
                    "a deletion needs its sequence, since none is known for this key: add the column",
                    "删除需要顺序值，而此主键没有已知的顺序值：请添加该列",
                )
                made.append(RowError([defect]))
            else:
                made.append(Entry(key, None, sequence))
        return made

    def sequence_now(self) -> bytes | None:
        """This moment or day as a sequence, where the dataset's sequence is one."""
        now = datetime.now(UTC)
        kind = self.dataset.field(self.dataset.sequence).kind if self.dataset.sequence else ""
        return {"timestamp": sequence_text(now), "date": sequence_text(now.date())}.get(kind)


def _number(sequence: bytes) -> Decimal:
    return Decimal(sequence.decode())
