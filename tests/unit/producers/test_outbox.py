"""Accepted rows are kept in order and once."""

from __future__ import annotations

from pathlib import Path

import pytest

from producers.encoded_row import EncodedRow
from producers.outbox import Outbox
from schemas.errors import StateError
from tests.unit.producers.publishing import TOPIC


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "nodes" / "440106" / "outbox.sqlite"


def at(milliseconds: int) -> int:
    """A clock's time in nanoseconds."""
    return milliseconds * 1_000_000


def test_seq_is_never_used_twice(path: Path) -> None:
    with Outbox(path) as outbox:
        outbox.accept(TOPIC, [EncodedRow(b"a", b"1"), EncodedRow(b"b", b"2")])
        outbox.sent(3)
        assert outbox.waiting() == 0
        outbox.accept(TOPIC, [EncodedRow(b"c", b"3")])
        assert [r.seq for r in outbox.next_rows(10, 100)] == [3]
        assert outbox.waiting() == 1


def test_rows_that_are_sent_are_counted_without_those_accepted_meanwhile(path: Path) -> None:
    with Outbox(path) as sender, Outbox(path) as publisher:
        publisher.accept(TOPIC, [EncodedRow(b"a", b"1"), EncodedRow(b"b", b"2")])
        position = sender.next_rows(10, 100)[-1].seq + 1
        publisher.accept(TOPIC, [EncodedRow(b"c", b"3")] * 5)
        assert sender.sent(position) == 2
        assert sender.sent(position) == 0
        assert sender.waiting() == 5


def test_clock_never_runs_back(path: Path) -> None:
    times = iter([at(5_000), at(3_000), at(7_000)])
    with Outbox(path, clock=times.__next__) as outbox:
        for _ in range(3):
            outbox.accept(TOPIC, [EncodedRow(b"a", b"1")])
        assert [r.timestamp_ms for r in outbox.next_rows(10, 100)] == [5_000, 5_001, 7_000]


def test_two_rows_of_a_key_never_have_the_same_millisecond(path: Path) -> None:
    """A correction may take its refused record's timestamp, so no other row of the key may have it."""
    with Outbox(path, clock=lambda: at(5_000)) as outbox:
        outbox.accept(TOPIC, [EncodedRow(k, b"") for k in (b"a", b"b", b"a", b"b", b"a")])
        outbox.accept(TOPIC, [EncodedRow(b"c", b"")])
        assert [r.timestamp_ms for r in outbox.next_rows(10, 100)] == [5_000, 5_000, 5_001, 5_001, 5_002, 5_003]


def test_timestamp_is_never_more_than_a_minute_ahead(path: Path) -> None:
    """A broker refuses timestamps that are far ahead of its own clock."""
    times = iter([at(64_990), at(5_000)])  # the clock was set back
    with Outbox(path, clock=times.__next__) as outbox:
        outbox.accept(TOPIC, [EncodedRow(b"a", b"")])
        outbox.accept(TOPIC, [EncodedRow(b"a", b"")] * 20)
        assert [r.timestamp_ms for r in outbox.next_rows(30, 1 << 20)] == [*range(64_990, 65_001), *[65_000] * 10]


def test_a_correction_has_its_own_timestamp_but_never_one_in_the_future(path: Path) -> None:
    with Outbox(path, clock=lambda: at(5_000)) as outbox:
        stamps = (3_000, -1, 9_000)
        outbox.accept(TOPIC, [EncodedRow(b"%d" % i, b"", answers=f"{TOPIC}:0:{i}", timestamp_ms=i) for i in stamps])
        assert [(r.timestamp_ms, r.answers) for r in outbox.next_rows(10, 100)] == [
            (3_000, f"{TOPIC}:0:3000"), (0, f"{TOPIC}:0:-1"), (5_000, f"{TOPIC}:0:9000"),
        ]  # fmt: skip


def test_answered_receipts_are_remembered_until_the_inbox_has_noted_them(path: Path) -> None:
    with Outbox(path) as outbox:
        outbox.accept(
            TOPIC, [EncodedRow(b"a", b"", answers="r1"), EncodedRow(b"b", b""), EncodedRow(b"c", b"", answers="r1")]
        )
        outbox.sent(4)
    with Outbox(path) as outbox:
        assert outbox.answered() == ["r1"]
        outbox.forget_answered(["r1"])
        assert outbox.answered() == []


def test_next_rows_are_bounded_in_number_and_bytes(path: Path) -> None:
    with Outbox(path) as outbox:
        outbox.accept(TOPIC, [EncodedRow(b"k", b"x" * 999)] * 50)
        assert len(outbox.next_rows(10, 1 << 20)) == 10
        assert len(outbox.next_rows(50, 5_000)) == 5


def test_two_processes_cannot_accept_the_same_source_twice(path: Path) -> None:
    with Outbox(path) as one, Outbox(path) as two:
        here = one.begin(TOPIC, "t.v1", "440106", "f", "append")
        there = two.begin(TOPIC, "t.v1", "440106", "f", "append")
        assert here == there
        one.advance(here, [EncodedRow(b"a", b"1")], read=1)
        with pytest.raises(StateError, match="another process"):
            two.advance(there, [EncodedRow(b"a", b"1")], read=1)
        assert one.waiting() == 1
