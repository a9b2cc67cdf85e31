"""What was accepted is kept, in order and once; an interrupted publish goes on where it stopped."""

from __future__ import annotations

import csv
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from producers.inbox import Inbox
from producers.outbox import CHUNK, Delivery, Entry, Mode, Outbox
from producers.publish.publisher import Publisher, PublishInfo, publish_source
from producers.send.sender import FlushInfo
from producers.sources.files import Record, Source, open_source
from schemas.dataset import Dataset, Field
from schemas.errors import InputError, StateError, UnavailableError
from schemas.row.coercer import RowError
from schemas.wire.avro import avro_schema, decode, schema_fingerprint
from schemas.wire.encoder import Encoder
from tests.unit.test_receipt import RECEIPT

NOWHERE = "127.0.0.1:1"  # nothing listens: rows stay in the outbox
FIELDS = (Field("code", "string", True), Field("name", "string"), Field("at", "int"), Field("d", "string"))
DATASET = Dataset("t", "1.0.0", FIELDS, ("code",), None, "d", "none", None, (), "", "", "t.yaml", "")
ORDERED = replace(DATASET, sequence="at")
TOPIC = "gz.up.440106.t.v1"


@pytest.fixture(autouse=True)
def unreachable_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is sent: what was accepted waits."""

    def flush(path: Path, *_: Any, **__: Any) -> FlushInfo:
        with Outbox(path) as outbox:
            if waits := outbox.waiting():
                raise UnavailableError(f"{waits} rows wait", f"有 {waits} 行等待")
        return FlushInfo(0, 0, 0.0)

    monkeypatch.setattr("producers.publish.publisher.flush", flush)
    monkeypatch.setattr(Publisher, "send_ahead", lambda _: None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "nodes" / "440106" / "outbox.sqlite"


def publisher(path: Path, dataset: Dataset = DATASET) -> Publisher:
    return Publisher(dataset, "440106", path, NOWHERE, timeout=0.0)


def table(folder: Path, rows: dict[str, Any] | list[tuple[Any, ...]], name: str = "in.csv") -> Path:
    """A CSV of code → name, or of whole rows."""
    file = folder / name
    full = [(k, v, 1, "440106") for k, v in rows.items()] if isinstance(rows, dict) else rows
    with file.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows([("code", "name", "at", "d"), *full])
    return file


def publish(path: Path, file: Path, mode: Mode = "append", dataset: Dataset = DATASET) -> PublishInfo:
    """Publish with the bus away: everything waits."""
    node = publisher(path, dataset)
    try:
        return publish_source(node, open_source(file, dataset, delete=mode == "delete"), mode)
    finally:
        node.outbox.close()


def waiting(path: Path, dataset: Dataset = DATASET) -> list[tuple[str, Any]]:
    """Key and name of each row that waits, in order; None for a tombstone."""
    schema = avro_schema(dataset)
    with Outbox(path) as outbox:
        rows = outbox.head(10**6, 1 << 40)
    assert [r.seq for r in rows] == list(range(rows[0].seq, rows[0].seq + len(rows))) if rows else True
    assert all(a.timestamp_ms <= b.timestamp_ms for a, b in pairwise(rows))
    return [
        (
            r.key.decode().split('"')[3],
            None if r.value is None else decode(r.value, {schema_fingerprint(schema): schema}, schema)["name"],
        )
        for r in rows
    ]


def deliver(path: Path) -> None:
    """As if all that waits had reached the bus."""
    with Outbox(path) as outbox:
        outbox.sent(10**9)


class CutError(Exception):
    """The process is killed here."""


def cut_off(source: Source, after: int) -> Source:
    def read() -> Iterator[Record]:
        for n, record in enumerate(source.read()):
            if n == after:
                raise CutError
            yield record

    return replace(source, read=read)


# --- the file ------------------------------------------------------------------------------------


def test_seq_is_never_used_twice(path: Path) -> None:
    with Outbox(path) as outbox:
        outbox.accept(TOPIC, [Entry(b"a", b"1"), Entry(b"b", b"2")])
        outbox.sent(3)
        assert outbox.waiting() == 0
        outbox.accept(TOPIC, [Entry(b"c", b"3")])
        assert [r.seq for r in outbox.head(10, 100)] == [3]
        assert outbox.waiting() == 1


def test_clock_never_runs_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Outbox(path) as outbox:
        for now in (5_000, 3_000, 7_000):
            monkeypatch.setattr("time.time_ns", lambda now=now: now * 1_000_000)
            outbox.accept(TOPIC, [Entry(b"a", b"1")])
        assert [r.timestamp_ms for r in outbox.head(10, 100)] == [5_000, 5_001, 7_000]


def test_two_rows_of_a_key_are_never_of_one_millisecond(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the Kafka timestamp orders, a correction takes its refused record's: nothing else may be there."""
    monkeypatch.setattr("time.time_ns", lambda: 5_000 * 1_000_000)
    with Outbox(path) as outbox:
        outbox.accept(TOPIC, [Entry(k, b"") for k in (b"a", b"b", b"a", b"b", b"a")])
        outbox.accept(TOPIC, [Entry(b"c", b"")])
        assert [r.timestamp_ms for r in outbox.head(10, 100)] == [5_000, 5_000, 5_001, 5_001, 5_002, 5_003]
        outbox.accept(TOPIC, [Entry(b"a", b"")] * 100_000)
        assert max(r.timestamp_ms for r in outbox.head(10**6, 1 << 30)) == 65_000  # a broker refuses what is far ahead


def test_correction_goes_under_its_own_time_but_never_ahead(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time_ns", lambda: 5_000 * 1_000_000)
    with Outbox(path) as outbox:
        stamps = (3_000, -1, 9_000)
        outbox.accept(TOPIC, [Entry(b"%d" % i, b"", answers=f"{TOPIC}:0:{i}", timestamp_ms=i) for i in stamps])
        assert [(r.timestamp_ms, r.answers) for r in outbox.head(10, 100)] == [
            (3_000, f"{TOPIC}:0:3000"), (0, f"{TOPIC}:0:-1"), (5_000, f"{TOPIC}:0:9000"),
        ]  # fmt: skip


def test_answered_receipts_are_remembered_until_marked(path: Path) -> None:
    with Outbox(path) as outbox:
        outbox.accept(TOPIC, [Entry(b"a", b"", answers="r1"), Entry(b"b", b""), Entry(b"c", b"", answers="r1")])
    deliver(path)
    with Outbox(path) as outbox:
        assert outbox.answered() == ["r1"]
        outbox.marked(["r1"])
        assert outbox.answered() == []


def test_outbox_of_version_1_is_upgraded_in_place_and_loses_nothing(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as db:
        db.executescript(Outbox.steps[0] + ";PRAGMA user_version=1")
        db.execute("UPDATE meta SET value='0f2c' WHERE name='uuid'")
        db.execute("INSERT INTO meta VALUES ('clock', 4000), ('attempt', 'a-transaction')")
        db.execute("INSERT INTO topics VALUES (1, ?)", (TOPIC,))
        rows = [(1, b"a", b"1", None, 3_000), (1, b"a", None, b"8", 4_000)]
        db.executemany("INSERT INTO outbox (topic, key, value, sequence, timestamp_ms) VALUES (?,?,?,?,?)", rows)
        db.execute("INSERT INTO state VALUES (1, x'61', x'00', x'38', 1)")
        db.execute(
            "INSERT INTO deliveries (dataset, district, topic, fingerprint, mode, rows_read, accepted) "
            "VALUES ('t.v1', '440106', 1, 'f', 'append', 2, 2)"
        )
    db.close()
    for _ in range(2):
        with Outbox(path) as outbox:
            assert [(r.seq, r.topic, r.key, r.value, r.sequence, r.timestamp_ms, r.answers) for r in outbox.head(9, 99)] == [
                (1, TOPIC, b"a", b"1", None, 3_000, None), (2, TOPIC, b"a", None, b"8", 4_000, None),
            ]  # fmt: skip
            assert (outbox.uuid, outbox.attempt, outbox.answered()) == ("0f2c", "a-transaction", [])
            assert outbox.sequences(TOPIC, [b"a"]) == {b"a": b"8"}
            assert outbox.begin(TOPIC, "t.v1", "440106", "f", "append").rows_read == 2
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (2,)
    db.close()


def test_head_is_bounded_in_rows_and_bytes(path: Path) -> None:
    with Outbox(path) as outbox:
        outbox.accept(TOPIC, [Entry(b"k", b"x" * 999)] * 50)
        assert len(outbox.head(10, 1 << 20)) == 10
        assert len(outbox.head(50, 5_000)) == 5


def test_newer_outbox_and_strange_files_are_left_alone(path: Path) -> None:
    Outbox(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(StateError, match="newer Suibus"):
        Outbox(path)
    path.unlink()
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(StateError, match="not an outbox"):
        Outbox(path)
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()
    with pytest.raises(StateError, match="another program"):
        Outbox(path)


def test_two_processes_cannot_accept_the_same_source_twice(path: Path) -> None:
    with Outbox(path) as one, Outbox(path) as two:
        here = one.begin(TOPIC, "t.v1", "440106", "f", "append")
        there = two.begin(TOPIC, "t.v1", "440106", "f", "append")
        assert here == there
        one.advance(here, [Entry(b"a", b"1")], read=1)
        with pytest.raises(StateError, match="another process"):
            two.advance(there, [Entry(b"a", b"1")], read=1)
        assert one.waiting() == 1


# --- interruption --------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 2_000, 3_999, 4_500, 4_999])
def test_interrupted_publish_resumes_without_second_copies(path: Path, tmp_path: Path, after: int) -> None:
    rows = {f"{i:05d}": "x" for i in range(5_000)}
    file = table(tmp_path, rows)
    node = publisher(path)
    with pytest.raises(CutError):
        publish_source(node, cut_off(open_source(file, DATASET), after))
    node.outbox.close()
    info = publish(path, file)
    assert (info.read, info.accepted, info.rejected, info.resumed) == (
        5_000,
        5_000,
        0,
        after // 2_000 * 2_000,
    )
    assert [k for k, _ in waiting(path)] == list(rows)


def test_same_command_after_the_bus_was_away_accepts_nothing_twice(path: Path, tmp_path: Path) -> None:
    file = table(tmp_path, {"1": "a"})
    first = publish(path, file)
    assert (first.exit_status, first.waiting) == (3, 1)
    assert isinstance(first.problem, UnavailableError)
    again = publish(path, file)
    assert (again.accepted, again.resumed, again.waiting) == (1, 1, 1)
    deliver(path)
    assert publish(path, file).waiting == 1  # it had arrived: this is a new publish


def test_interrupted_publish_is_not_taken_up_once_another_followed(path: Path, tmp_path: Path) -> None:
    old, new = (
        table(tmp_path, {str(i): "old" for i in range(3_000)}),
        table(tmp_path, {"1": "new"}, "new.csv"),
    )
    node = publisher(path)
    with pytest.raises(CutError):
        publish_source(node, cut_off(open_source(old, DATASET), 2_500))
    node.outbox.close()
    publish(path, new)
    assert publish(path, old).resumed == 0


def test_rejects_of_an_interrupted_publish_are_there_once(path: Path, tmp_path: Path) -> None:
    file = table(tmp_path, [(f"{i}", "x", "bad" if i % 1_000 == 7 else 1, "440106") for i in range(5_000)])
    node = publisher(path)
    with pytest.raises(CutError):
        publish_source(node, cut_off(open_source(file, DATASET), 4_500))
    node.outbox.close()
    rejects = tmp_path / "in.rejects.csv"
    with rejects.open("a") as half_written:
        half_written.write("4009,at,not a wh")
    info = publish(path, file)
    assert (info.read, info.accepted, info.rejected, info.exit_status) == (5_000, 4_995, 5, 3)
    assert info.rejects_path == rejects
    with rejects.open(encoding="utf-8-sig", newline="") as rows:
        found = list(csv.DictReader(rows))
    assert [r["line"] for r in found] == [str(i + 2) for i in (7, 1_007, 2_007, 3_007, 4_007)]
    assert list(found[0]) == ["line", "column", "reason", "原因", "row"]
    assert found[0]["row"] == "7,x,bad,440106"
    assert found[0]["column"] == "at"


# --- rejects -------------------------------------------------------------------------------------


def test_rejects_file_is_written_only_when_needed_and_never_stale(path: Path, tmp_path: Path) -> None:
    rejects = tmp_path / "in.rejects.csv"
    assert publish(path, table(tmp_path, [("1", "a", "x", "440106"), ("", "b", "y", "440103")])).rejected == 2
    text = rejects.read_text("utf-8-sig").splitlines()
    assert len(text) == 3
    assert all(part in text[2] for part in ("code; at; d", "not a whole number", "names district", "不是整数"))
    info = publish(path, table(tmp_path, {"1": "a"}))
    assert not rejects.exists()
    assert info.rejects_path is None


def test_rejects_never_overwrite_the_input(path: Path, tmp_path: Path) -> None:
    file = table(tmp_path, {"1": "a"})
    node = publisher(path)
    with pytest.raises(InputError, match="the input itself"):
        publish_source(node, open_source(file, DATASET), rejects_path=file)
    node.outbox.close()
    assert file.exists()


def test_row_larger_than_the_bus_takes_is_rejected_not_stuck(path: Path, tmp_path: Path) -> None:
    info = publish(path, table(tmp_path, {"1": "x" * 1_000_001, "2": "a"}))
    assert (info.accepted, info.rejected) == (1, 1)


# --- snapshots -----------------------------------------------------------------------------------


def test_snapshot_sends_the_difference_alone(path: Path, tmp_path: Path) -> None:
    first = publish(path, table(tmp_path, {"1": "a", "2": "b", "3": "c"}), "snapshot")
    assert (first.accepted, first.unchanged, first.deleted) == (3, 0, 0)
    deliver(path)
    second = publish(path, table(tmp_path, {"1": "a", "2": "B", "4": "d"}), "snapshot")
    assert (second.read, second.accepted, second.unchanged, second.deleted) == (3, 2, 1, 1)
    assert waiting(path) == [("2", "B"), ("4", "d"), ("3", None)]
    deliver(path)
    same = publish(path, table(tmp_path, {"1": "a", "2": "B", "4": "d"}), "snapshot")
    assert (same.unchanged, same.accepted, same.deleted, same.exit_status) == (3, 0, 0, 0)


def test_snapshot_asks_sqlite_for_no_more_values_than_any_takes(path: Path, tmp_path: Path) -> None:
    for name in "ab":
        node = publisher(path)
        node.outbox._db.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 999)
        file = table(tmp_path, {f"{n}": name if n == 1_500 else "x" for n in range(2_500)})
        info = publish_source(node, open_source(file, DATASET), "snapshot")
        node.outbox.close()
    assert (info.accepted, info.unchanged, info.deleted) == (1, 2_499, 0)


def test_snapshot_with_a_rejected_row_deletes_nothing(path: Path, tmp_path: Path) -> None:
    publish(path, table(tmp_path, {"1": "a", "2": "b"}), "snapshot")
    deliver(path)
    info = publish(path, table(tmp_path, [("1", "a", 1, "440106"), ("2", "b", "bad", "440106")]), "snapshot")
    assert (info.unchanged, info.rejected, info.deleted) == (1, 1, 0)
    assert "No deletions were derived" in info.notes[0][0]
    assert waiting(path) == []


def test_empty_snapshot_is_refused(path: Path, tmp_path: Path) -> None:
    publish(path, table(tmp_path, {"1": "a"}), "snapshot")
    deliver(path)
    with pytest.raises(InputError, match="delete everything"):
        publish(path, table(tmp_path, {}), "snapshot")
    assert waiting(path) == []


@pytest.mark.parametrize("after", [100, 2_100, 4_100])
def test_interrupted_snapshot_resumes_and_deletes_only_what_is_gone(path: Path, tmp_path: Path, after: int) -> None:
    publish(path, table(tmp_path, {f"{i:05d}": "x" for i in range(5_000)}), "snapshot")
    deliver(path)
    file = table(tmp_path, {f"{i:05d}": "x" for i in range(10, 5_000)})
    node = publisher(path)
    with pytest.raises(CutError):
        publish_source(node, cut_off(open_source(file, DATASET), after), "snapshot")
    node.accept()
    node.publish({"code": "00999", "name": "y", "d": "440106"})  # an ordinary row in between
    node.accept()
    node.outbox.close()
    info = publish(path, file, "snapshot")
    assert (info.deleted, info.rejected) == (10, 0)
    assert {k for k, v in waiting(path) if v is None} == {f"{i:05d}" for i in range(10)}


def test_interrupted_deletions_of_a_snapshot_are_finished(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(path, table(tmp_path, {f"{i:05d}": "x" for i in range(5_000)}), "snapshot")
    deliver(path)
    file = table(tmp_path, {"00000": "x"})
    delete_gone, calls = Outbox.delete_gone, []

    def killed(self: Outbox, delivery: Delivery, sequence: bytes | None) -> Delivery:
        calls.append(1)
        if len(calls) == 2:
            raise CutError
        return delete_gone(self, delivery, sequence)

    monkeypatch.setattr(Outbox, "delete_gone", killed)
    with pytest.raises(CutError):
        publish(path, file, "snapshot")
    assert len(waiting(path)) == 2_000
    assert publish(path, file, "snapshot").deleted == 4_999
    assert len({k for k, _ in waiting(path)}) == len(waiting(path)) == 4_999


def test_publish_and_delete_keep_the_snapshot_right(path: Path, tmp_path: Path) -> None:
    publish(path, table(tmp_path, {"1": "a", "2": "b"}), "snapshot")
    publish(path, table(tmp_path, {"3": "c", "1": "A"}))
    publish(path, table(tmp_path, {"2": ""}), "delete")
    deliver(path)
    info = publish(path, table(tmp_path, {"1": "A", "3": "c"}), "snapshot")
    assert (info.unchanged, info.accepted, info.deleted) == (2, 0, 0)


def test_older_row_published_late_does_not_disturb_the_snapshot(path: Path, tmp_path: Path) -> None:
    publish(path, table(tmp_path, [("1", "new", 10, "440106")]), "snapshot", ORDERED)
    publish(path, table(tmp_path, [("1", "old", 9, "440106")]), "append", ORDERED)
    deliver(path)
    info = publish(path, table(tmp_path, [("1", "new", 10, "440106")]), "snapshot", ORDERED)
    assert (info.unchanged, info.accepted) == (1, 0)


# --- receipts ------------------------------------------------------------------------------------


def key(code: str) -> bytes:
    return Encoder(DATASET).key({"code": code})


def doubt(path: Path, code: str, deletion: bool = False) -> None:
    with Outbox(path) as outbox:
        outbox.doubt(TOPIC, [(key(code), deletion)])


def test_row_that_was_refused_is_sent_again_by_the_next_snapshot_though_unchanged(path: Path, tmp_path: Path) -> None:
    publish(path, table(tmp_path, {"1": "a", "2": "b"}), "snapshot")
    deliver(path)
    for _ in range(2):  # a receipt may come twice
        doubt(path, "1")
    assert publish(path, table(tmp_path, {"1": "a", "2": "b"}), "snapshot").unchanged == 1
    assert waiting(path) == [("1", "a")]
    deliver(path)
    assert publish(path, table(tmp_path, {"1": "a", "2": "b"}), "snapshot").unchanged == 2


def test_row_that_was_refused_and_is_gone_is_still_deleted(path: Path, tmp_path: Path) -> None:
    publish(path, table(tmp_path, {"1": "a", "2": "b"}), "snapshot")
    deliver(path)
    doubt(path, "1")
    publish(path, table(tmp_path, {"2": "b"}), "snapshot")
    assert waiting(path) == [("1", None)]


def test_refused_deletion_is_sent_again_by_the_next_snapshot(path: Path, tmp_path: Path) -> None:
    publish(path, table(tmp_path, {"1": "a", "2": "b"}), "snapshot")
    publish(path, table(tmp_path, {"2": "b"}), "snapshot")
    deliver(path)
    doubt(path, "1", deletion=True)
    publish(path, table(tmp_path, {"2": "b"}), "snapshot")
    assert waiting(path) == [("1", None)]


def test_receipts_make_no_snapshot_state_where_there_is_none(path: Path, tmp_path: Path) -> None:
    publish(path, table(tmp_path, {"1": "a"}))
    doubt(path, "1")
    doubt(path, "2", deletion=True)
    with Outbox(path) as outbox:
        assert not outbox.has_state(TOPIC)


def test_correction_leaves_the_next_snapshot_to_send_what_it_holds(path: Path, tmp_path: Path) -> None:
    """The city may hold a newer version instead: neither text can be taken for what is there."""
    publish(path, table(tmp_path, {"1": "newer", "2": "b"}), "snapshot")
    node = publisher(path)
    row = {"code": "1", "name": "corrected", "at": 1, "d": "440106"}
    node.outbox.accept(TOPIC, [node.entry(row)._replace(answers="r", timestamp_ms=1)])
    node.outbox.close()
    for text in ("corrected", "newer"):
        deliver(path)
        assert publish(path, table(tmp_path, {"1": text, "2": "b"}), "snapshot").unchanged == 1
        assert waiting(path) == [("1", text)]


def test_deletion_that_answers_a_receipt_needs_its_own_sequence(path: Path, tmp_path: Path) -> None:
    """The sequence last accepted, or this moment, would delete a newer version."""
    publish(path, table(tmp_path, [("1", "newer", 41, "440106")]), "snapshot", ORDERED)
    deliver(path)
    file = tmp_path / "gone.csv"
    file.write_text("_receipt,code,at\nt.v1:0:7,1,\nt.v1:0:7,1,5\n")
    node = publisher(path, ORDERED)
    with Inbox(path.with_name("inbox.sqlite")) as inbox:
        inbox.take([RECEIPT], {0: 8}, "id")
        with pytest.raises(InputError, match="cannot be a file of corrections"):
            publish_source(
                node, open_source(file, ORDERED, delete=True, corrections=True), "snapshot", corrections=inbox
            )
        source = open_source(file, ORDERED, delete=True, corrections=True)
        info = publish_source(node, source, "delete", corrections=inbox)
        assert [h.state for h in inbox.receipts()] == ["answered"]
    with Outbox(path) as outbox:
        assert [(w.sequence, w.answers) for w in outbox.head(9, 999)] == [(b"5", RECEIPT.id)]
    node.outbox.close()
    assert (info.deleted, info.rejected) == (1, 1)
    assert "needs its own sequence" in (tmp_path / "gone.rejects.csv").read_text("utf-8-sig")


# --- deletions -----------------------------------------------------------------------------------


def headers(path: Path) -> list[bytes | None]:
    with Outbox(path) as outbox:
        return [r.sequence for r in outbox.head(100, 1 << 20) if r.value is None]


def test_deletion_carries_its_sequence(path: Path, tmp_path: Path) -> None:
    with_column = tmp_path / "a.csv"
    with_column.write_text("code,at\n1,7\n")
    publish(path, with_column, "delete", ORDERED)
    assert headers(path) == [b"7"]
    without = tmp_path / "b.csv"
    without.write_text("code\n1\n5\n")
    with pytest.raises(InputError, match="needs its sequence column at"):
        publish(path, without, "delete", ORDERED)
    publish(path, table(tmp_path, [("1", "a", 41, "440106"), ("2", "b", 42, "440106")]), "snapshot", ORDERED)
    info = publish(path, without, "delete", ORDERED)
    assert (info.deleted, info.rejected) == (1, 1)
    assert headers(path) == [b"7", b"41"]


def test_deletion_in_a_dataset_ordered_by_time_defaults_to_now(path: Path, tmp_path: Path) -> None:
    timed = replace(DATASET, fields=(FIELDS[0], Field("at", "timestamp", True)), district=None, sequence="at")
    file = tmp_path / "a.csv"
    file.write_text("code\n1\n")
    publish(path, file, "delete", timed)
    (header,) = headers(path)
    assert header
    assert int(header) > 1_700_000_000_000_000
    deliver(path)
    publish(path, file, "delete", replace(timed, sequence=None))
    assert headers(path) == [None]


# --- from Python ---------------------------------------------------------------------------------


def test_rows_taken_before_an_exception_are_kept(path: Path) -> None:
    def fail() -> None:
        with publisher(path) as node:
            node.publish({"code": "1", "name": "a", "d": "440106"})
            raise CutError

    with pytest.raises(CutError):
        fail()
    assert waiting(path) == [("1", "a")]


def test_rows_accepted_before_the_sender_could_not_start_are_accepted_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Publisher, "send_ahead", lambda _: (_ for _ in ()).throw(CutError))

    def fill() -> None:
        with publisher(path) as node:
            for n in range(CHUNK):
                node.publish({"code": f"{n}", "name": "a", "d": "440106"})

    with pytest.raises(CutError):
        fill()
    assert len(waiting(path)) == CHUNK


def test_leaving_the_block_with_the_bus_away_says_what_waits(path: Path) -> None:
    with pytest.raises(UnavailableError, match="1 rows wait"), publisher(path) as node:
        node.publish({"code": "1", "name": "a", "d": "440106"})
    assert waiting(path) == [("1", "a")]


def test_unfit_row_is_told_at_once(path: Path) -> None:
    node = publisher(path)
    with pytest.raises(RowError, match="not a whole number"):
        node.publish({"code": "1", "at": 1.5})
    with pytest.raises(RowError, match="names district"):
        node.publish({"code": "1", "d": "440103"})
    node.outbox.close()
    with pytest.raises(InputError, match="not known"):
        Publisher(DATASET, "44010", path, NOWHERE)


def test_key_has_the_encoders_bytes(path: Path) -> None:
    node = publisher(path)
    row = {"code": "1", "name": None, "at": None, "d": None}
    assert node.entry(row)[:2] == (Encoder(DATASET).key(row), Encoder(DATASET).value(row))
    node.outbox.close()
