"""The rejects file: every row that was not accepted, with all reasons, as CSV that a spreadsheet program opens."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from producers.sources.source import Record, Source
from schemas.dataset import Dataset
from schemas.errors import InputError
from schemas.row.coercer import Defect
from schemas.row.shown import clean


class Rejected(NamedTuple):
    """A row that was not accepted, and its defects."""

    record: Record
    defects: tuple[Defect, ...]


def default_rejects_path(dataset: Dataset, district: str, source: Source) -> Path:
    """``<stem>.rejects.csv`` beside the input; ``<dataset>.<district>.rejects.csv`` in the current folder for a query."""
    if source.path is not None:
        return source.path.with_name(f"{source.path.stem}.rejects.csv")
    return Path(f"{dataset.name}.{district}.rejects.csv")


class Rejects:
    """Writes the rejects file, which is created with its first row.

    `size` is the length in bytes after the last accepted chunk; 0 starts a new file. A resumed publish truncates the file to
    it, which removes what a killed run wrote for a chunk that was not accepted. InputError if the file cannot be written.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        self._file: io.BufferedRandom | None = None
        if size == 0:
            path.unlink(missing_ok=True)

    def __enter__(self) -> Rejects:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def write(self, rejected: Sequence[Rejected]) -> None:
        """Append rows; call it before their chunk is accepted, so that no rejected row is lost."""
        if not rejected:
            return
        if self._file is None:
            self._file = self._open()
        text = io.StringIO()
        writer = csv.writer(text)
        if self._file.tell() == 0:
            text.write("\ufeff")
            writer.writerow(["line", "column", "reason", "原因", "row"])
        for record, defects in rejected:
            writer.writerow(
                [
                    record.line,
                    "; ".join(d.column for d in defects if d.column),
                    "; ".join(f"{d.column}: {d.en} (found {d.found})".removeprefix(": ") for d in defects),
                    "；".join(f"{d.column}：{d.zh}（实为 {d.found}）".removeprefix("：") for d in defects),
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
                "Name another file and publish again.",
                f"无法写入拒收文件 {self.path}（{error.strerror}），坏行将会丢失。请指定其他文件后重新发布。",
            ) from None
        return file


def _text(record: Record) -> str:
    if record.text is not None:
        return record.text.rstrip("\r\n")
    return repr(dict(record.row or {}))
