"""What a district does about its receipts: acknowledge them, or write them to a file to be corrected."""

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
    """What was written to a file of corrections: rows; refused deletions are not in it."""

    rows: int
    deletions: int


def acknowledge(inbox: Inbox, district: str, dataset_id: str | None, ids: Sequence[str]) -> int:
    """Mark receipts as seen, `all` for every open one of the dataset (None: of any); returns how many were open.

    InputError, and nothing is marked, where one of them was never fetched.
    """
    if "all" in ids:
        held = [h.receipt for h in inbox.receipts("new", dataset_id)]
        return inbox.set_state([(r.topic, r.partition, r.offset) for r in held], "acknowledged")
    named = []
    for text in ids:
        refused = parse_receipt_id(text, district)
        if refused is None or inbox.find(*refused) is None:
            raise InputError(
                f"{text!r} is no receipt that was fetched. Write it as `suibus receipts` shows it; nothing was marked.",
                f"没有获取过回执 {text!r}。请按 `suibus receipts` 所示填写；未作任何标记。",
            )
        named.append(refused)
    return inbox.set_state(named, "acknowledged")


def write_to_correct(inbox: Inbox, dataset: Dataset, file: Path) -> ToCorrect:
    """Write the open receipts of a dataset's rows as a CSV that Excel opens and `suibus publish --corrections` takes.

    InputError where the file exists.
    """
    try:
        out = file.open("x", encoding="utf-8-sig", newline="")
    except FileExistsError:
        raise InputError(
            f"{file} exists already and may hold corrections. Name another file.",
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
