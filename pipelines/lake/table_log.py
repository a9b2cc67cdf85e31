"""A table's log: one commit parsed, and what is known of the newest version."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipelines.lake.commit_notes import Note, parse_note
from pipelines.lake.unchanged_tables import CommitStat

OWN = ("ingest", "merge", "account", "release", "rebuild")  # what Suibus's application ids begin with


@dataclass(frozen=True)
class AddedFile:
    """A file that a commit added with new rows."""

    action: dict[str, Any]  # the `add` action in the log

    @property
    def rows(self) -> int:
        """The number of rows in the file, from its statistics."""
        return int(json.loads(self.action["stats"])["numRecords"])

    @property
    def partition(self) -> dict[str, str]:
        """The partition values of the file, as text, by column."""
        return dict(self.action["partitionValues"])


def count_rows(files: Iterable[AddedFile]) -> int:
    """The number of rows in these files, from their statistics."""
    return sum(file.rows for file in files)


@dataclass(frozen=True)
class Commit:
    """One commit of a table."""

    version: int
    operation: str
    engine: str
    own: bool  # its application id is one of Suibus's
    changes_rows: bool
    note: Note | None
    added: list[AddedFile]  # files with new rows; the files of a compaction are left out


def parse_commit(version: int, text: str) -> Commit:
    """The commit in a JSON file of the log. ValueError if a line of the file is not JSON."""
    actions = [json.loads(line) for line in text.split("\n") if line]  # not splitlines(): a statistic may hold U+2028
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
class NewestVersion:
    """The newest version of a table."""

    version: int
    table_id: str
    commit_stat: CommitStat | None  # None if unknown, as behind a URL
    _read_transactions: Callable[[], dict[str, int]]

    @cached_property
    def transactions(self) -> dict[str, int]:
        """The last version that each application id committed, read on first use."""
        return self._read_transactions()
