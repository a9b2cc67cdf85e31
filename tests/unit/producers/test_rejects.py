"""A rejects file that cannot be written is told in words, and the publish that is run again completes it."""

from __future__ import annotations

import csv
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from producers.publish.rejects import Rejected, Rejects
from producers.sources.source import Record
from schemas.errors import UnavailableError
from schemas.row.coercer import Defect


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Until the block ends, the system refuses to make a file longer, with an error that names no file, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def rejected(line: int, length: int = 1) -> Rejected:
    return Rejected(Record(line, "x" * length, None), (Defect("c", "x", "bad", "有误"),))


def test_rows_that_do_not_fit_on_the_disk_are_told_and_written_when_there_is_space(tmp_path: Path) -> None:
    path = tmp_path / "in.rejects.csv"
    with files_of_at_most(10_000), Rejects(path, 0) as rejects:
        rejects.write([rejected(2)])
        size = rejects.size
        with pytest.raises(UnavailableError, match="Free disk space") as caught:
            rejects.write([rejected(3, 20_000)])
    assert str(path) in caught.value.en
    assert "释放磁盘空间" in caught.value.zh
    assert rejects.size == size
    with Rejects(path, size) as rejects:
        rejects.write([rejected(3, 20_000)])
    with path.open(encoding="utf-8-sig", newline="") as file:
        assert [row["line"] for row in csv.DictReader(file)] == ["2", "3"]


def test_folder_that_takes_no_file_is_told(tmp_path: Path) -> None:
    with (
        Rejects(tmp_path / "none" / "in.rejects.csv", 0) as rejects,
        pytest.raises(UnavailableError, match="No such file"),
    ):
        rejects.write([rejected(2)])
