"""What a source of rows is: rows one by one, in bounded memory, with the columns that the contract has.

A source whose columns are not the contract's is refused before its first row. A row that cannot be read is a `Record`
with its defects, and the rows around it are not lost.
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
from schemas.row.shown import clean, did_you_mean, show

BATCH = 2_000  # rows that a columnar file or a database gives at once
RECEIPT_COLUMNS = ("_receipt", "_reason", "_原因")  # the columns of a file of corrections beside the contract's


class Record(NamedTuple):
    """One row as the source has it: `row` is None when it could not be read, and `defects` say why.

    `line` is the line of a text file, else the row's number, from 1. `text` is the row as the file has it, or
    None where the source is not text.
    """

    line: int
    text: str | None
    row: Mapping[str, Any] | None
    defects: tuple[Defect, ...] = ()


@dataclass(frozen=True)
class Source:
    """Rows to publish; `total` rows and `size` in bytes where known beforehand."""

    name: str  # what messages call it
    read: Callable[[], Iterator[Record]]
    position: Callable[[], int] = lambda: 0  # bytes read so far
    text: bool = False  # values are CSV text
    sql: bool = False  # values are a database's
    path: Path | None = None
    format: str = ""
    total: int | None = None
    size: int | None = None
    columns: tuple[str, ...] = ()  # where the source names them before its rows

    def fingerprint(self) -> str | None:
        """SHA-256 of the file's content and its format; None for a query: its rows may differ next time."""
        if self.path is None:
            return None
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        digest.update(self.format.encode())
        return digest.hexdigest()


class Columns(NamedTuple):
    """The columns that a source must have: the dataset's, or only its key to delete by; `_receipt` too for corrections."""

    dataset: Dataset
    delete: bool = False
    corrections: bool = False

    def check(self, name: str, found: Sequence[str], line: int | None = None) -> None:
        """Each column is there once, in any order, and no other; InputError names every one that is wrong."""
        known = [f.name for f in self.dataset.fields]
        wanted = list(self.dataset.key) if self.delete else known
        if self.corrections:
            wanted, known = [RECEIPT_COLUMNS[0], *wanted], [*RECEIPT_COLUMNS, *known]
        en: list[str] = []
        zh: list[str] = []
        for column, times in Counter(found).items():
            if times > 1:
                en.append(f"column {show(column)} is there {times} times")
                zh.append(f"列 {show(column)} 出现了 {times} 次")
            if column not in known:
                any_left = [k for k in known if k not in found]
                hint = did_you_mean(column, any_left)
                en.append(f"column {show(column)} is not in the contract" + (f" ({hint[0]})" if any_left else ""))
                zh.append(f"契约中没有列 {show(column)}" + (f"（{hint[1]}）" if any_left else ""))
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
    """How far the one file in `opened` has been read; 0 where none is open."""
    return opened[0].tell() if opened and not opened[0].closed else 0


def broken_off(name: str, after: int, error: Exception) -> Record:
    """The end of what can be read of a source: the rows before it stand, and it counts as one rejected row."""
    why = clean(" ".join(str(error).split()))[:200] or type(error).__name__
    defect = Defect(
        "",
        why,
        f"{name} breaks off after row {after}: the rest cannot be read and was not published; write it again whole",
        f"{name} 在第 {after} 行之后中断：其余内容无法读取，未发布；请重新生成完整文件",
    )
    return Record(after + 1, "", None, (defect,))
