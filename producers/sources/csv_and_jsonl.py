"""Rows of a CSV or JSON Lines file. A line that cannot be read is one rejected row; the other lines are still read."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from producers.sources.source import Columns, Record, Source, bytes_read
from schemas.errors import InputError
from schemas.row.coercer import Defect
from schemas.row.message_text import clean, show
from schemas.row.strict_json import parse_json

LONGEST_LINE = 1 << 24  # characters; a file without line ends must not fill the memory
LONGEST_FIELD = 1 << 20  # characters; more than Kafka takes as one record


def _open_text(path: Path, encoding: str) -> IO[str]:
    # A byte that the encoding does not allow becomes a lone surrogate, which the coercer refuses in its own row and column.
    return path.open(encoding=encoding, errors="surrogateescape", newline="")


class _Lines:
    """The lines of a file one by one; those in `taken`, read for the current record, can be given back and read again."""

    def __init__(self, file: IO[str]) -> None:
        self._readline = file.readline
        self._again: deque[str] = deque()
        self.number = 0
        self.taken: list[str] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._readline(LONGEST_LINE)
        if not line:
            raise StopIteration
        self.number += 1
        self.taken.append(line)
        return line

    def give_back(self) -> None:
        """Keep only the first line of the current record; the next calls return its other lines again."""
        self._again.extendleft(reversed(self.taken[1:]))
        self.number -= len(self.taken) - 1
        del self.taken[1:]


def open_csv(path: Path, encoding: str, columns: Columns) -> Source:
    """The rows of a CSV file, its header checked against the contract.

    A row with an open quote is rejected alone: the lines below it, which the quote would swallow, are read again as rows.
    """
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_FIELD))
    with _open_text(path, encoding) as file:
        lines = _Lines(file)
        header = _csv_header(path, csv.reader(lines, strict=True))
        columns.check(str(path), header, lines.number)
    opened: list[IO[bytes]] = []
    width = len(header)

    def read() -> Iterator[Record]:
        with _open_text(path, encoding) as file:
            opened[:] = [file.buffer]  # type: ignore[attr-defined]
            lines = _Lines(file)
            reader = csv.reader(lines, strict=True)
            _csv_header(path, reader)
            taken = lines.taken
            while True:
                taken.clear()
                start = lines.number + 1
                try:
                    cells = next(reader)
                    if len(cells) == width:
                        yield Record(start, "".join(taken), dict(zip(header, cells, strict=True)))
                        continue
                    if not cells:
                        continue
                    en = f"{len(cells)} fields where the header has {width}: check commas and quotes"
                    zh = f"有 {len(cells)} 个字段，而表头有 {width} 个：请检查逗号和引号"
                except StopIteration:
                    return
                except csv.Error as error:
                    cut = "unexpected end of data" in str(error)
                    why = "a quote is opened and never closed" if cut else str(error)
                    en = f"not valid CSV: {why}; close the quote, and double each quote inside text"
                    why = "引号没有闭合" if cut else str(error)
                    zh = f"不是有效的 CSV（{why}）：请补上引号；文本内的引号应写两个"
                # An open quote swallows the lines below: reject the first line, and read the others again.
                lines.give_back()
                text = taken[0]
                yield Record(start, text, None, (Defect("", show(text.strip()), en, zh),))

    return Source(
        str(path),
        read,
        lambda: bytes_read(opened),
        text=True,
        path=path,
        format=f"csv {encoding}",
        size=path.stat().st_size,
        columns=tuple(header),
    )


def _csv_header(path: Path, reader: Any) -> list[str]:
    try:
        return next(cells for cells in reader if cells)
    except csv.Error as error:
        raise InputError(
            f"{path}, line 1: the header is not valid CSV ({error}). Write the column names, separated by commas.",
            f"{path}，第 1 行：表头不是有效的 CSV（{error}）。请写列名，以逗号分隔。",
        ) from None


def open_jsonl(path: Path, encoding: str, _: Columns) -> Source:
    """The rows of a JSON Lines file. It has no header: the members of each object are checked with their row."""
    with _open_text(path, encoding) as file:
        first = [line.lstrip()[:1] for line in (file.readline(LONGEST_LINE) for _ in range(20)) if line.strip()][:3]
    if "{" not in first:
        found = show(first[0]) if first else "nothing"
        raise InputError(
            f"{path} is not JSON Lines: its lines begin with {found}, expected {{. Write one JSON object per "
            "line, with no list around them; if the file is CSV, say so with --format csv.",
            f"{path} 不是 JSON Lines：各行以 {found} 开头，应为 {{。请每行写一个 JSON 对象，外面不要加列表；"
            "如果是 CSV，请用 --format csv 指明。",
        )
    opened: list[IO[bytes]] = []

    def read() -> Iterator[Record]:
        with _open_text(path, encoding) as file:
            opened[:] = [file.buffer]  # type: ignore[attr-defined]
            number = 0
            while line := file.readline(LONGEST_LINE):
                number += 1
                if not line.strip():
                    continue
                try:
                    row = parse_json(line)
                except ValueError as error:
                    cut = not line.endswith("\n")
                    en = f"not JSON: {clean(str(error))}" + ("; the file seems cut off here" if cut else "")
                    zh = f"不是有效的 JSON：{clean(str(error))}" + ("；文件似乎在此处被截断" if cut else "")
                    defect = Defect("", show(line.strip()), f"{en}: correct the line", f"{zh}：请更正该行")
                    yield Record(number, line, None, (defect,))
                    continue
                if isinstance(row, dict):
                    yield Record(number, line, row)
                else:
                    defect = Defect(
                        "",
                        show(line.strip()),
                        "not a JSON object: write one {…} per line",
                        "不是 JSON 对象：请每行写一个 {…}",
                    )
                    yield Record(number, line, None, (defect,))

    return Source(
        str(path),
        read,
        lambda: bytes_read(opened),
        path=path,
        format=f"jsonl {encoding}",
        size=path.stat().st_size,
    )
