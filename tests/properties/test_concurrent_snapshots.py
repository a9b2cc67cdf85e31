"""A snapshot deletes no key that anybody accepted since it began, however its steps mix with those of another publisher."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path

import pytest

from producers.encoded_row import EncodedRow
from producers.outbox import Delivery, Mode, Outbox
from tests.unit.producers.publishing import TOPIC

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
