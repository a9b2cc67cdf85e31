"""Rows that answer receipts: each counts as a version of the time of its refused record, so it replaces no newer one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from producers.encoded_row import EncodedRow
from producers.inbox import Inbox
from producers.outbox import Mode
from producers.publish.publisher import Publisher
from producers.publish.rejects import Rejected
from producers.sources.source import RECEIPT_COLUMNS, Record
from schemas.dataset import Dataset
from schemas.row.coercer import Defect
from schemas.row.message_text import show
from schemas.wire.receipt import Receipt, parse_receipt_id

# A topic keeps a record for a year after its timestamp; one with an older timestamp could be removed before it is read.
OLDEST = timedelta(days=360)
# Splits a chunk into rows to accept and rows to reject.
Take = Callable[[Sequence[Record]], tuple[list[EncodedRow], list[Rejected]]]


def take_answers(take: Take, publisher: Publisher, inbox: Inbox, mode: Mode) -> Take:
    """`take` for rows that answer the receipt named in their column `_receipt`.

    Each encoded row carries the id of its receipt and, if the Kafka timestamp orders versions, the refused record's timestamp. A
    row is rejected if the inbox does not have its receipt, or if the row cannot answer it.
    """
    dataset = publisher.dataset

    def corrections(chunk: Sequence[Record]) -> tuple[list[EncodedRow], list[Rejected]]:
        encoded: list[EncodedRow] = []
        rejected: list[Rejected] = []
        for record in chunk:
            row = record.row or {}
            receipt = _receipt_of(row, publisher, inbox)
            if record.row is not None:
                if defects := [receipt] if isinstance(receipt, Defect) else list(_misfits(row, receipt, dataset, mode)):
                    rejected.append(Rejected(record, tuple(defects)))
                    continue
                row = {name: value for name, value in row.items() if name not in RECEIPT_COLUMNS}
            made, refused = take([record if record.row is None else record._replace(row=row)])
            rejected += [Rejected(record, defects) for _, defects in refused]
            if isinstance(receipt, Receipt):
                # If the contract has a sequence column, the row's own sequence orders it.
                at = None if dataset.sequence else receipt.timestamp_ms
                encoded += [row._replace(answers=receipt.id, timestamp_ms=at) for row in made]
        return encoded, rejected

    return corrections


def _receipt_of(row: Mapping[str, Any], publisher: Publisher, inbox: Inbox) -> Receipt | Defect:
    """The receipt that a row answers, or the defect of its column `_receipt`."""
    name, text = RECEIPT_COLUMNS[0], str(row.get(RECEIPT_COLUMNS[0]) or "")
    refused = parse_receipt_id(text, publisher.district)
    if refused is None:
        en = "not a receipt's id: write it as `suibus receipts` shows it, such as parking_lot.v1:0:2"
        return Defect(name, show(text), en, "不是回执编号：请按 `suibus receipts` 所示填写，例如 parking_lot.v1:0:2")
    if refused[0] != publisher.topic:
        en = f"a receipt of another dataset or district: this publish is of {publisher.topic}"
        return Defect(name, show(text), en, f"是其他数据集或其他区的回执：本次发布的是 {publisher.topic}")
    stored = inbox.find(*refused)
    if stored is None:
        en = "no such receipt was fetched: run `suibus receipts`, and check the number"
        return Defect(name, show(text), en, "没有获取过这一回执：请执行 `suibus receipts` 并核对编号")
    return stored.receipt


def _misfits(row: Mapping[str, Any], receipt: Receipt, dataset: Dataset, mode: Mode) -> Iterable[Defect]:
    """Why a row cannot answer its receipt: publishing it would delete, restore or shorten data against the sender's intent."""
    name = RECEIPT_COLUMNS[0]
    if receipt.deleted and mode != "delete":
        en = "the refused record was a deletion, and a row would bring its key back: publish with --delete"
        yield Defect(name, receipt.short_id, en, "被拒的是一次删除，发布行会恢复该主键：请用 --delete 发布")
    if mode == "delete" and dataset.sequence and row.get(dataset.sequence) in (None, ""):
        en = "a deletion that answers a receipt needs its own sequence, so that it does not delete a newer version: add it"
        yield Defect(dataset.sequence, "(absent)", en, "更正中的删除须有自己的顺序值，以免删除更新的版本：请补上")
    for column in receipt.shortened:
        if receipt.record and row.get(column) is not None and row[column] == receipt.record.get(column):
            en = "the receipt held only the beginning of this text: write it whole"
            yield Defect(column, show(row[column]), en, "回执中只有这段文本的开头：请填写全文")
    oldest = (datetime.now(UTC) - OLDEST).timestamp() * 1000
    if not dataset.sequence and receipt.timestamp_ms < oldest:
        en = "the refused record is too old to be corrected under its own time: check that there is no newer version, and "
        en += "publish the row without --corrections"
        zh = "被拒的记录过早，无法按其原有时间更正：请确认没有更新的版本，然后不带 --corrections 发布该行"
        yield Defect(name, receipt.short_id, en, zh)
