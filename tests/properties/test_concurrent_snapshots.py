"""A snapshot deletes no key that anybody accepted since it began, however its steps mix with those of another publisher."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path

import pytest

from producers.encoded_row import EncodedRow
from producers.outbox import Delivery, Mode, Outbox
from producers.sources.files import open_source
from producers.sources.source import Record, Source
from tests.unit.producers.publishing import DATASET, ORDERED, TOPIC, CutError, Node, cut_off, table

# --- steps of two publishers, in every order ------------------------------------------------------

Rows = dict[bytes, bytes]
FIRST = {b"gone": b"1", b"updated": b"1", b"in both": b"1"}
SNAPSHOT = {b"in both": b"2"}
OTHER = {b"in both": b"3", b"updated": b"3", b"new": b"3"}


class Publish:
    """One publish in chunks of one row, as steps between which another publisher may do some of its own."""

    def __init__(self, outbox: Outbox, topic: str, mode: Mode | None, rows: Rows) -> None:
        self.outbox, self.topic, self.mode, self.rows = outbox, topic, mode, rows
        self.delivery: Delivery | None = None
        self.since: set[bytes] = set()  # keys that the other publisher has accepted since this publish began
        self.other: Publish | None = None

    def steps(self) -> list[Callable[[], None]]:
        rows = [partial(self._accept, EncodedRow(*row)) for row in self.rows.items()]
        if self.mode is None:
            return [*rows]
        return [self._begin, *rows, *([self._delete_gone] if self.mode == "snapshot" else []), self._complete]

    def _begin(self) -> None:
        self.delivery = self.outbox.begin(self.topic, "t.v1", "440106", None, self.mode or "append")
        self.since.clear()

    def _accept(self, entry: EncodedRow) -> None:
        if self.delivery is None:
            self.outbox.accept(self.topic, [entry])
        else:
            self.delivery = self.outbox.advance(self.delivery, [entry], read=1)
        if self.other:
            self.other.since.add(entry.key)

    def _delete_gone(self) -> None:
        assert self.delivery
        before = self.outbox.waiting()
        self.delivery = self.outbox.delete_gone(self.delivery)
        deleted = {row.key for row in self.outbox.next_rows(10**6, 1 << 30)[before:]}
        assert not deleted & {*self.rows, *self.since}

    def _complete(self) -> None:
        assert self.delivery
        self.outbox.complete(self.delivery)


def on_the_bus(outbox: Outbox, topic: str) -> Rows:
    """The newest row of each key of a topic, without deleted ones."""
    newest = {row.key: row.value for row in outbox.next_rows(10**6, 1 << 30) if row.topic == topic}
    return {key: value for key, value in newest.items() if value is not None}


@pytest.mark.parametrize("mode", [None, "append", "snapshot"])
@pytest.mark.parametrize("first", [FIRST, {}], ids=["after a snapshot", "as the first snapshot"])
def test_snapshot_deletes_nothing_that_came_since_it_began(tmp_path: Path, mode: Mode | None, first: Rows) -> None:
    """In every order of both publishers' steps; and the next snapshot leaves its own rows alone on the bus."""
    with Outbox(tmp_path / "o") as one, Outbox(tmp_path / "o") as two:
        length = len(Publish(one, TOPIC, "snapshot", SNAPSHOT).steps())
        total = length + len(Publish(two, TOPIC, mode, OTHER).steps())
        for places in combinations(range(total), length):
            topic = f"gz.up.440106.t{''.join(map(str, places))}.v1"
            mine, other = Publish(one, topic, "snapshot", SNAPSHOT), Publish(two, topic, mode, OTHER)
            mine.other, other.other = other, mine
            last = Publish(one, topic, "snapshot", {b"last": b"4"})
            for step in Publish(one, topic, "snapshot", first).steps() if first else []:
                step()
            my_steps, other_steps = iter(mine.steps()), iter(other.steps())
            for place in range(total):
                next(my_steps if place in places else other_steps)()
            for step in last.steps():
                step()
            if first or mode == "snapshot":  # else a row may have come before any snapshot, so that none knows of it
                assert on_the_bus(one, topic) == last.rows, places
            one.sent(10**9)


# --- whole publishes ------------------------------------------------------------------------------


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
