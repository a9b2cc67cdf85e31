"""Whether a table is as it was left, told by its files alone: no Spark is started for it, nor imported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pipelines.lake.storage import local_folder


class TableMark(NamedTuple):
    """What tells the newest commit of a table from any other: its version, and when its file was written, its size and its inode."""

    version: int
    written_ns: int
    size: int
    inode: int


NO_TABLE = TableMark(-1, 0, 0, 0)
Marks = Mapping[str, TableMark]  # by the table's name


def table_names(datasets: Iterable[str]) -> list[str]:
    """The names of all tables of a lake with these datasets."""
    return ["releases", "account", *(f"{layer}/{name}" for name in datasets for layer in ("bronze", "silver"))]


def commit_mark(address: str, version: int) -> TableMark | None:
    """The mark of a table's commit; None if a later one is there, or if it cannot be told, as behind a URL."""
    if (folder := local_folder(address)) is None:
        return None
    log = folder / "_delta_log"
    try:
        found = (log / f"{version:020}.json").stat()
    except OSError:
        return None
    if (log / f"{version + 1:020}.json").exists():
        return None
    return TableMark(version, found.st_mtime_ns, found.st_size, found.st_ino)


def is_absent(address: str) -> bool:
    """Whether there certainly is no such table."""
    folder = local_folder(address)
    return folder is not None and not (folder / "_delta_log").exists()


def is_as_left(root: str, marks: Marks) -> bool:
    """Whether each table still has the newest commit that its mark tells; False if there are no marks."""
    return bool(marks) and all(
        is_absent(f"{root}/{name}") if mark == NO_TABLE else commit_mark(f"{root}/{name}", mark.version) == mark
        for name, mark in marks.items()
    )
