"""An interrupted publish continues where it stopped; a bad row is rejected alone; a snapshot sends the difference."""

from __future__ import annotations

import csv
import sqlite3
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest

from producers.inbox import Inbox
from producers.outbox import Delivery, Outbox
from producers.publish.delivery import publish_source
from producers.sources.database import open_query
from producers.sources.files import open_source
from producers.sources.source import Source
from schemas.dataset import Field
from schemas.errors import InputError, UnavailableError
from schemas.wire.encoder import Encoder
from tests.unit.producers.publishing import DATASET, FIELDS, ORDERED, TOPIC, CutError, Node, cut_off, table
from tests.unit.schemas.test_receipt import RECEIPT

# --- interruption ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("chunks_of_20")
@pytest.mark.parametrize("after", [0, 1, 20, 39, 45, 49])
def test_interrupted_publish_resumes_without_second_copies(node: Node, tmp_path: Path, after: int) -> None:
    rows = {f"{i:02d}": "x" for i in range(50)}
    file = table(tmp_path, rows)
    with pytest.raises(CutError):
        node.publish_source(cut_off(open_source(file, DATASET), after))
    info = node.publish(file)
    assert (info.read, info.accepted, info.rejected, info.resumed) == (50, 50, 0, after // 20 * 20)
    assert [k for k, _ in node.waiting()] == list(rows)


def test_same_command_after_the_bus_was_away_accepts_nothing_twice(node: Node, tmp_path: Path) -> None:
    file = table(tmp_path, {"1": "a"})
    first = node.publish(file)
    assert (first.exit_status, first.waiting) == (3, 1)
    assert isinstance(first.problem, UnavailableError)
    again = node.publish(file)
    assert (again.accepted, again.resumed, again.waiting) == (1, 1, 1)
    node.deliver()
    assert node.publish(file).waiting == 1  # the first had arrived, so this is a new publish


@pytest.mark.usefixtures("chunks_of_20")
def test_an_interrupted_publish_is_not_resumed_after_another_publish(node: Node, tmp_path: Path) -> None:
    old, new = (
        table(tmp_path, {str(i): "old" for i in range(30)}),
        table(tmp_path, {"1": "new"}, "new.csv"),
    )
    with pytest.raises(CutError):
        node.publish_source(cut_off(open_source(old, DATASET), 25))
    node.publish(new)
    assert node.publish(old).resumed == 0


@pytest.mark.usefixtures("chunks_of_20")
def test_rejects_of_an_interrupted_publish_are_listed_once(node: Node, tmp_path: Path) -> None:
    file = table(tmp_path, [(f"{i}", "x", "bad" if i % 10 == 7 else 1, "440106") for i in range(50)])
    with pytest.raises(CutError):
        node.publish_source(cut_off(open_source(file, DATASET), 45))
    rejects = tmp_path / "in.rejects.csv"
    with rejects.open("a") as half_written:
        half_written.write("49,at,not a wh")
    info = node.publish(file)
    assert (info.read, info.accepted, info.rejected, info.exit_status) == (50, 45, 5, 3)
    assert info.rejects_path == rejects
    with rejects.open(encoding="utf-8-sig", newline="") as rows:
        found = list(csv.DictReader(rows))
    assert [r["line"] for r in found] == [str(i + 2) for i in (7, 17, 27, 37, 47)]
    assert list(found[0]) == ["line", "column", "reason", "原因", "row"]
    assert found[0]["row"] == "7,x,bad,440106"
    assert found[0]["column"] == "at"


# --- rejects --------------------------------------------------------------------------------------


def test_rejects_file_is_written_only_when_needed_and_never_stale(node: Node, tmp_path: Path) -> None:
    rejects = tmp_path / "in.rejects.csv"
    assert node.publish(table(tmp_path, [("1", "a", "x", "440106"), ("", "b", "y", "440103")])).rejected == 2
    text = rejects.read_text("utf-8-sig").splitlines()
    assert len(text) == 3
    assert all(part in text[2] for part in ("code; at; d", "not a whole number", "names district", "不是整数"))
    info = node.publish(table(tmp_path, {"1": "a"}))
    assert not rejects.exists()
    assert info.rejects_path is None


def test_rejects_never_overwrite_the_input(node: Node, tmp_path: Path) -> None:
    file = table(tmp_path, {"1": "a"})
    publisher = node.publisher()
    with publisher.outbox, pytest.raises(InputError, match="the input itself"):
        publish_source(publisher, open_source(file, DATASET), rejects_path=file)
    assert file.exists()


def test_a_row_larger_than_the_bus_takes_is_rejected_alone(node: Node, tmp_path: Path) -> None:
    info = node.publish(table(tmp_path, {"1": "x" * 1_000_001, "2": "a"}))
    assert (info.accepted, info.rejected) == (1, 1)


# --- snapshots ------------------------------------------------------------------------------------


def test_a_snapshot_sends_only_the_difference(node: Node, tmp_path: Path) -> None:
    first = node.publish(table(tmp_path, {"1": "a", "2": "b", "3": "c"}), "snapshot")
    assert (first.accepted, first.unchanged, first.deleted) == (3, 0, 0)
    node.deliver()
    second = node.publish(table(tmp_path, {"1": "a", "2": "B", "4": "d"}), "snapshot")
    assert (second.read, second.accepted, second.unchanged, second.deleted) == (3, 2, 1, 1)
    assert node.waiting() == [("2", "B"), ("4", "d"), ("3", None)]
    node.deliver()
    same = node.publish(table(tmp_path, {"1": "a", "2": "B", "4": "d"}), "snapshot")
    assert (same.unchanged, same.accepted, same.deleted, same.exit_status) == (3, 0, 0, 0)


def test_a_snapshot_binds_at_most_999_values_per_sqlite_statement(node: Node, tmp_path: Path) -> None:
    """Some builds of SQLite take no more; state files are opened with the same limit."""
    for name in "ab":
        info = node.publish(table(tmp_path, {f"{n}": name if n == 1_500 else "x" for n in range(2_500)}), "snapshot")
    assert (info.accepted, info.unchanged, info.deleted) == (1, 2_499, 0)


def test_snapshot_with_a_rejected_row_deletes_nothing(node: Node, tmp_path: Path) -> None:
    node.publish(table(tmp_path, {"1": "a", "2": "b"}), "snapshot")
    node.deliver()
    info = node.publish(table(tmp_path, [("1", "a", 1, "440106"), ("2", "b", "bad", "440106")]), "snapshot")
    assert (info.unchanged, info.rejected, info.deleted) == (1, 1, 0)
    assert "No deletions were derived" in info.notes[0][0]
    assert node.waiting() == []


def test_empty_snapshot_is_refused(node: Node, tmp_path: Path) -> None:
    node.publish(table(tmp_path, {"1": "a"}), "snapshot")
    node.deliver()
    with pytest.raises(InputError, match="delete everything"):
        node.publish(table(tmp_path, {}), "snapshot")
    assert node.waiting() == []


@pytest.mark.usefixtures("chunks_of_20")
@pytest.mark.parametrize("after", [1, 21, 41])
def test_interrupted_snapshot_resumes_and_deletes_only_what_is_gone(node: Node, tmp_path: Path, after: int) -> None:
    node.publish(table(tmp_path, {f"{i:02d}": "x" for i in range(50)}), "snapshot")
    node.deliver()
    file = table(tmp_path, {f"{i:02d}": "x" for i in range(5, 50)})
    publisher = node.publisher()
    with publisher.outbox:
        with pytest.raises(CutError):
            publish_source(publisher, cut_off(open_source(file, DATASET), after), "snapshot")
        publisher.publish({"code": "30", "name": "y", "d": "440106"})  # an ordinary row in between
        publisher.accept()
    info = node.publish(file, "snapshot")
    assert (info.deleted, info.rejected) == (5, 0)
    assert {k for k, v in node.waiting() if v is None} == {f"{i:02d}" for i in range(5)}


@pytest.mark.usefixtures("chunks_of_20")
def test_interrupted_deletions_of_a_snapshot_are_finished(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.publish(table(tmp_path, {f"{i:02d}": "x" for i in range(50)}), "snapshot")
    node.deliver()
    file = table(tmp_path, {"00": "x"})
    delete_gone, calls = Outbox.delete_gone, []

    def killed(self: Outbox, delivery: Delivery, sequence: bytes | None) -> Delivery:
        calls.append(1)
        if len(calls) == 2:
            raise CutError
        return delete_gone(self, delivery, sequence)

    monkeypatch.setattr(Outbox, "delete_gone", killed)
    with pytest.raises(CutError):
        node.publish(file, "snapshot")
    assert len(node.waiting()) == 20
    assert node.publish(file, "snapshot").deleted == 49
    assert len({k for k, _ in node.waiting()}) == len(node.waiting()) == 49


def test_publish_and_delete_keep_the_snapshot_right(node: Node, tmp_path: Path) -> None:
    node.publish(table(tmp_path, {"1": "a", "2": "b"}), "snapshot")
    node.publish(table(tmp_path, {"3": "c", "1": "A"}))
    node.publish(table(tmp_path, {"2": ""}), "delete")
    node.deliver()
    info = node.publish(table(tmp_path, {"1": "A", "3": "c"}), "snapshot")
    assert (info.unchanged, info.accepted, info.deleted) == (2, 0, 0)


def test_older_row_published_late_does_not_disturb_the_snapshot(node: Node, tmp_path: Path) -> None:
    node.publish(table(tmp_path, [("1", "new", 10, "440106")]), "snapshot", ORDERED)
    node.publish(table(tmp_path, [("1", "old", 9, "440106")]), "append", ORDERED)
    node.deliver()
    info = node.publish(table(tmp_path, [("1", "new", 10, "440106")]), "snapshot", ORDERED)
    assert (info.unchanged, info.accepted) == (1, 0)


# --- receipts -------------------------------------------------------------------------------------


def note_refused(node: Node, code: str, deletion: bool = False) -> None:
    with Outbox(node.path) as outbox:
        outbox.note_refused(TOPIC, [(Encoder(DATASET).key({"code": code}), deletion)])


def test_row_that_was_refused_is_sent_again_by_the_next_snapshot_though_unchanged(node: Node, tmp_path: Path) -> None:
    node.publish(table(tmp_path, {"1": "a", "2": "b"}), "snapshot")
    node.deliver()
    for _ in range(2):  # a receipt may come twice
        note_refused(node, "1")
    assert node.publish(table(tmp_path, {"1": "a", "2": "b"}), "snapshot").unchanged == 1
    assert node.waiting() == [("1", "a")]
    node.deliver()
    assert node.publish(table(tmp_path, {"1": "a", "2": "b"}), "snapshot").unchanged == 2


def test_row_that_was_refused_and_is_gone_is_still_deleted(node: Node, tmp_path: Path) -> None:
    node.publish(table(tmp_path, {"1": "a", "2": "b"}), "snapshot")
    node.deliver()
    note_refused(node, "1")
    node.publish(table(tmp_path, {"2": "b"}), "snapshot")
    assert node.waiting() == [("1", None)]


def test_refused_deletion_is_sent_again_by_the_next_snapshot(node: Node, tmp_path: Path) -> None:
    node.publish(table(tmp_path, {"1": "a", "2": "b"}), "snapshot")
    node.publish(table(tmp_path, {"2": "b"}), "snapshot")
    node.deliver()
    note_refused(node, "1", deletion=True)
    node.publish(table(tmp_path, {"2": "b"}), "snapshot")
    assert node.waiting() == [("1", None)]


def test_a_receipt_creates_no_snapshot_state(node: Node, tmp_path: Path) -> None:
    node.publish(table(tmp_path, {"1": "a"}))
    note_refused(node, "1")
    note_refused(node, "2", deletion=True)
    with Outbox(node.path) as outbox:
        assert not outbox.has_state(TOPIC)


def test_after_a_correction_the_next_snapshot_sends_its_own_version_of_the_row(node: Node, tmp_path: Path) -> None:
    """The city may hold a newer version, so neither text is known to be there."""
    node.publish(table(tmp_path, {"1": "newer", "2": "b"}), "snapshot")
    publisher = node.publisher()
    row = {"code": "1", "name": "corrected", "at": 1, "d": "440106"}
    with publisher.outbox as outbox:
        outbox.accept(TOPIC, [publisher.encode(row)._replace(answers="r", timestamp_ms=1)])
    for text in ("corrected", "newer"):
        node.deliver()
        assert node.publish(table(tmp_path, {"1": text, "2": "b"}), "snapshot").unchanged == 1
        assert node.waiting() == [("1", text)]


def test_deletion_that_answers_a_receipt_needs_its_own_sequence(node: Node, tmp_path: Path) -> None:
    """The sequence last accepted, or this moment, would delete a newer version."""
    node.publish(table(tmp_path, [("1", "newer", 41, "440106")]), "snapshot", ORDERED)
    node.deliver()
    file = tmp_path / "gone.csv"
    file.write_text("_receipt,code,at\nt.v1:0:7,1,\nt.v1:0:7,1,5\n")
    publisher = node.publisher(ORDERED)
    with publisher.outbox as outbox, Inbox(node.path.with_name("inbox.sqlite")) as inbox:
        inbox.store([RECEIPT], {0: 8}, "id")
        source = open_source(file, ORDERED, delete=True, corrections=True)
        with pytest.raises(InputError, match="cannot be a file of corrections"):
            publish_source(publisher, source, "snapshot", corrections=inbox)
        info = publish_source(publisher, source, "delete", corrections=inbox)
        assert [h.state for h in inbox.receipts()] == ["answered"]
        assert [(w.sequence, w.answers) for w in outbox.next_rows(9, 999)] == [(b"5", RECEIPT.id)]
    assert (info.deleted, info.rejected) == (1, 1)
    assert "needs its own sequence" in (tmp_path / "gone.rejects.csv").read_text("utf-8-sig")


# --- deletions ------------------------------------------------------------------------------------


def test_deletion_carries_its_sequence(node: Node, tmp_path: Path) -> None:
    with_column = tmp_path / "a.csv"
    with_column.write_text("code,at\n1,7\n")
    node.publish(with_column, "delete", ORDERED)
    assert node.sequences() == [b"7"]
    without = tmp_path / "b.csv"
    without.write_text("code\n1\n5\n")
    with pytest.raises(InputError, match="needs its sequence column at"):
        node.publish(without, "delete", ORDERED)
    node.publish(table(tmp_path, [("1", "a", 41, "440106"), ("2", "b", 42, "440106")]), "snapshot", ORDERED)
    info = node.publish(without, "delete", ORDERED)
    assert (info.deleted, info.rejected) == (1, 1)
    assert node.sequences() == [b"7", b"41"]


def test_deletion_in_a_dataset_ordered_by_time_defaults_to_now(node: Node, tmp_path: Path) -> None:
    timed = replace(DATASET, fields=(FIELDS[0], Field("at", "timestamp", True)), district=None, sequence="at")
    file = tmp_path / "a.csv"
    file.write_text("code\n1\n")
    node.publish(file, "delete", timed)
    (header,) = node.sequences()
    assert header
    assert int(header) > 1_700_000_000_000_000
    node.deliver()
    node.publish(file, "delete", replace(timed, sequence=None))
    assert node.sequences() == [None]


@pytest.mark.parametrize(("first", "second"), list(permutations(["Python", "CSV", "SQL"], 2)))
def test_deletions_are_read_by_the_rules_of_their_own_source_whatever_was_read_before(
    node: Node, tmp_path: Path, first: str, second: str
) -> None:
    """The same key is True in Python, `true` in a CSV and 1 in SQLite."""
    data = replace(DATASET, fields=(Field("open", "boolean", True),), key=("open",), district=None)
    publisher = node.publisher(data)

    def publish(source: Source) -> None:
        info = publish_source(publisher, source, "delete", rejects_path=tmp_path / "rejects.csv")
        assert (info.deleted, info.rejected) == (1, 0)

    def delete_by_python() -> None:
        publisher.delete({"open": True})
        publisher.accept()

    def delete_by_csv() -> None:
        file = tmp_path / "in.csv"
        file.write_text("open\ntrue\n")
        publish(open_source(file, data, delete=True))

    def delete_by_sql() -> None:
        sqlite3.connect(tmp_path / "d.sqlite").close()
        publish(open_query("SELECT 1 AS open", f"sqlite:///{tmp_path}/d.sqlite", data, delete=True))

    ways = {"Python": delete_by_python, "CSV": delete_by_csv, "SQL": delete_by_sql}
    with publisher.outbox as outbox:
        ways[first]()
        ways[second]()
        assert [(row.key, row.value) for row in outbox.next_rows(9, 999)] == [(b'{"open":true}', None)] * 2
