"""How far each hop has come with a dataset, as the logs of the tables tell it.

Each hop commits with its rows how far it has come: ingest the position on the topics, in bronze; merge the version of bronze, in
silver; the account the same, in the account. A bronze table that was made anew has another id, and begins anew.
"""

from __future__ import annotations

from typing import NamedTuple

from pipelines.lake.commit_notes import IngestNote
from pipelines.lake.lake import Lake
from pipelines.lake.position import Position
from pipelines.lake.table import Table
from pipelines.lake.table_log import Newest
from schemas.dataset import Dataset

INGEST = "ingest"  # the application under which batches are committed to bronze, by their number


def merge_application(bronze: Table) -> str:
    """The application under which merges are committed to silver, by the version of bronze."""
    return f"merge:{bronze.id}"


def account_application(dataset: Dataset, bronze: Table) -> str:
    """The application under which the dataset's account is committed, by the version of bronze."""
    return f"account:{dataset.id}:{bronze.id}"


def merged_version(dataset: Dataset, lake: Lake) -> int:
    """The newest version of bronze that silver holds, -1 if none."""
    return lake.silver(dataset).transaction(merge_application(lake.bronze(dataset)))


def accounted_version(dataset: Dataset, lake: Lake) -> int:
    """The newest version of bronze that is accounted for, -1 if none."""
    return lake.account().transaction(account_application(dataset, lake.bronze(dataset)))


class _Found(NamedTuple):
    """The position that a version of bronze tells."""

    newest: Newest
    position: Position


def ingested_position(bronze: Table) -> Position:
    """How far each topic is in bronze: what its newest batch says, nothing before the first."""
    newest, known = bronze.newest(), bronze.kept(_Found)
    if known and known.newest is newest:  # the same version, as far as a look at its commit tells
        return known.position
    position: Position = {}
    for version in range(newest.version, -1, -1):
        if isinstance(note := bronze.commit(version).note, IngestNote):
            position = note.position
            break
    bronze.keep(_Found(newest, position))
    return position
