"""What a range of bronze's versions appended: files, a few versions at a time, the quarantined records apart."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.lake.table import Table
from pipelines.lake.table_log import AddedFile, count_rows

EVENTS = 2_000_000  # records in hand at a time; more only if one batch alone has more


def portions(bronze: Table, first: int, last: int) -> Iterator[tuple[int, int, list[AddedFile]]]:
    """The files that the versions from `first` to `last` appended, cut into ranges of versions of about EVENTS records."""
    files: list[AddedFile] = []
    begin = first
    for version in range(first, last + 1):
        files += bronze.commit(version).added
        if version == last or count_rows(files) >= EVENTS:
            yield begin, version, files
            begin, files = version + 1, []


def appended_files(bronze: Table, first: int, last: int, *, quarantined: bool) -> list[AddedFile]:
    """The files that the versions from `first` to `last` appended, of the quarantined records or of the others."""
    files = (file for version in range(first, last + 1) for file in bronze.commit(version).added)
    return [file for file in files if is_quarantined(file) == quarantined]


def is_quarantined(file: AddedFile) -> bool:
    """Whether a file of bronze holds quarantined records: a file never holds both."""
    return file.partition["_quarantined"] == "true"
