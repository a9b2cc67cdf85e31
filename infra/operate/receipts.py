"""A district's work on its receipts: acknowledge them, or write the rows to a file to be corrected."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from producers.inbox import Inbox
from producers.sources.source import RECEIPT_COLUMNS
from schemas.dataset import Dataset
from schemas.errors import InputError
from schemas.wire.receipt import Receipt, parse_receipt_id


@dataclass(frozen=True)
class ToCorrect:
    """The number of rows written to a file of corrections, and of refused deletions, which are not written."""

    rows: int
    deletions: int


def acknowledge(inbox: Inbox, district: str, dataset_id: str | None, ids: Sequence[str]) -> int:
    """Acknowledge receipts by id; the number of them that were open.

    The id `all` means every open receipt of the dataset (None: of all datasets). InputError, and nothing is changed, if an id is not
    that of a fetched receipt.
    """
    if "all" in ids:
        held = [h.receipt for h in inbox.receipts("new", dataset_id)]
        return inbox.set_state([(r.topic, r.partition, r.offset) for r in held], "acknowledged")
    named = []
    for text in ids:
        refused = parse_receipt_id(text, district)
        if refused is None or inbox.find(*refused) is None:
            raise InputError(
                f"{text!r} is not the id of a fetched receipt. Copy the id from `suibus receipts`. Nothing was acknowledged.",
                f"没有获取过编号为 {text!r} 的回执。请从 suibus receipts 的输出中复制编号。未确认任何回执。",
            )
        named.append(refused)
    return inbox.set_state(named, "acknowledged")


def write_to_correct(inbox: Inbox, dataset: Dataset, file: Path) -> ToCorrect:
    """Write the rows of a dataset's open receipts to a CSV that Excel opens and `suibus publish --corrections` reads.

    InputError if the file exists.
    """
    try:
        out = file.open("x", encoding="utf-8-sig", newline="")
    except FileExistsError:
        raise InputError(
            f"{file} exists already and may hold corrections. Choose another file.",
            f"{file} 已存在，其中可能有更正内容。请换一个文件名。",
        ) from None
    rows = deletions = 0
    names = [f.name for f in dataset.fields]
    with out:
        writer = csv.writer(out)
        writer.writerow([*RECEIPT_COLUMNS, *names])
        for held in inbox.receipts("new", dataset.id):
            if held.receipt.deleted:
                deletions += 1
                continue
            writer.writerow([*_reasons(held.receipt), *_cells(held.receipt.record or {}, names)])
            rows += 1
    return ToCorrect(rows, deletions)


def _reasons(receipt: Receipt) -> list[str]:
    en, zh = [r.reason for r in receipt.reasons], [r.reason_zh for r in receipt.reasons]
    return [receipt.short_id, "; ".join(en), "；".join(zh)]


def _cells(record: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [record.get(name) or "" for name in names]
