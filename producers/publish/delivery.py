"""Publish one source: validate each row, accept valid ones into the outbox, write the others to the rejects file, send.

Accepted rows survive a kill, and wait while the bus cannot be reached. Publishing the same file again after an
interruption continues where it stopped, so no row is accepted twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from producers.encoded_row import EncodedRow
from producers.inbox import Inbox
from producers.outbox import CHUNK, Delivery, Mode
from producers.publish.corrections import Take, take_answers
from producers.publish.publisher import Publisher
from producers.publish.rejects import Rejected, Rejects, default_rejects_path
from producers.sources.source import Record, Source
from schemas.errors import InputError, UnavailableError
from schemas.row.coercer import RowCoercer, RowError

Converted = TypeVar("Converted")


@dataclass(frozen=True)
class Progress:
    """The progress of a publish: rows read and sent so far, and the fraction of the source, from 0 to 1, if known."""

    read: int
    sent: int
    fraction: float | None


@dataclass(frozen=True)
class PublishInfo:
    """The result of one publish; a part read by an interrupted run is included.

    read = accepted + unchanged + rejected; in a file of keys to delete, + deleted.
    """

    read: int
    accepted: int  # rows with a value, into the outbox
    rejected: int  # in the rejects file
    deleted: int  # tombstones into the outbox
    unchanged: int  # snapshot only
    sent: int  # rows that reached the bus in this run, including those that had waited before it
    waiting: int  # rows still in the outbox
    resumed: int  # rows that an interrupted run had already read
    rejects_path: Path | None
    seconds: float
    notes: tuple[tuple[str, str], ...] = ()  # messages for the operator, each in English and Chinese
    problem: UnavailableError | None = None  # why rows still wait

    @property
    def exit_status(self) -> int:
        """3: rows wait for the bus; 1: some rows were rejected; 0: all is on the bus."""
        return 3 if self.problem else 1 if self.rejected else 0


def publish_source(
    publisher: Publisher,
    source: Source,
    mode: Mode = "append",
    *,
    corrections: Inbox | None = None,
    rejects_path: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> PublishInfo:
    """Publish all rows of a source: accept valid ones, write the others to the rejects file, send.

    Killed and run again on the same file, it continues where it stopped; after a finished run it starts from the first row.
    Invalid rows do not delay valid ones. If the bus cannot be reached, the accepted rows wait in the outbox, and
    `PublishInfo.problem` says why. InputError, and nothing is accepted, if the source as a whole cannot be used in this mode.

    `snapshot`: the source is the full dataset of this district. Only rows that differ from the last snapshot are published,
    and keys that are no longer in the source are deleted. If a row was rejected, nothing is deleted, since its key may be
    among those that seem to be missing.

    `corrections`: each row answers the receipt in its column `_receipt`. This inbox must have the receipt, which counts as
    answered once the row is accepted. The row is ordered among the versions of its key as the refused record would have
    been, so it does not replace a newer version.
    """
    start = time.monotonic()
    dataset, outbox = publisher.dataset, publisher.outbox
    path = Path(rejects_path) if rejects_path else default_rejects_path(dataset, publisher.district, source)
    _check_mode(publisher, source, mode, path, corrections is not None)
    delivery = outbox.begin(publisher.topic, dataset.id, publisher.district, source.fingerprint(), mode)
    resumed = delivery.rows_read

    sent = 0

    def show(now: int = 0) -> None:
        nonlocal sent
        sent = now
        if progress:
            done, total = (source.position(), source.size) if source.size else (delivery.rows_read, source.total)
            if delivery.complete:
                done = total = 1
            progress(Progress(delivery.rows_read, now, min(done / total, 1.0) if total else None))

    if not delivery.complete:
        with _stopped_on_error(publisher):
            with Rejects(path, delivery.rejects_size) as rejects:
                take = _take(publisher, source, mode)
                if corrections:
                    corrections.note_answers(outbox)  # left over from a killed run
                    take = take_answers(take, publisher, corrections, mode)
                records = iter(source.read())
                for _ in islice(records, resumed):
                    pass
                while chunk := list(islice(records, CHUNK)):
                    encoded, rejected = take(chunk)
                    rejects.write(rejected)
                    delivery = outbox.advance(
                        delivery, encoded, read=len(chunk), rejected=len(rejected), rejects_size=rejects.size
                    )
                    if corrections:
                        corrections.note_answers(outbox)
                    if len(chunk) == CHUNK:  # there is probably more: send while it is read
                        publisher.send_in_background()
                    show()
            if mode == "snapshot":
                if not delivery.rows_read:
                    raise _empty_snapshot(source)
                if not delivery.rejected:
                    while (after := outbox.delete_gone(delivery, publisher.sequence_now())) is not delivery:
                        delivery = after
            delivery = outbox.complete(delivery)
    problem = None
    try:
        sent = publisher.send(show).sent
    except UnavailableError as error:
        problem = error
    return PublishInfo(
        delivery.rows_read,
        delivery.accepted,
        delivery.rejected,
        delivery.deleted,
        delivery.unchanged,
        sent,
        outbox.waiting(),
        resumed,
        path if delivery.rejected else None,
        time.monotonic() - start,
        _notes(delivery, resumed, mode),
        problem,
    )


@contextmanager
def _stopped_on_error(publisher: Publisher) -> Iterator[None]:
    """End the background sender if the block raises; what it has not sent waits."""
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


def _empty_snapshot(source: Source) -> InputError:
    return InputError(
        f"{source.name}: a snapshot without rows would delete everything published so far, so it is refused. "
        "To delete, publish the keys with --delete.",
        f"{source.name}：没有任何行的全量快照会删除此前发布的全部数据，因此拒绝。如需删除，请用 --delete 发布主键。",
    )


def _notes(delivery: Delivery, resumed: int, mode: Mode) -> tuple[tuple[str, str], ...]:
    notes = []
    if resumed:
        notes.append(
            (
                f"An interrupted publish of this file had read {resumed} rows; this one continued from there.",
                f"上次发布此文件中断时已读取 {resumed} 行，本次从中断处继续。",
            )
        )
    if mode == "snapshot" and delivery.rejected:
        notes.append(
            (
                f"No deletions were derived, since {delivery.rejected} rows were rejected: their keys may "
                "not be gone. Correct them and publish the snapshot again.",
                f"有 {delivery.rejected} 行被拒收，其主键未必已不存在，因此本次未推导删除。请更正后重新发布全量快照。",
            )
        )
    return tuple(notes)


def _take(publisher: Publisher, source: Source, mode: Mode) -> Take:
    """The function that splits a chunk of records into rows to accept and rows to reject, each in the order of the source."""

    def upserts(chunk: Sequence[Record]) -> tuple[list[EncodedRow], list[Rejected]]:
        coerce, encode = coercer.coerce, publisher.encode
        good, rejected = _convert(chunk, lambda row: encode(coerce(row)))
        return [made for _, made in good], rejected

    def deletions(chunk: Sequence[Record]) -> tuple[list[EncodedRow], list[Rejected]]:
        good, rejected = _convert(chunk, coerce_key)
        encoded: list[EncodedRow] = []
        for (record, _), made in zip(good, publisher.tombstones(row for _, row in good), strict=True):
            if isinstance(made, RowError):
                rejected.append(Rejected(record, made.defects))
            else:
                encoded.append(made)
        rejected.sort(key=lambda r: r.record.line)
        return encoded, rejected

    if mode == "delete":
        coerce_key = publisher.key_coercer(source.text, source.sql)
        return deletions
    coercer = RowCoercer(publisher.dataset, source.text, publisher.district, sql=source.sql)
    return upserts


def _convert(
    chunk: Sequence[Record], convert: Callable[[Mapping[str, Any]], Converted]
) -> tuple[list[tuple[Record, Converted]], list[Rejected]]:
    """The records with their converted rows, and those whose row could not be read or converted."""
    converted: list[tuple[Record, Converted]] = []
    rejected: list[Rejected] = []
    for record in chunk:
        if record.row is None:
            rejected.append(Rejected(record, record.defects))
            continue
        try:
            converted.append((record, convert(record.row)))
        except RowError as error:
            rejected.append(Rejected(record, error.defects))
    return converted, rejected
