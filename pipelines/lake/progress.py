"""The progress of each hop with a dataset, read from the logs of the tables.

Each hop commits its progress together with its rows: ingest commits the position to bronze, merge commits the bronze version it has
merged to silver, and the account commits the bronze version it has accounted for. A new bronze table has a new id, so its progress
begins at zero.
"""

from __future__ import annotations

from typing import NamedTuple

from pipelines.lake.commit_notes import IngestNote
from pipelines.lake.lake import Lake
from pipelines.lake.position import Position
from pipelines.lake.table import Table
from pipelines.lake.table_log import NewestVersion
from schemas.dataset import Dataset

INGEST = "ingest"  # Delta's application id for batches in bronze; its version is the number of the batch


def merge_application(bronze: Table) -> str:
    """Delta's application id for merges in silver; its version is the newest bronze version merged."""
    return f"merge:{bronze.id}"


def account_application(dataset: Dataset, bronze: Table) -> str:
    """Delta's application id for the dataset in the account; its version is the newest bronze version accounted for."""
    return f"account:{dataset.id}:{bronze.id}"


def merged_version(dataset: Dataset, lake: Lake) -> int:
    """The newest bronze version that is merged into silver, -1 if none."""
    return lake.silver(dataset).transaction(merge_application(lake.bronze(dataset)))


def accounted_version(dataset: Dataset, lake: Lake) -> int:
    """The newest bronze version that is accounted for, -1 if none."""
    return lake.account().transaction(account_application(dataset, lake.bronze(dataset)))


class _KnownPosition(NamedTuple):
    """The position that was read from one version of bronze."""

    newest: NewestVersion
    position: Position


def ingested_position(bronze: Table) -> Position:
    """The position in the note of bronze's newest batch; empty before the first batch."""
    newest, known = bronze.newest(), bronze.kept(_KnownPosition)
    if known and known.newest is newest:  # the commit file has not changed since
        return known.position
    position: Position = {}
    for version in range(newest.version, -1, -1):
        if isinstance(note := bronze.commit(version).note, IngestNote):
            position = note.position
            break
    bronze.keep(_KnownPosition(newest, position))
    return position
