"""A table's log: one commit of it, and what its newest version says of itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipelines.lake.commit_notes import Note, parse_note
from pipelines.lake.unchanged_tables import TableMark

OWN = ("ingest", "merge", "account", "release", "rebuild")  # the applications under which Suibus commits


@dataclass(frozen=True)
class AddedFile:
    """A file whose rows a commit added."""

    action: dict[str, Any]  # `add`, as the log has it

    @property
    def rows(self) -> int:
        """How many rows are in it, by its statistics."""
        return int(json.loads(self.action["stats"])["numRecords"])

    @property
    def partition(self) -> dict[str, str]:
        """The values of its partition, as text."""
        return dict(self.action["partitionValues"])


def count_rows(files: Iterable[AddedFile]) -> int:
    """The rows of these files, by their statistics."""
    return sum(file.rows for file in files)


@dataclass(frozen=True)
class Commit:
    """What one commit of a table says of itself."""

    version: int
    operation: str
    engine: str
    own: bool  # it is committed under an application of Suibus's
    changes_rows: bool
    note: Note | None
    added: list[AddedFile]  # those whose rows are new: compaction adds none


def parse_commit(version: int, text: str) -> Commit:
    """A commit from the file that the log has of it. ValueError if that is not what Delta writes."""
    actions = [json.loads(line) for line in text.split("\n") if line]  # U+2028 in a statistic ends no line
    info: dict[str, Any] = next((a["commitInfo"] for a in actions if "commitInfo" in a), {})
    applications = [a["txn"]["appId"].split(":")[0] for a in actions if "txn" in a]
    changes = any(a[kind].get("dataChange", True) for a in actions for kind in ("add", "remove") if kind in a)
    return Commit(
        version,
        info.get("operation", ""),
        info.get("engineInfo", ""),
        any(name in OWN for name in applications),
        changes,
        parse_note(info.get("userMetadata")),
        [AddedFile(a["add"]) for a in actions if "add" in a and a["add"].get("dataChange", True)],
    )


@dataclass(frozen=True)
class Newest:
    """What the newest version of a table says of itself."""

    version: int
    table_id: str
    mark: TableMark | None  # of its commit; None if that cannot be told
    _read_transactions: Callable[[], dict[str, int]]

    @cached_property
    def transactions(self) -> dict[str, int]:
        """The last number that each application committed."""
        return self._read_transactions()
