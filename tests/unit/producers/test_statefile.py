"""A state file is written whole and upgraded in place; one that this Suibus cannot read is not changed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import pytest

from producers.entry import Entry
from producers.inbox import Inbox
from producers.outbox import Outbox
from producers.statefile import StateFile
from schemas.errors import StateError
from tests.unit.producers.publishing import TOPIC


class Notes(StateFile):
    """A state file in its version 1."""

    kind = ("index", "索引")
    application_id = 0x4E4F5445
    steps: ClassVar[tuple[str, ...]] = ("CREATE TABLE notes (text); INSERT INTO notes VALUES ('first')",)
    if_before_version_1 = ("copy it by hand", "请手工抄录")


class NewerNotes(Notes):
    """The same in its version 3."""

    steps = (*Notes.steps, "ALTER TABLE notes ADD COLUMN author", "UPDATE notes SET author = 'unknown'")


def ask(path: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        return db.execute(sql).fetchall()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "state.sqlite"


def test_an_older_file_is_upgraded_in_place_and_loses_nothing(path: Path) -> None:
    Notes(path).close()
    ask(path, "INSERT INTO notes VALUES ('second')")
    for _ in range(2):
        NewerNotes(path).close()
        assert ask(path, "SELECT * FROM notes") == [("first", "unknown"), ("second", "unknown")]
        assert ask(path, "PRAGMA user_version") == [(3,)]


def test_a_newer_file_is_refused_and_not_changed(path: Path) -> None:
    NewerNotes(path).close()
    before = path.read_bytes()
    with pytest.raises(StateError, match=r"newer Suibus \(index version 3, known here 1\)"):
        Notes(path)
    assert path.read_bytes() == before


def test_files_of_other_programs_are_refused_and_not_changed(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(StateError, match="is not an index"):
        Notes(path)
    path.unlink()
    ask(path, "CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(StateError, match="another program"):
        Notes(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("kind", "says"), [(Outbox, "send its rows with that Suibus"), (Inbox, "fetches what it held again")]
)
def test_file_of_a_suibus_before_version_1_is_refused_with_what_to_do(
    path: Path, kind: type[StateFile], says: str
) -> None:
    """Such a file has the same tables and versions, but no application id."""
    kind(path).close()
    ask(path, "PRAGMA application_id=0")
    ask(path, "PRAGMA user_version=2")
    before = path.read_bytes()
    with pytest.raises(StateError, match=says) as caught:
        kind(path)
    assert "移走" in caught.value.zh
    assert path.read_bytes() == before


def test_inbox_is_not_taken_for_an_outbox(path: Path) -> None:
    Inbox(path).close()
    with pytest.raises(StateError, match="not marked as an outbox"):
        Outbox(path)


def test_a_chunk_that_fails_half_way_leaves_no_row(path: Path) -> None:
    """A row that SQLite does not accept is refused with its whole chunk."""
    entries = [Entry(b"a", b"1"), Entry(b"b", b"2", answers=object())]  # type: ignore[arg-type]
    with Outbox(path) as outbox:
        with pytest.raises(sqlite3.Error):
            outbox.accept(TOPIC, entries)
        assert outbox.waiting() == 0
        outbox.accept(TOPIC, entries[:1])
        assert [row.key for row in outbox.next_rows(9, 99)] == [b"a"]
