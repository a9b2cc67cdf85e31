"""A source of rows: it gives them one by one, in bounded memory, with the columns of the contract.

A source with other columns is refused before its first row. A row that cannot be read becomes a `Record` with its defects,
and the other rows are still read.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from schemas.dataset import Dataset
from schemas.errors import InputError
from schemas.row.coercer import Defect
from schemas.row.message_text import clean, did_you_mean, show

BATCH = 2_000  # rows that are read at once from a columnar file or a database
RECEIPT_COLUMNS = ("_receipt", "_reason", "_原因")  # columns of a file of corrections that are not in the contract


class Record(NamedTuple):
    """One row as the source has it; `row` is None if it could not be read, and `defects` say why.

    `line` is the line number in a text file, otherwise the row number, both from 1. `text` is the row as it stands in the
    file, None if the source is not text.
    """

    line: int
    text: str | None
    row: Mapping[str, Any] | None
    defects: tuple[Defect, ...] = ()


@dataclass(frozen=True)
class Source:
    """Rows to publish. `total`, in rows, and `size`, in bytes, are given if they are known beforehand."""

    name: str  # what messages call it
    read: Callable[[], Iterator[Record]]
    position: Callable[[], int] = lambda: 0  # bytes read so far
    text: bool = False  # the values are the text of CSV cells
    sql: bool = False  # the values come from a database
    path: Path | None = None
    format: str = ""
    total: int | None = None
    size: int | None = None
    columns: tuple[str, ...] = ()  # if the source names them before its rows

    def fingerprint(self) -> str | None:
        """SHA-256 of the file's content and its format; None for a query, whose rows may differ next time."""
        if self.path is None:
            return None
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        digest.update(self.format.encode())
        return digest.hexdigest()


class Columns(NamedTuple):
    """The columns that a source must have: those of the dataset, for `delete` only its key, for `corrections` also `_receipt`."""

    dataset: Dataset
    delete: bool = False
    corrections: bool = False

    def check(self, name: str, found: Sequence[str], line: int | None = None) -> None:
        """Check that each column is present once, in any order, and no other is; InputError names every wrong column."""
        known = [f.name for f in self.dataset.fields]
        wanted = list(self.dataset.key) if self.delete else known
        if self.corrections:
            wanted, known = [RECEIPT_COLUMNS[0], *wanted], [*RECEIPT_COLUMNS, *known]
        en: list[str] = []
        zh: list[str] = []
        for column, times in Counter(found).items():
            if times > 1:
                en.append(f"column {show(column)} appears {times} times")
                zh.append(f"列 {show(column)} 出现了 {times} 次")
            if column not in known:
                unused = [k for k in known if k not in found]
                hint = did_you_mean(column, unused)
                en.append(f"column {show(column)} is not in the contract" + (f" ({hint[0]})" if unused else ""))
                zh.append(f"契约中没有列 {show(column)}" + (f"（{hint[1]}）" if unused else ""))
        missing = [c for c in wanted if c not in found]
        if missing:
            en.append(f"missing {', '.join(missing)}")
            zh.append(f"缺少列 {'、'.join(missing)}")
        if en:
            at, at_zh = ("", "") if line is None else (f", line {line}", f"，第 {line} 行")
            raise InputError(
                f"{name}{at}: {'; '.join(en)}. Dataset {self.dataset.name} has the columns {', '.join(known)}. "
                "Nothing was published: correct the columns and publish again.",
                f"{name}{at_zh}：{'；'.join(zh)}。数据集 {self.dataset.name} 的列为 {'、'.join(known)}。"
                "没有发布任何数据：请更正列名后重新发布。",
            )


def bytes_read(opened: Sequence[IO[bytes]]) -> int:
    """The number of bytes read of the file in `opened`, which has one at most; 0 if it is not open."""
    return opened[0].tell() if opened and not opened[0].closed else 0


def truncated_record(name: str, after: int, error: Exception) -> Record:
    """The last record of a source that cannot be read to its end: one rejected row; the rows before it are published."""
    why = clean(" ".join(str(error).split()))[:200] or type(error).__name__
    defect = Defect(
        "",
        why,
        f"{name} breaks off after row {after}: the rest cannot be read and was not published; generate the whole source again",
        f"{name} 在第 {after} 行之后中断：其余内容无法读取，未发布；请重新生成完整的来源",
    )
    return Record(after + 1, "", None, (defect,))
