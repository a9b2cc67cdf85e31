"""A state file is written whole and upgraded in place; one that this Suibus cannot read is not changed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from producers.encoded_row import EncodedRow
from producers.inbox import Inbox
from producers.outbox import Outbox
from producers.statefile import StateFile
from schemas.errors import StateError
from tests.unit.producers.publishing import TOPIC


class Notes(StateFile):
    """A state file in its version 1."""

    kind = ("index", "索引")
    application_id = 0x4E4F5445
    version = 1
    tables = "CREATE TABLE notes (text); INSERT INTO notes VALUES ('first')"


class NewerNotes(Notes):
    """The same in its version 3."""

    version = 3


def ask(path: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        return db.execute(sql).fetchall()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "state.sqlite"


def test_a_file_keeps_its_rows_when_it_is_opened_again(path: Path) -> None:
    Notes(path).close()
    ask(path, "INSERT INTO notes VALUES ('second')")
    Notes(path).close()
    assert ask(path, "SELECT * FROM notes") == [("first",), ("second",)]


@pytest.mark.parametrize(("wrote", "reads"), [(NewerNotes, Notes), (Notes, NewerNotes)])
def test_a_file_of_another_version_is_refused_and_not_changed(
    path: Path, wrote: type[Notes], reads: type[Notes]
) -> None:
    wrote(path).close()
    before = path.read_bytes()
    with pytest.raises(
        StateError, match=rf"another version of Suibus \(index version {wrote.version}, known here"
    ) as caught:
        reads(path)
    assert "请在本节点安装写入它的版本" in caught.value.zh
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


def test_inbox_is_not_taken_for_an_outbox(path: Path) -> None:
    Inbox(path).close()
    with pytest.raises(StateError, match="not marked as an outbox"):
        Outbox(path)


def test_a_chunk_that_fails_half_way_leaves_no_row(path: Path) -> None:
    """A row that SQLite does not accept is refused with its whole chunk."""
    rows = [EncodedRow(b"a", b"1"), EncodedRow(b"b", b"2", answers=object())]  # type: ignore[arg-type]
    with Outbox(path) as outbox:
        with pytest.raises(sqlite3.Error):
            outbox.accept(TOPIC, rows)
        assert outbox.waiting() == 0
        outbox.accept(TOPIC, rows[:1])
        assert [row.key for row in outbox.next_rows(9, 99)] == [b"a"]
