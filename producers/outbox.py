"""The node's durable outbox: what was accepted and is not yet known to be on the bus.

One SQLite file a node, in WAL with synchronous=FULL; every chunk of rows is one transaction, together with
how far its delivery has been read and with what a snapshot needs to know next time. So after a kill or a
power cut a chunk is there whole or not at all, and publishing the same file again goes on where it stopped.
"""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

from producers.statefile import StateFile
from schemas.dataset import parse_topic
from schemas.errors import StateError

Mode = Literal["append", "delete", "snapshot"]
CHUNK = 2_000  # rows a transaction
VALUES = 900  # a statement: see `statefile.MOST_VALUES`
STATEMENT = 50  # rows a statement, of several values each
AHEAD = 60_000  # milliseconds that an outbox's clock may be ahead of the machine's
UNKNOWN = b""  # no row has this digest, so the next snapshot sends the key's row, whatever it is
_VERSION_1 = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE topics (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
-- Rows in the order of acceptance. AUTOINCREMENT: a seq is never used twice. No value: a tombstone. answers: the receipt that
-- the row answers.
CREATE TABLE outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, topic INTEGER NOT NULL, key BLOB NOT NULL, value BLOB,
    sequence BLOB, timestamp_ms INTEGER NOT NULL, answers TEXT
);
-- One publish of one source. complete: all of it was read. finished: all of it is on the bus too.
CREATE TABLE deliveries (
    id INTEGER PRIMARY KEY AUTOINCREMENT, dataset TEXT NOT NULL, district TEXT NOT NULL,
    topic INTEGER NOT NULL, fingerprint TEXT, mode TEXT NOT NULL, rows_read INTEGER NOT NULL DEFAULT 0,
    accepted INTEGER NOT NULL DEFAULT 0, rejected INTEGER NOT NULL DEFAULT 0,
    deleted INTEGER NOT NULL DEFAULT 0, unchanged INTEGER NOT NULL DEFAULT 0,
    rejects_size INTEGER NOT NULL DEFAULT 0, last_seq INTEGER NOT NULL DEFAULT 0,
    complete INTEGER NOT NULL DEFAULT 0, finished INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX latest ON deliveries (topic, id);
-- What was last accepted for each key, kept from the first snapshot of a topic on. generation: the delivery
-- that saw the key last.
CREATE TABLE state (
    topic INTEGER NOT NULL, key BLOB NOT NULL, digest BLOB NOT NULL, sequence BLOB,
    generation INTEGER NOT NULL, PRIMARY KEY (topic, key)
) WITHOUT ROWID;
-- The receipts that accepted rows answer, until the inbox has noted it.
CREATE TABLE answered (receipt TEXT PRIMARY KEY) WITHOUT ROWID;
INSERT INTO meta VALUES ('uuid', lower(hex(randomblob(16))))
"""


class Entry(NamedTuple):
    """One row to accept: no value is a tombstone. `sequence` is the text of the row's sequence column.

    `answers`: the id of the receipt that the row answers. `timestamp_ms`: the refused record's, where the Kafka timestamp
    orders versions; None for this moment. A time ahead of the outbox's clock becomes the clock's.
    """

    key: bytes
    value: bytes | None
    sequence: bytes | None = None
    answers: str | None = None
    timestamp_ms: int | None = None


class Waiting(NamedTuple):
    """One row that waits; `sequence` is the tombstone's header."""

    seq: int
    topic: str
    key: bytes
    value: bytes | None
    sequence: bytes | None
    timestamp_ms: int
    answers: str | None = None


@dataclass(frozen=True)
class Delivery:
    """How far one publish of one source has come; `rows_read` above zero at the start: it is resumed."""

    id: int
    topic: str
    mode: Mode
    rows_read: int = 0
    accepted: int = 0
    rejected: int = 0
    deleted: int = 0
    unchanged: int = 0
    rejects_size: int = 0  # bytes of the rejects file that belong to rows_read
    complete: bool = False


class Outbox(StateFile):
    """The outbox file of one node. `order` makes the sequences of the dataset at hand comparable.

    `clock` gives the time in nanoseconds since 1970.
    """

    kind = ("outbox", "发件箱")
    application_id = int.from_bytes(b"SuOb")
    steps = (_VERSION_1,)
    unmarked = (
        "first send its rows with that Suibus (`suibus flush`)",
        "请先用写入它的 Suibus 发送其中的行（`suibus flush`）",
    )

    def __init__(
        self, path: str | Path, order: Callable[[bytes], Any] = bytes, clock: Callable[[], int] = time.time_ns
    ) -> None:
        super().__init__(path)
        self._order, self._clock = order, clock
        self.uuid = str(self._get("uuid"))

    def _get(self, name: str) -> object:
        row = self._db.execute("SELECT value FROM meta WHERE name=?", (name,)).fetchone()
        return row[0] if row else None

    def _set(self, name: str, value: object) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?,?)", (name, value))

    def _topic(self, name: str) -> int:
        self._db.execute("INSERT OR IGNORE INTO topics (name) VALUES (?)", (name,))
        return int(self._db.execute("SELECT id FROM topics WHERE name=?", (name,)).fetchone()[0])

    # --- accepting --------------------------------------------------------------------------------

    def begin(self, topic: str, dataset: str, district: str, fingerprint: str | None, mode: Mode) -> Delivery:
        """The delivery of a source: the topic's latest if it is this source's and unfinished, else a new one.

        An older unfinished delivery is not taken up again once another has followed it: its first half may be
        outdated by now.
        """
        names = "id, rows_read, accepted, rejected, deleted, unchanged, rejects_size, complete"
        with self._write() as db:
            topic_id = self._topic(topic)
            row = db.execute(
                f"SELECT fingerprint, mode, finished, {names} FROM deliveries WHERE topic=? ORDER BY id DESC LIMIT 1",
                (topic_id,),
            ).fetchone()
            if row and fingerprint is not None and row[:3] == (fingerprint, mode, 0):
                found = dict(zip(names.split(", "), row[3:], strict=True))
                return Delivery(topic=topic, mode=mode, **{**found, "complete": bool(found["complete"])})
            cursor = db.execute(
                "INSERT INTO deliveries (dataset, district, topic, fingerprint, mode) VALUES (?,?,?,?,?)",
                (dataset, district, topic_id, fingerprint, mode),
            )
            return Delivery(int(cursor.lastrowid or 0), topic, mode)

    def accept(self, topic: str, entries: Sequence[Entry]) -> None:
        """Keep rows of no delivery, whole or not at all; where the topic has snapshot state it follows."""
        with self._write():
            topic_id = self._topic(topic)
            known = self._known(topic_id, entries) if self._has_state(topic_id) else None
            self._insert(topic_id, entries)
            if known is not None:
                self._follow(topic_id, entries, known)

    def advance(
        self,
        delivery: Delivery,
        entries: Sequence[Entry],
        *,
        read: int,
        rejected: int = 0,
        rejects_size: int = 0,
    ) -> Delivery:
        """Accept the next `read` rows of a delivery: its entries, its counts and how far it was read, in one transaction.

        In a snapshot the rows that are as they were last time are only counted. StateError if another process
        has advanced the same delivery meanwhile; then nothing was accepted.
        """
        with self._write() as db:
            topic_id = self._topic(delivery.topic)
            send: Sequence[Entry] = entries
            if delivery.mode == "snapshot":
                send = self._changed(topic_id, entries, delivery.id)
            elif self._has_state(topic_id):
                self._follow(topic_id, entries, self._known(topic_id, entries))
            self._insert(topic_id, send)
            upserts = sum(e.value is not None for e in send)
            after = replace(
                delivery,
                rows_read=delivery.rows_read + read,
                accepted=delivery.accepted + upserts,
                rejected=delivery.rejected + rejected,
                deleted=delivery.deleted + len(send) - upserts,
                unchanged=delivery.unchanged + len(entries) - len(send),
                rejects_size=rejects_size or delivery.rejects_size,
            )
            self._save(db, delivery, after)
        return after

    def delete_gone(self, delivery: Delivery, sequence: bytes | None = None) -> Delivery:
        """Tombstones for the next chunk of keys the snapshot did not hold; the same delivery if none is left.

        Each carries the sequence last accepted for its key, its later offset decides; or `sequence` if none is known.
        """
        with self._write() as db:
            topic_id = self._topic(delivery.topic)
            gone = [
                Entry(key, None, known or sequence)
                for key, known in db.execute(
                    "SELECT key, sequence FROM state WHERE topic=? AND generation<>? LIMIT ?",
                    (topic_id, delivery.id, CHUNK),
                )
            ]
            if not gone:
                return delivery
            self._insert(topic_id, gone)
            db.executemany("DELETE FROM state WHERE topic=? AND key=?", [(topic_id, e.key) for e in gone])
            after = replace(delivery, deleted=delivery.deleted + len(gone))
            self._save(db, delivery, after)
        return after

    def complete(self, delivery: Delivery) -> Delivery:
        """All of the source was read; it is finished once its last row is on the bus."""
        with self._write() as db:
            db.execute("UPDATE deliveries SET complete=1 WHERE id=?", (delivery.id,))
            self._finish(db)
        return replace(delivery, complete=True)

    def _save(self, db: sqlite3.Connection, before: Delivery, after: Delivery) -> None:
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
                "The same source is being published by another process. Let it end, or stop it and publish again.",
                "另一个进程正在发布同一来源。请等待其结束，或停止它后重新发布。",
            )

    def _insert(self, topic_id: int, entries: Sequence[Entry]) -> None:
        """Rows at the end of the outbox, two of one key never in the same millisecond.

        Where the Kafka timestamp orders, a correction is sent under the refused record's: so it comes after what was
        there before that record, and before all that was accepted since.
        """
        now = self._clock() // 1_000_000
        known = self._get("clock")
        last = 0 if known is None else int(str(known))
        clock = max(now, last + 1 if last < now + AHEAD else last)  # never runs back
        seen: set[bytes] = set()
        rows = []
        for key, value, sequence, answers, timestamp_ms in entries:
            if key in seen and clock < now + AHEAD:
                clock += 1
                seen.clear()
            seen.add(key)
            stamp = clock if timestamp_ms is None else max(0, min(timestamp_ms, clock))
            rows.append((topic_id, key, value, None if value is not None else sequence, stamp, answers))
        self._set("clock", clock)
        # Many rows a statement: each statement writes down the last seq used.
        whole = len(rows) // STATEMENT * STATEMENT
        for size, some in ((STATEMENT, rows[:whole]), (1, rows[whole:])):
            values = ",".join(["(?,?,?,?,?,?)"] * size)
            groups = ([*chain.from_iterable(some[at : at + size])] for at in range(0, len(some), size))
            self._db.executemany(
                f"INSERT INTO outbox (topic, key, value, sequence, timestamp_ms, answers) VALUES {values}", groups
            )
        answered = [(entry.answers,) for entry in entries if entry.answers]
        self._db.executemany("INSERT OR IGNORE INTO answered VALUES (?)", answered)

    # --- receipts ---------------------------------------------------------------------------------

    def answered(self) -> list[str]:
        """Some of the receipts that accepted rows answer, until `forget_answered` has them."""
        return [row[0] for row in self._db.execute("SELECT receipt FROM answered LIMIT ?", (CHUNK,))]

    def forget_answered(self, receipts: Iterable[str]) -> None:
        """The inbox has noted that these are answered."""
        with self._write() as db:
            db.executemany("DELETE FROM answered WHERE receipt=?", [(r,) for r in receipts])

    def note_refused(self, topic: str, refused: Iterable[tuple[bytes, bool]]) -> None:
        """Note keys of which the city refused a row or (True) a deletion: it does not hold what was last accepted.

        Where the topic has snapshot state, the next snapshot sends such a key's row even if it did not change, and
        deletes the key if it is gone. Doing it again changes nothing more.
        """
        with self._write() as db:
            topic_id = self._topic(topic)
            if not self._has_state(topic_id):
                return
            for key, deletion in refused:
                if deletion:  # its key has left the state
                    db.execute("INSERT OR IGNORE INTO state VALUES (?,?,?,NULL,0)", (topic_id, key, UNKNOWN))
                db.execute("UPDATE state SET digest=? WHERE topic=? AND key=?", (UNKNOWN, topic_id, key))

    # --- snapshot state ---------------------------------------------------------------------------

    def _has_state(self, topic_id: int) -> bool:
        return self._db.execute("SELECT 1 FROM state WHERE topic=? LIMIT 1", (topic_id,)).fetchone() is not None

    def has_state(self, topic: str) -> bool:
        """True once a snapshot of the topic was accepted and as long as it has keys."""
        found = self._db.execute("SELECT id FROM topics WHERE name=?", (topic,)).fetchone()
        return found is not None and self._has_state(int(found[0]))

    def sequences(self, topic: str, keys: Sequence[bytes]) -> dict[bytes, bytes | None]:
        """The sequence last accepted for each of the keys that the topic's snapshot state holds."""
        found = self._db.execute("SELECT id FROM topics WHERE name=?", (topic,)).fetchone()
        if not found:
            return {}
        known = self._known(int(found[0]), [Entry(k, None) for k in keys])
        return {key: sequence for key, (_, sequence) in known.items()}

    def _known(self, topic_id: int, entries: Sequence[Entry]) -> dict[bytes, tuple[bytes, bytes | None]]:
        known: dict[bytes, tuple[bytes, bytes | None]] = {}
        for first in range(0, len(entries), VALUES):
            keys = [entry.key for entry in entries[first : first + VALUES]]
            rows = self._db.execute(
                f"SELECT key, digest, sequence FROM state WHERE topic=? AND key IN ({','.join('?' * len(keys))})",
                (topic_id, *keys),
            )
            known |= {key: (digest, sequence) for key, digest, sequence in rows}
        return known

    def _changed(self, topic_id: int, entries: Sequence[Entry], generation: int) -> list[Entry]:
        """The entries that differ from what was last accepted; the state notes that this generation has all of them."""
        known = self._known(topic_id, entries)
        changed: list[Entry] = []
        for entry in entries:
            digest = _digest(entry)
            if (old := known.get(entry.key)) is None or old[0] != digest:
                changed.append(entry)
                known[entry.key] = (digest, entry.sequence)
        self._db.executemany(
            "INSERT OR REPLACE INTO state VALUES (?,?,?,?,?)",
            [(topic_id, key, digest, sequence, generation) for key, (digest, sequence) in known.items()],
        )
        return changed

    def _follow(self, topic_id: int, entries: Sequence[Entry], known: dict[bytes, tuple[bytes, bytes | None]]) -> None:
        """State after an ordinary publish or delete: what the city will hold, latest sequence first."""
        gone: set[bytes] = set()
        for entry in entries:
            old = known.get(entry.key)
            if old is not None and self._earlier(entry.sequence, old[1]):
                continue
            if entry.answers:  # whether it or a newer version stands, the city decides
                known[entry.key] = (UNKNOWN, entry.sequence)
                gone.discard(entry.key)
            elif entry.value is None:
                known.pop(entry.key, None)
                gone.add(entry.key)
            else:
                known[entry.key] = (_digest(entry), entry.sequence)
                gone.discard(entry.key)
        self._db.executemany("DELETE FROM state WHERE topic=? AND key=?", [(topic_id, key) for key in gone])
        self._db.executemany(
            "INSERT INTO state VALUES (?,?,?,?,(SELECT coalesce(max(id), 0) FROM deliveries WHERE topic=?)) "
            "ON CONFLICT DO UPDATE SET digest=excluded.digest, sequence=excluded.sequence",
            [(topic_id, key, digest, seq, topic_id) for key, (digest, seq) in known.items()],
        )

    def _earlier(self, a: bytes | None, b: bytes | None) -> bool:
        return a is not None and b is not None and bool(self._order(a) < self._order(b))

    # --- sending ----------------------------------------------------------------------------------

    def waiting(self) -> int:
        """How many rows wait: they leave in order, so it is the distance between the first and the last."""
        first, last = self._db.execute("SELECT (SELECT min(seq) FROM outbox), (SELECT max(seq) FROM outbox)").fetchone()
        return 0 if first is None else int(last) - int(first) + 1

    def next_rows(self, rows: int, size: int) -> list[Waiting]:
        """The next rows to send: at most `rows`, and no more of them once they have `size` bytes."""
        found: list[Waiting] = []
        cursor = self._db.execute(
            "SELECT seq, name, key, value, sequence, timestamp_ms, answers FROM outbox JOIN topics ON topics.id=topic "
            "ORDER BY seq LIMIT ?",
            (rows,),
        )
        for row in cursor:
            found.append(Waiting(*row))
            size -= len(row[2]) + len(row[3] or b"")
            if size <= 0:
                break
        cursor.close()
        return found

    @property
    def district(self) -> str:
        """The district whose outbox it is: that of the first topic it took rows for."""
        found = self._db.execute("SELECT name FROM topics ORDER BY id LIMIT 1").fetchone()
        return parse_topic(found[0])[0] if found else ""

    @property
    def attempt(self) -> str | None:
        """The name of the transaction whose end is not known yet."""
        value = self._get("attempt")
        return None if value is None else str(value)

    def begin_attempt(self) -> str:
        """A new name for the next transaction, kept until `sent`."""
        name = uuid.uuid4().hex
        with self._write():
            self._set("attempt", name)
        return name

    def sent(self, position: int) -> None:
        """Every row below `position` is on the bus: forget them."""
        with self._write() as db:
            db.execute("DELETE FROM outbox WHERE seq<?", (position,))
            self._set("attempt", None)
            self._finish(db)

    def _finish(self, db: sqlite3.Connection) -> None:
        db.execute(
            "UPDATE deliveries SET finished=1 WHERE finished=0 AND complete=1 "
            "AND NOT EXISTS (SELECT 1 FROM outbox WHERE seq<=last_seq)"
        )


def _digest(entry: Entry) -> bytes:
    return blake2b(entry.value or b"", digest_size=16).digest()
