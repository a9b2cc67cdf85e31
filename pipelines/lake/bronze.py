"""The files that a range of bronze versions appended, in portions that fit in memory; quarantined records have files of their own."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.lake.table import Table
from pipelines.lake.table_log import AddedFile, count_rows

PORTION_RECORDS = 2_000_000  # records in one portion; only a single larger batch exceeds it


def portions(bronze: Table, first: int, last: int) -> Iterator[tuple[int, int, list[AddedFile]]]:
    """Ranges of versions that together cover `first` to `last`: first and last version, and the files appended.

    Each range ends as soon as it holds PORTION_RECORDS records.
    """
    files: list[AddedFile] = []
    begin = first
    for version in range(first, last + 1):
        files += bronze.commit(version).added
        if version == last or count_rows(files) >= PORTION_RECORDS:
            yield begin, version, files
            begin, files = version + 1, []


def appended_files(bronze: Table, first: int, last: int, *, quarantined: bool) -> list[AddedFile]:
    """The files that versions `first` to `last` appended: those of quarantined records, or those of all other records."""
    files = (file for version in range(first, last + 1) for file in bronze.commit(version).added)
    return [file for file in files if is_quarantined(file) == quarantined]


def is_quarantined(file: AddedFile) -> bool:
    """Whether a bronze file holds quarantined records. Bronze is partitioned by it, so no file holds both kinds."""
    return file.partition["_quarantined"] == "true"
