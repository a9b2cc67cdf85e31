"""Publish: validate each row, accept it into the outbox, send the outbox; bad rows go to a rejects file.

What `publish_source` has accepted survives a kill and a broker that is away. Publishing the same file again
after an interruption goes on where it stopped, so no row is accepted twice.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

from producers.inbox import Inbox
from producers.outbox import CHUNK, Delivery, Entry, Mode, Outbox, refuse_empty_snapshot
from producers.send.ahead import Background
from producers.send.sender import FlushInfo, flush
from producers.send.transport import TransportName, check_transport
from producers.sources.files import RECEIPT_COLUMNS, Record, Source
from schemas.dataset import Dataset
from schemas.districts import check_district
from schemas.errors import InputError, UnavailableError
from schemas.row.coercer import Defect, RowCoercer, RowError
from schemas.row.shown import clean, show
from schemas.wire.avro import LARGEST
from schemas.wire.encoder import Encoder, sequence_text
from schemas.wire.receipt import Receipt, parse_receipt_id

OLDEST = timedelta(days=360)  # a record of long ago would be removed from its topic, which keeps a year, unread
_NUMBERS = ("int", "long", "float", "double", "decimal", "date", "timestamp")


@dataclass(frozen=True)
class Progress:
    """How far a publish has come: rows so far, and the part of the source, from 0 to 1, if known."""

    read: int
    sent: int
    fraction: float | None


@dataclass(frozen=True)
class PublishInfo:
    """What one publish did, an earlier interrupted part of it included.

    read = accepted + unchanged + rejected (and + deleted, for a file of keys to delete).
    """

    read: int
    accepted: int  # rows with a value, into the outbox
    rejected: int  # in the rejects file
    deleted: int  # tombstones into the outbox
    unchanged: int  # snapshot only
    sent: int  # rows that reached the bus in this run, those that waited before included
    waiting: int  # rows still in the outbox
    resumed: int  # rows that an interrupted run had already read
    rejects_path: Path | None
    seconds: float
    notes: tuple[tuple[str, str], ...] = ()  # what a person should know, English and Chinese
    problem: UnavailableError | None = None  # why rows still wait

    @property
    def exit_status(self) -> int:
        """3: rows wait for the bus; 1: some rows were rejected; 0: all is on the bus."""
        return 3 if self.problem else 1 if self.rejected else 0


class Publisher:
    """Publishes rows of one dataset for one district, as a context manager.

    A row that `publish` has taken is kept once its chunk is full or the block is left, also by an exception.
    Leaving the block sends what waits: UnavailableError if the bus is away, and what was accepted is kept.
    """

    def __init__(
        self,
        dataset: Dataset,
        district: str,
        outbox_path: str | Path,
        bootstrap_servers: str,
        *,
        timeout: float = 30.0,
        client: Mapping[str, Any] | None = None,
        transport: TransportName = "kafka-python",
        registry_id: int | None = None,
    ) -> None:
        check_transport(transport, client or {})
        self.dataset = dataset
        self.district = check_district(district)
        self.topic = dataset.topic(district)
        numeric = dataset.sequence is not None and dataset.field(dataset.sequence).kind in _NUMBERS
        self.outbox = Outbox(outbox_path, order=_number if numeric else bytes)
        self._how = (bootstrap_servers, timeout, client or {}, transport)
        self._background: Background | None = None
        self._encoder = Encoder(dataset, registry_id)
        self._coercer = RowCoercer(dataset, False, district)
        self._deleters: dict[frozenset[str], RowCoercer] = {}
        self._taken: list[Entry] = []

    def publish(self, row: Mapping[str, Any]) -> None:
        """Take one row, typed Python values; RowError with every defect if it does not fit the contract."""
        self._take(self.entry(self._coercer.coerce(row)))

    def delete(self, key: Mapping[str, Any]) -> None:
        """Take a deletion: the key columns, and the sequence column if there is one; RowError if unfit."""
        (entry,) = self.tombstones([self.coerce_key(key, False, False)])
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
        """From here on a process beside this one sends what is accepted, until `send` or `stop`."""
        if self._background is None:
            self._background = Background(self.outbox.path, *self._how)

    def send(self, progress: Callable[[int], None] | None = None) -> FlushInfo:
        """Send all that waits in the outbox; UnavailableError if the bus is away."""
        start, ahead = time.monotonic(), 0
        if background := self._background:
            self._background = None
            background.finish(progress)
            ahead = background.sent
        servers, timeout, client, transport = self._how
        # Nothing waits, unless the process beside was killed.
        info = flush(
            self.outbox.path, servers, timeout, client=client, transport=transport,
            progress=progress and (lambda sent: progress(ahead + sent)),
        )  # fmt: skip
        return FlushInfo(ahead + info.sent, info.waiting, time.monotonic() - start)

    def stop(self) -> None:
        """End the process that sends beside this one, if there is one; what it has not sent waits."""
        if self._background:
            self._background.stop()
            self._background = None

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

    def coerce_key(self, row: Mapping[str, Any], text: bool, sql: bool) -> dict[str, Any]:
        """The key columns of a row to delete, with its sequence and district where it has them."""
        dataset = self.dataset
        present = frozenset(c for c in (dataset.sequence, dataset.district) if c and row.get(c) not in (None, ""))
        coercer = self._deleters.get(present)
        if coercer is None:
            columns = (*dataset.key, *present)
            coercer = RowCoercer(dataset, text, self.district, sql=sql, columns=columns)
            self._deleters[present] = coercer
        return coercer.coerce(row)

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


def publish_source(
    publisher: Publisher,
    source: Source,
    mode: Mode = "append",
    *,
    corrections: Inbox | None = None,
    rejects_path: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> PublishInfo:
    """Publish all rows of a source: accept the good ones, write the bad ones to the rejects file, send.

    Killed and run again on the same file, it goes on where it stopped; after a whole run it begins anew. Good
    rows are never held up by bad ones, nor accepted ones lost to a bus that is away: see `PublishInfo`.
    InputError (nothing was accepted) if the source as a whole cannot be used in this mode.

    `snapshot`: the source is the full dataset of this district; only what differs from the last snapshot is
    published, and keys that are gone are deleted, unless a row was rejected: its key may not be gone.

    `corrections`: each row answers the receipt in its column `_receipt`, which this inbox must hold and which is marked
    as answered once the row is accepted. It takes the refused record's place among the versions of its key: a newer
    one stays.
    """
    start = time.monotonic()
    dataset, outbox = publisher.dataset, publisher.outbox
    path = Path(rejects_path) if rejects_path else default_rejects_path(dataset, publisher.district, source)
    _check_mode(publisher, source, mode, path, corrections is not None)
    delivery = outbox.begin(publisher.topic, dataset.id, publisher.district, source.fingerprint(), mode)
    resumed = delivery.rows_read

    went = 0

    def tell(sent: int = 0) -> None:
        nonlocal went
        went = sent
        if progress:
            done, whole = (source.position(), source.size) if source.size else (delivery.rows_read, source.total)
            if delivery.complete:
                done = whole = 1
            progress(Progress(delivery.rows_read, sent, min(done / whole, 1.0) if whole else None))

    if not delivery.complete:
        with _stopped_on_error(publisher):
            with _Rejects(path, delivery.rejects_size) as rejects:
                to_entries = _entry_maker(publisher, source, mode)
                if corrections:
                    corrections.settle(outbox)  # of a run that was killed
                    to_entries = _answering(to_entries, publisher, corrections, mode)
                records = iter(source.read())
                for _ in islice(records, resumed):
                    pass
                while chunk := list(islice(records, CHUNK)):
                    entries, bad = to_entries(chunk)
                    rejects.write(bad)
                    delivery = outbox.advance(
                        delivery, entries, read=len(chunk), rejected=len(bad), rejects_size=rejects.size
                    )
                    if corrections:
                        corrections.settle(outbox)
                    if len(chunk) == CHUNK:  # there may be many more
                        publisher.send_ahead()
                    tell()
            if mode == "snapshot":
                if not delivery.rows_read:
                    raise refuse_empty_snapshot(source.name)
                if not delivery.rejected:
                    while (after := outbox.delete_gone(delivery, publisher.sequence_now())) is not delivery:
                        delivery = after
            delivery = outbox.complete(delivery)
    problem = None
    try:
        went = publisher.send(tell).sent
    except UnavailableError as error:
        problem = error
    return PublishInfo(
        delivery.rows_read,
        delivery.accepted,
        delivery.rejected,
        delivery.deleted,
        delivery.unchanged,
        went,
        outbox.waiting(),
        resumed,
        path if delivery.rejected else None,
        time.monotonic() - start,
        _notes(delivery, resumed, mode),
        problem,
    )


@contextmanager
def _stopped_on_error(publisher: Publisher) -> Iterator[None]:
    try:
        yield
    except BaseException:
        publisher.stop()
        raise


def _check_mode(publisher: Publisher, source: Source, mode: Mode, rejects_path: Path, corrections: bool) -> None:
    dataset = publisher.dataset
    if corrections and mode == "snapshot":
        raise InputError(
            "A snapshot is the whole of the data and cannot be a file of corrections. Publish them one after the other.",
            "全量快照是全部数据，不能同时是更正文件。请先后分别发布。",
        )
    if source.path and rejects_path.exists() and rejects_path.samefile(source.path):
        raise InputError(
            f"The rejects file {rejects_path} is the input itself. Name another.",
            f"拒收文件 {rejects_path} 就是输入文件本身。请指定其他文件。",
        )
    if mode != "delete" or not dataset.sequence or not source.columns or dataset.sequence in source.columns:
        return
    kind = dataset.field(dataset.sequence).kind
    if kind not in ("timestamp", "date") and not publisher.outbox.has_state(publisher.topic):
        raise InputError(
            f"{source.name}: deleting from {dataset.name} needs its sequence column {dataset.sequence} "
            f"({kind}), so that the deletion is later than what it deletes. Add the column beside the key.",
            f"{source.name}：从 {dataset.name} 删除需要顺序列 {dataset.sequence}（{kind}），"
            "以便删除排在被删内容之后。请在主键旁添加该列。",
        )


def _notes(delivery: Delivery, resumed: int, mode: Mode) -> tuple[tuple[str, str], ...]:
    notes = []
    if resumed:
        notes.append(
            (
                f"An interrupted publish of this file had read {resumed} rows; it went on from there.",
                f"此文件上次发布中断时已读取 {resumed} 行，本次从该处继续。",
            )
        )
    if mode == "snapshot" and delivery.rejected:
        notes.append(
            (
                f"No deletions were derived, since {delivery.rejected} rows were rejected: their keys may "
                "not be gone. Correct them and publish the snapshot again.",
                f"有 {delivery.rejected} 行被拒，其主键未必已删除，因此本次未推导删除。请更正后重新发布全量快照。",
            )
        )
    return tuple(notes)


def default_rejects_path(dataset: Dataset, district: str, source: Source) -> Path:
    """Beside the input, ``<stem>.rejects.csv``; for a query in the current folder."""
    if source.path is not None:
        return source.path.with_name(f"{source.path.stem}.rejects.csv")
    return Path(f"{dataset.name}.{district}.rejects.csv")


Bad = tuple[Record, tuple[Defect, ...]]


def _entry_maker(
    publisher: Publisher, source: Source, mode: Mode
) -> Callable[[list[Record]], tuple[list[Entry], list[Bad]]]:
    """What turns a chunk of records into entries to accept and rows to reject, in order."""
    coercer = RowCoercer(publisher.dataset, source.text, publisher.district, sql=source.sql)

    def upserts(chunk: list[Record]) -> tuple[list[Entry], list[Bad]]:
        entries: list[Entry] = []
        bad: list[Bad] = []
        coerce, entry = coercer.coerce, publisher.entry
        for record in chunk:
            if record.row is None:
                bad.append((record, record.defects))
                continue
            try:
                entries.append(entry(coerce(record.row)))
            except RowError as error:
                bad.append((record, error.defects))
        return entries, bad

    def deletions(chunk: list[Record]) -> tuple[list[Entry], list[Bad]]:
        good: list[tuple[Record, dict[str, Any]]] = []
        bad: list[Bad] = []
        for record in chunk:
            if record.row is None:
                bad.append((record, record.defects))
                continue
            try:
                good.append((record, publisher.coerce_key(record.row, source.text, source.sql)))
            except RowError as error:
                bad.append((record, error.defects))
        entries: list[Entry] = []
        for (record, _), made in zip(good, publisher.tombstones(row for _, row in good), strict=True):
            if isinstance(made, RowError):
                bad.append((record, made.defects))
            else:
                entries.append(made)
        bad.sort(key=lambda b: b[0].line)
        return entries, bad

    return deletions if mode == "delete" else upserts


def _answering(
    to_entries: Callable[[list[Record]], tuple[list[Entry], list[Bad]]], publisher: Publisher, inbox: Inbox, mode: Mode
) -> Callable[[list[Record]], tuple[list[Entry], list[Bad]]]:
    """The same, for rows that each answer a receipt."""
    dataset = publisher.dataset

    def corrections(chunk: list[Record]) -> tuple[list[Entry], list[Bad]]:
        entries: list[Entry] = []
        bad: list[Bad] = []
        for record in chunk:
            row = record.row or {}
            receipt = _receipt_of(row, publisher, inbox)
            if record.row is not None:
                if defects := [receipt] if isinstance(receipt, Defect) else list(_stale(row, receipt, dataset, mode)):
                    bad.append((record, tuple(defects)))
                    continue
                row = {name: value for name, value in row.items() if name not in RECEIPT_COLUMNS}
            made, refused = to_entries([record if record.row is None else record._replace(row=row)])
            bad += [(record, defects) for _, defects in refused]
            if isinstance(receipt, Receipt):
                # Where the contract has a sequence column, the row's own decides.
                at = None if dataset.sequence else receipt.timestamp_ms
                entries += [entry._replace(answers=receipt.id, timestamp_ms=at) for entry in made]
        return entries, bad

    return corrections


def _receipt_of(row: Mapping[str, Any], publisher: Publisher, inbox: Inbox) -> Receipt | Defect:
    """The receipt that a row answers, or why there is none."""
    name, text = RECEIPT_COLUMNS[0], str(row.get(RECEIPT_COLUMNS[0]) or "")
    place = parse_receipt_id(text, publisher.district)
    if place is None:
        en = "not a receipt's id: write it as `suibus receipts` shows it, such as parking_lot.v1:0:2"
        return Defect(name, show(text), en, "不是回执编号：请按 `suibus receipts` 所示填写，例如 parking_lot.v1:0:2")
    if place[0] != publisher.topic:
        en = f"a receipt of another dataset or district: this publish is of {publisher.topic}"
        return Defect(name, show(text), en, f"是其他数据集或其他区的回执：本次发布的是 {publisher.topic}")
    held = inbox.find(*place)
    if held is None:
        en = "no such receipt was fetched: run `suibus receipts`, and check the number"
        return Defect(name, show(text), en, "没有获取过这一回执：请执行 `suibus receipts` 并核对编号")
    return held.receipt


def _stale(row: Mapping[str, Any], receipt: Receipt, dataset: Dataset, mode: Mode) -> Iterable[Defect]:
    """Why a row cannot answer a receipt without doing what nobody meant."""
    name = RECEIPT_COLUMNS[0]
    if receipt.deleted and mode != "delete":
        en = "the refused record was a deletion, and a row would bring its key back: publish with --delete"
        yield Defect(name, receipt.short_id, en, "被拒的是一次删除，发布行会恢复该主键：请用 --delete 发布")
    if mode == "delete" and dataset.sequence and row.get(dataset.sequence) in (None, ""):
        en = "a deletion that answers a receipt needs its own sequence, so that it deletes no newer version: add it"
        yield Defect(dataset.sequence, "(absent)", en, "更正中的删除须有自己的顺序值，以免删除更新的版本：请补上")
    for column in receipt.shortened:
        if receipt.record and row.get(column) is not None and row[column] == receipt.record.get(column):
            en = "the receipt held only the beginning of this text: write it whole"
            yield Defect(column, show(row[column]), en, "回执中只有这段文本的开头：请填写全文")
    oldest = (datetime.now(UTC) - OLDEST).timestamp() * 1000
    if not dataset.sequence and receipt.timestamp_ms < oldest:
        en = "the refused record is too old to be put in its place: make sure that no newer version stands, and publish the "
        en += "row without --corrections"
        zh = "被拒的记录过早，无法按其原位更正：请确认没有更新的版本，然后不带 --corrections 发布该行"
        yield Defect(name, receipt.short_id, en, zh)


class _Rejects:
    """The rejects file, made with its first row; what a killed run wrote beyond its last chunk is cut."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        self._file: io.BufferedRandom | None = None
        if size == 0:
            path.unlink(missing_ok=True)

    def __enter__(self) -> _Rejects:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def write(self, bad: list[Bad]) -> None:
        """Write the rows through to the disk, before their chunk is accepted."""
        if not bad:
            return
        if self._file is None:
            self._file = self._open()
        text = io.StringIO()
        writer = csv.writer(text)
        if self._file.tell() == 0:
            text.write("\ufeff")
            writer.writerow(["line", "column", "reason", "原因", "row"])
        for record, defects in bad:
            writer.writerow(
                [
                    record.line,
                    "; ".join(d.column for d in defects if d.column),
                    "; ".join(_reason(d, d.en, "found") for d in defects),
                    "；".join(_reason(d, d.zh, "实为") for d in defects),
                    clean(_text(record)),
                ]
            )
        self._file.write(text.getvalue().encode())
        self._file.flush()
        self.size = self._file.tell()

    def _open(self) -> io.BufferedRandom:
        try:
            file = self.path.open("r+b" if self.path.exists() else "w+b")
            file.truncate(min(self.size, file.seek(0, io.SEEK_END)))
            file.seek(0, io.SEEK_END)
        except OSError as error:
            raise InputError(
                f"The rejects file {self.path} cannot be written ({error.strerror}): bad rows would be lost. "
                "Name another place for it and publish again.",
                f"无法写入拒收文件 {self.path}（{error.strerror}），坏行将会丢失。请指定其他位置后重新发布。",
            ) from None
        return file


def _reason(defect: Defect, text: str, found: str) -> str:
    return f"{defect.column}: {text} ({found} {defect.found})".removeprefix(": ")


def _text(record: Record) -> str:
    if record.text is not None:
        return record.text.rstrip("\r\n")
    return repr(dict(record.row or {}))


def _number(sequence: bytes) -> Decimal:
    return Decimal(sequence.decode())
