"""The rejects file: every row that was not accepted, with all reasons, as CSV that a spreadsheet program opens."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from producers.sources.source import Record, Source
from schemas.dataset import Dataset
from schemas.errors import UnavailableError
from schemas.row.coercer import Defect
from schemas.row.message_text import clean


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
    it, which removes what a killed run wrote for a chunk that was not accepted. UnavailableError if the file cannot be
    written, such as on a full disk; publish the same source again then.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        self._file: io.BufferedRandom | None = None
        if size == 0:
            with self._writing():
                path.unlink(missing_ok=True)

    def __enter__(self) -> Rejects:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            with suppress(OSError):  # after a failed write, which has raised; otherwise all is written
                self._file.close()

    def write(self, rejected: Sequence[Rejected]) -> None:
        """Append rows; call it before their chunk is accepted, so that no rejected row is lost."""
        if not rejected:
            return
        text = io.StringIO()
        writer = csv.writer(text)
        with self._writing():
            file = self._file = self._file or self._open()
            at_start = file.tell() == 0
        if at_start:
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
        with self._writing():
            file.write(text.getvalue().encode())
            file.flush()
            self.size = file.tell()

    def _open(self) -> io.BufferedRandom:
        file = self.path.open("r+b" if self.path.exists() else "w+b")
        file.truncate(min(self.size, file.seek(0, io.SEEK_END)))
        file.seek(0, io.SEEK_END)
        return file

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            why = error.strerror or error
            raise UnavailableError(
                f"The rejects file {self.path} cannot be written ({why}). What was accepted so far is kept. Free disk space "
                "or correct the permissions of its folder, then publish the same source again: it continues where it stopped.",
                f"无法写入拒收文件 {self.path}（{why}）。此前已接收的行均已保留。请释放磁盘空间或更正其文件夹的权限，"
                "然后重新发布同一来源：将从中断处继续。",
            ) from None


def _text(record: Record) -> str:
    if record.text is not None:
        return record.text.rstrip("\r\n")
    return repr(dict(record.row or {}))
