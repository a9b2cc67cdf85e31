"""A snapshot and another publish of one node at the same time, or one after the other was interrupted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from producers.sources.files import open_source
from producers.sources.source import Record, Source
from tests.unit.producers.publishing import DATASET, ORDERED, TOPIC, CutError, Node, cut_off, table


def with_another_at(source: Source, at: int, another: Callable[[], object]) -> Source:
    """The source; before its row of this number, or at its end, something else happens."""

    def read() -> Iterator[Record]:
        number = -1
        for number, record in enumerate(source.read()):
            if number == at:
                another()
            yield record
        if number < at:
            another()

    return replace(source, read=read)


def accept_row(node: Node, code: str, name: str) -> None:
    publisher = node.publisher()
    with publisher.outbox:
        publisher.publish({"code": code, "name": name, "d": "440106"})
        publisher.accept()


@pytest.mark.usefixtures("chunks_of_20")
@pytest.mark.parametrize("at", [0, 25, 45])
def test_file_published_beside_a_snapshot_is_not_deleted_by_it(node: Node, tmp_path: Path, at: int) -> None:
    node.publish(table(tmp_path, {"old": "x", "gone": "x"}), "snapshot")
    node.deliver()
    other = table(tmp_path, {"old": "updated", "new": "x"}, "other.csv")
    file = open_source(table(tmp_path, {f"{i:02d}": "x" for i in range(45)}), DATASET)
    info = node.publish_source(with_another_at(file, at, lambda: node.publish(other)), "snapshot")
    assert info.deleted == 1
    assert [key for key, name in node.waiting() if name is None] == ["gone"]
    assert node.publish(table(tmp_path, {"00": "x"}), "snapshot").deleted == 46


@pytest.mark.usefixtures("chunks_of_20")
def test_row_accepted_while_a_snapshot_was_interrupted_is_not_deleted_when_it_continues(
    node: Node, tmp_path: Path
) -> None:
    node.publish(table(tmp_path, {"old": "x", "gone": "x"}), "snapshot")
    file = table(tmp_path, {f"{i:02d}": "x" for i in range(45)})
    with pytest.raises(CutError):
        node.publish_source(cut_off(open_source(file, DATASET), 25), "snapshot")
    accept_row(node, "old", "updated")
    accept_row(node, "new", "x")
    info = node.publish(file, "snapshot")
    assert (info.resumed, info.deleted) == (20, 1)
    assert [key for key, name in node.waiting() if name is None] == ["gone"]


@pytest.mark.usefixtures("chunks_of_20")
def test_snapshot_begun_again_after_another_publish_leaves_what_it_holds(node: Node, tmp_path: Path) -> None:
    """It is a new snapshot, which begins after the other file."""
    file = table(tmp_path, {f"{i:02d}": "x" for i in range(45)})
    with pytest.raises(CutError):
        node.publish_source(cut_off(open_source(file, DATASET), 25), "snapshot")
    node.publish(table(tmp_path, {"00": "updated", "new": "x"}, "other.csv"))
    assert node.publish(file, "snapshot").resumed == 0
    assert {key: name for key, name in dict(node.waiting()).items() if name} == {f"{i:02d}": "x" for i in range(45)}


@pytest.fixture
def emptied(node: Node, tmp_path: Path) -> Node:
    """A node whose snapshot had one row, which was deleted later."""
    node.publish(table(tmp_path, {"1": "a"}), "snapshot")
    node.publish(table(tmp_path, {"1": ""}), "delete")
    node.deliver()
    return node


def test_row_accepted_after_the_last_key_was_deleted_is_deleted_by_a_snapshot_without_it(
    emptied: Node, tmp_path: Path
) -> None:
    emptied.publish(table(tmp_path, {"2": "b"}))
    emptied.deliver()
    emptied.publish(table(tmp_path, {"3": "c"}), "snapshot")
    assert emptied.waiting() == [("3", "c"), ("2", None)]


def test_refused_deletion_of_the_last_key_is_sent_again_by_the_next_snapshot(emptied: Node, tmp_path: Path) -> None:
    publisher = emptied.publisher()
    with publisher.outbox as outbox:
        outbox.note_refused(TOPIC, [(publisher.encode({"code": "1", "name": "a", "at": 1, "d": "440106"}).key, True)])
    emptied.publish(table(tmp_path, {"3": "c"}), "snapshot")
    assert emptied.waiting() == [("3", "c"), ("1", None)]


def test_deletion_is_never_older_than_the_newest_row_of_its_key(node: Node, tmp_path: Path) -> None:
    node.publish(table(tmp_path, [("1", "a", 5, "440106"), ("2", "b", 5, "440106")]), "snapshot", ORDERED)
    node.publish(table(tmp_path, [("1", "newer", 9, "440106")]), "append", ORDERED)
    node.publish(table(tmp_path, [("1", "older", 7, "440106"), ("2", "b", 5, "440106")]), "snapshot", ORDERED)
    node.publish(table(tmp_path, [("2", "b", 5, "440106")]), "snapshot", ORDERED)
    assert node.sequences() == [b"9"]
