"""The node's durable outbox: the rows that were accepted and are not yet confirmed to be on the bus.

One SQLite file per node, see `producers.statefile`. One transaction stores a chunk of rows, the number of rows of the
source read so far, and the snapshot state of their keys. After a kill or a power cut a chunk is therefore stored completely
or not at all, and publishing the same file again continues where it stopped.
"""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

from producers.encoded_row import EncodedRow
from producers.snapshot_state import SnapshotState
from producers.statefile import StateFile
from schemas.dataset import parse_topic
from schemas.errors import StateError

Mode = Literal["append", "delete", "snapshot"]
CHUNK = 2_000  # rows per transaction
ROWS_PER_INSERT = 50  # six parameters each
MAX_AHEAD_MS = 60_000  # how far the outbox's clock may run ahead of the machine's
_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
-- generation: the id of the delivery that is the latest snapshot of the topic, or 0.
CREATE TABLE topics (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, generation INTEGER NOT NULL DEFAULT 0);
-- Rows in the order of acceptance. AUTOINCREMENT: a seq is never used twice. value NULL: a tombstone. answers: the id of the
-- receipt that the row answers.
CREATE TABLE outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, topic INTEGER NOT NULL, key BLOB NOT NULL, value BLOB,
    sequence BLOB, timestamp_ms INTEGER NOT NULL, answers TEXT
);
-- One publish of one source. complete: all of its rows were read. finished: all of them are on the bus too.
CREATE TABLE deliveries (
    id INTEGER PRIMARY KEY AUTOINCREMENT, dataset TEXT NOT NULL, district TEXT NOT NULL,
    topic INTEGER NOT NULL, fingerprint TEXT, mode TEXT NOT NULL, rows_read INTEGER NOT NULL DEFAULT 0,
    accepted INTEGER NOT NULL DEFAULT 0, rejected INTEGER NOT NULL DEFAULT 0,
    deleted INTEGER NOT NULL DEFAULT 0, unchanged INTEGER NOT NULL DEFAULT 0,
    rejects_size INTEGER NOT NULL DEFAULT 0, last_seq INTEGER NOT NULL DEFAULT 0,
    complete INTEGER NOT NULL DEFAULT 0, finished INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX latest ON deliveries (topic, id);
-- See `producers.snapshot_state`. generation: that of the topic when the key was last accepted or found unchanged.
CREATE TABLE state (
    topic INTEGER NOT NULL, key BLOB NOT NULL, digest BLOB NOT NULL, sequence BLOB,
    generation INTEGER NOT NULL, PRIMARY KEY (topic, key)
) WITHOUT ROWID;
-- The ids of receipts that accepted rows answer, until the inbox has recorded them as answered.
CREATE TABLE answered (receipt TEXT PRIMARY KEY) WITHOUT ROWID;
INSERT INTO meta VALUES ('uuid', lower(hex(randomblob(16))))
"""


class Waiting(NamedTuple):
    """One row that waits to be sent; `sequence` is the header of a tombstone, None for a row with a value."""

    seq: int
    topic: str
    key: bytes
    value: bytes | None
    sequence: bytes | None
    timestamp_ms: int
    answers: str | None = None


@dataclass(frozen=True)
class Delivery:
    """The progress of one publish of one source; one that starts with `rows_read` above zero is resumed."""

    id: int
    topic: str
    mode: Mode
    rows_read: int = 0
    accepted: int = 0
    rejected: int = 0
    deleted: int = 0
    unchanged: int = 0
    rejects_size: int = 0  # bytes of the rejects file that the rows read so far have written
    complete: bool = False


class Outbox(StateFile):
    """The outbox file of one node.

    `order` turns the text of a sequence into a value that compares in the order of versions. `clock` gives the time in
    nanoseconds since 1970.
    """

    kind = ("outbox", "发件箱")
    application_id = int.from_bytes(b"SuOb")
    version = 1
    tables = _TABLES

    def __init__(
        self, path: str | Path, order: Callable[[bytes], Any] = bytes, clock: Callable[[], int] | None = None
    ) -> None:
        super().__init__(path)
        self._clock = clock or time.time_ns
        self._state = SnapshotState(self._db, order)
        self.uuid = str(self._get("uuid"))

    def _get(self, name: str) -> object:
        row = self._db.execute("SELECT value FROM meta WHERE name=?", (name,)).fetchone()
        return row[0] if row else None

    def _set(self, name: str, value: object) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?,?)", (name, value))

    def _topic(self, name: str) -> tuple[int, int]:
        """The topic's id and generation in this file; a new topic is added."""
        self._db.execute("INSERT OR IGNORE INTO topics (name) VALUES (?)", (name,))
        return self._find_topic(name)

    def _find_topic(self, name: str) -> tuple[int, int]:
        """The topic's id and generation in this file; both are 0 if it is not there."""
        row = self._db.execute("SELECT id, generation FROM topics WHERE name=?", (name,)).fetchone()
        return row or (0, 0)

    # --- accepting --------------------------------------------------------------------------------

    def begin(self, topic: str, dataset: str, district: str, fingerprint: str | None, mode: Mode) -> Delivery:
        """The delivery of a source: the topic's latest delivery if it is unfinished and of this source, else a new one.

        An unfinished delivery is not resumed once the topic has had a later one, whose rows may be newer than the part
        already read.
        """
        names = "id, rows_read, accepted, rejected, deleted, unchanged, rejects_size, complete"
        with self._write() as db:
            topic_id, _ = self._topic(topic)
            row = db.execute(
                f"SELECT fingerprint, mode, finished, {names} FROM deliveries WHERE topic=? ORDER BY id DESC LIMIT 1",
                (topic_id,),
            ).fetchone()
            if row and fingerprint is not None and row[:3] == (fingerprint, mode, 0):
                columns = dict(zip(names.split(", "), row[3:], strict=True))
                return Delivery(topic=topic, mode=mode, **{**columns, "complete": bool(columns["complete"])})
            cursor = db.execute(
                "INSERT INTO deliveries (dataset, district, topic, fingerprint, mode) VALUES (?,?,?,?,?)",
                (dataset, district, topic_id, fingerprint, mode),
            )
            if mode == "snapshot":
                db.execute("UPDATE topics SET generation=? WHERE id=?", (cursor.lastrowid, topic_id))
            return Delivery(int(cursor.lastrowid or 0), topic, mode)

    def accept(self, topic: str, rows: Sequence[EncodedRow]) -> None:
        """Store rows that belong to no delivery, all or none; the topic's snapshot state, if any, is updated with them."""
        with self._write():
            topic_id, generation = self._topic(topic)
            if generation:
                self._state.update(topic_id, rows, generation)
            self._insert(topic_id, rows)

    def advance(
        self,
        delivery: Delivery,
        rows: Sequence[EncodedRow],
        *,
        read: int,
        rejected: int = 0,
        rejects_size: int = 0,
    ) -> Delivery:
        """Store the next `read` rows of a delivery in one transaction with its counts and its position in the source.

        In a snapshot, rows that have not changed since the last one are counted and not sent. `rejects_size` is the size of
        the rejects file in bytes. StateError, and nothing is stored, if another process has advanced the same delivery.
        """
        with self._write() as db:
            topic_id, generation = self._topic(delivery.topic)
            send: Sequence[EncodedRow] = rows
            if delivery.mode == "snapshot":
                send = self._state.take_changed(topic_id, rows, generation)
            elif generation:
                self._state.update(topic_id, rows, generation)
            self._insert(topic_id, send)
            upserts = sum(e.value is not None for e in send)
            after = replace(
                delivery,
                rows_read=delivery.rows_read + read,
                accepted=delivery.accepted + upserts,
                rejected=delivery.rejected + rejected,
                deleted=delivery.deleted + len(send) - upserts,
                unchanged=delivery.unchanged + len(rows) - len(send),
                rejects_size=rejects_size or delivery.rejects_size,
            )
            self._save_progress(db, delivery, after)
        return after

    def delete_gone(self, delivery: Delivery, sequence: bytes | None = None) -> Delivery:
        """Store tombstones for the next chunk of keys that the snapshot lacked; returns `delivery` itself when none is left.

        No key is deleted that anybody, also another snapshot, has accepted since this snapshot began.
        A tombstone carries the sequence last accepted for its key, or `sequence` if none is known. With the same sequence
        as the row it deletes, its later offset makes it the newer version.
        """
        with self._write() as db:
            topic_id, _ = self._topic(delivery.topic)
            gone = self._state.take_gone(topic_id, delivery.id, CHUNK)
            if not gone:
                return delivery
            self._insert(topic_id, [EncodedRow(key, None, known or sequence) for key, known in gone])
            after = replace(delivery, deleted=delivery.deleted + len(gone))
            self._save_progress(db, delivery, after)
        return after

    def complete(self, delivery: Delivery) -> Delivery:
        """Record that all of the source was read; the delivery is finished once its last row is on the bus."""
        with self._write() as db:
            db.execute("UPDATE deliveries SET complete=1 WHERE id=?", (delivery.id,))
            self._mark_finished(db)
        return replace(delivery, complete=True)

    def _save_progress(self, db: sqlite3.Connection, before: Delivery, after: Delivery) -> None:
        cursor = db.execute(
            "UPDATE deliveries SET rows_read=?, accepted=?, rejected=?, deleted=?, unchanged=?, "
            "rejects_size=?, last_seq=(SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name='outbox')"
            " WHERE id=? AND rows_read=? AND deleted=?",
            (
                *(after.rows_read, after.accepted, after.rejected, after.deleted, after.unchanged),
                *(after.rejects_size, before.id, before.rows_read, before.deleted),
            ),
        )
        if cursor.rowcount != 1:
            raise StateError(
                "The same source is being published by another process. Wait until it ends, or stop it and publish again.",
                "另一个进程正在发布同一来源。请等待其结束，或停止它后重新发布。",
            )

    def _insert(self, topic_id: int, rows: Sequence[EncodedRow]) -> None:
        """Append rows to the outbox with their Kafka timestamps.

        Two rows of a key get different timestamps, unless the outbox's clock would run more than `MAX_AHEAD_MS` ahead.
        Where the Kafka timestamp orders versions, a correction takes the refused record's timestamp. It is then newer than
        the versions before that record and older than those accepted after it.
        """
        now = self._clock() // 1_000_000
        known = self._get("clock")
        last = 0 if known is None else int(str(known))
        clock = max(now, last + 1 if last < now + MAX_AHEAD_MS else last)  # never goes back
        seen: set[bytes] = set()
        values = []
        for key, value, sequence, answers, timestamp_ms in rows:
            if key in seen and clock < now + MAX_AHEAD_MS:
                clock += 1
                seen.clear()
            seen.add(key)
            stamp = clock if timestamp_ms is None else max(0, min(timestamp_ms, clock))
            values.append((topic_id, key, value, None if value is not None else sequence, stamp, answers))
        self._set("clock", clock)
        # Several rows per INSERT, since AUTOINCREMENT makes each statement write the last seq to sqlite_sequence.
        full = len(values) // ROWS_PER_INSERT * ROWS_PER_INSERT
        for size, part in ((ROWS_PER_INSERT, values[:full]), (1, values[full:])):
            places = ",".join(["(?,?,?,?,?,?)"] * size)
            groups = ([*chain.from_iterable(part[at : at + size])] for at in range(0, len(part), size))
            self._db.executemany(
                f"INSERT INTO outbox (topic, key, value, sequence, timestamp_ms, answers) VALUES {places}", groups
            )
        answered = [(row.answers,) for row in rows if row.answers]
        self._db.executemany("INSERT OR IGNORE INTO answered VALUES (?)", answered)

    # --- receipts ---------------------------------------------------------------------------------

    def answered(self) -> list[str]:
        """The ids of receipts that accepted rows answer and `forget_answered` has not removed; at most one chunk."""
        return [row[0] for row in self._db.execute("SELECT receipt FROM answered LIMIT ?", (CHUNK,))]

    def forget_answered(self, receipts: Iterable[str]) -> None:
        """Remove the ids of receipts, once the inbox has recorded them as answered."""
        with self._write() as db:
            db.executemany("DELETE FROM answered WHERE receipt=?", [(r,) for r in receipts])

    def note_refused(self, topic: str, refused: Iterable[tuple[bytes, bool]]) -> None:
        """Record keys whose row, or (True) whose deletion, the city refused: it does not have what was last accepted for them.

        If the topic has snapshot state, the next snapshot sends the row of such a key even if it is unchanged, and deletes
        the key if the snapshot lacks it. Recording the same keys again changes nothing.
        """
        with self._write():
            topic_id, generation = self._topic(topic)
            if generation:
                self._state.note_refused(topic_id, refused)

    # --- snapshot state ---------------------------------------------------------------------------

    def has_state(self, topic: str) -> bool:
        """Whether the topic has snapshot state: a snapshot of it has begun, even if no key is left now."""
        return self._find_topic(topic)[1] > 0

    def sequences(self, topic: str, keys: Sequence[bytes]) -> dict[bytes, bytes | None]:
        """The sequence last accepted for each of the keys; keys that the topic's snapshot state lacks are left out."""
        topic_id, _ = self._find_topic(topic)
        return {key: last.sequence for key, last in self._state.last_accepted(topic_id, keys).items()}

    # --- sending ----------------------------------------------------------------------------------

    def waiting(self) -> int:
        """The number of rows that wait, computed from the first and last seq, since rows are removed in the order of seq."""
        first, last = self._db.execute("SELECT (SELECT min(seq) FROM outbox), (SELECT max(seq) FROM outbox)").fetchone()
        return 0 if first is None else int(last) - int(first) + 1

    def next_rows(self, rows: int, size: int) -> list[Waiting]:
        """The next rows to send, in order: at most `rows` of them, and none after the one that reaches `size` bytes in total."""
        waiting: list[Waiting] = []
        cursor = self._db.execute(
            "SELECT seq, name, key, value, sequence, timestamp_ms, answers FROM outbox JOIN topics ON topics.id=topic "
            "ORDER BY seq LIMIT ?",
            (rows,),
        )
        for row in cursor:
            waiting.append(Waiting(*row))
            size -= len(row[2]) + len(row[3] or b"")
            if size <= 0:
                break
        cursor.close()
        return waiting

    @property
    def district(self) -> str:
        """The district of the outbox, taken from the first topic that rows were accepted for; empty if there is none yet."""
        row = self._db.execute("SELECT name FROM topics ORDER BY id LIMIT 1").fetchone()
        return parse_topic(row[0])[0] if row else ""

    @property
    def attempt(self) -> str | None:
        """The name of the last Kafka transaction, if it is not known yet whether it was committed; None otherwise."""
        value = self._get("attempt")
        return None if value is None else str(value)

    def begin_attempt(self) -> str:
        """Store and return a new name for the next Kafka transaction; `sent` clears it."""
        name = uuid.uuid4().hex
        with self._write():
            self._set("attempt", name)
        return name

    def sent(self, position: int) -> int:
        """Remove every row with a seq below `position`, since all of them are on the bus, and the name of the transaction.

        Returns the number of rows removed.
        """
        with self._write() as db:
            removed = db.execute("DELETE FROM outbox WHERE seq<?", (position,)).rowcount
            self._set("attempt", None)
            self._mark_finished(db)
        return removed

    def _mark_finished(self, db: sqlite3.Connection) -> None:
        db.execute(
            "UPDATE deliveries SET finished=1 WHERE finished=0 AND complete=1 "
            "AND NOT EXISTS (SELECT 1 FROM outbox WHERE seq<=last_seq)"
        )
