"""The snapshot state of an outbox: what was last accepted for each key, kept from the moment a topic's first snapshot begins.

With it a snapshot sends only the rows that have changed, and deletes the keys that it lacks. Each key has a generation: the
id of the latest snapshot of the topic that had begun when a row of the key was last accepted or was found unchanged. A
snapshot deletes only keys of a generation below its own id, and so none that anybody has accepted since it began.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from producers.encoded_row import EncodedRow

KEYS_PER_QUERY = 900  # below `statefile.MAX_PARAMETERS`
# Equals the digest of no row, so the next snapshot sends the row of the key even if it is unchanged.
UNKNOWN_DIGEST = b""


class Accepted(NamedTuple):
    """What was last accepted for a key: the digest of the row, and its sequence."""

    digest: bytes
    sequence: bytes | None


class SnapshotState:
    """The table `state` of an outbox file. What changes it runs inside the transaction that the outbox has begun.

    `order` turns the text of a sequence into a value that compares in the order of versions.
    """

    def __init__(self, db: sqlite3.Connection, order: Callable[[bytes], Any]) -> None:
        self._db, self._order = db, order

    def last_accepted(self, topic_id: int, keys: Sequence[bytes]) -> dict[bytes, Accepted]:
        """What was last accepted, by key, for those of the keys that the state has."""
        known: dict[bytes, Accepted] = {}
        for first in range(0, len(keys), KEYS_PER_QUERY):
            part = keys[first : first + KEYS_PER_QUERY]
            rows = self._db.execute(
                f"SELECT key, digest, sequence FROM state WHERE topic=? AND key IN ({','.join('?' * len(part))})",
                (topic_id, *part),
            )
            known |= {key: Accepted(digest, sequence) for key, digest, sequence in rows}
        return known

    def take_changed(self, topic_id: int, rows: Sequence[EncodedRow], generation: int) -> list[EncodedRow]:
        """The rows of a snapshot that differ from what was last accepted; all of their keys are stored.

        A key keeps the highest sequence accepted for it, since a deletion must not be older than the row that the city has.
        """
        known = self.last_accepted(topic_id, [row.key for row in rows])
        changed: list[EncodedRow] = []
        for row in rows:
            digest, old = _digest(row), known.get(row.key)
            if old is None or old.digest != digest:
                changed.append(row)
                older = old is not None and self._earlier(row.sequence, old.sequence)
                known[row.key] = Accepted(digest, old.sequence if old and older else row.sequence)
        self._store(topic_id, known, generation)
        return changed

    def take_gone(self, topic_id: int, snapshot: int, most: int) -> list[tuple[bytes, bytes | None]]:
        """Remove and return up to `most` keys of generations before the snapshot, each with the sequence last accepted for it."""
        gone = self._db.execute(
            "SELECT key, sequence FROM state WHERE topic=? AND generation<? LIMIT ?", (topic_id, snapshot, most)
        ).fetchall()
        self._db.executemany("DELETE FROM state WHERE topic=? AND key=?", [(topic_id, key) for key, _ in gone])
        return gone

    def update(self, topic_id: int, rows: Sequence[EncodedRow], generation: int) -> None:
        """Update the state after a publish or delete that is no snapshot: per key, the highest sequence wins."""
        known = self.last_accepted(topic_id, [row.key for row in rows])
        gone: set[bytes] = set()
        for row in rows:
            old = known.get(row.key)
            if old is not None and self._earlier(row.sequence, old.sequence):
                continue
            if row.answers:  # only the city knows whether a newer version outranks this correction
                known[row.key] = Accepted(UNKNOWN_DIGEST, row.sequence)
                gone.discard(row.key)
            elif row.value is None:
                known.pop(row.key, None)
                gone.add(row.key)
            else:
                known[row.key] = Accepted(_digest(row), row.sequence)
                gone.discard(row.key)
        self._db.executemany("DELETE FROM state WHERE topic=? AND key=?", [(topic_id, key) for key in gone])
        self._store(topic_id, known, generation)

    def _store(self, topic_id: int, known: Mapping[bytes, Accepted], generation: int) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO state VALUES (?,?,?,?,?)",
            [(topic_id, key, digest, sequence, generation) for key, (digest, sequence) in known.items()],
        )

    def note_refused(self, topic_id: int, refused: Iterable[tuple[bytes, bool]]) -> None:
        """Record keys whose row, or (True) whose deletion, the city refused: what it has for them is unknown."""
        for key, deletion in refused:
            if deletion:  # accepting it removed the key from the state
                self._db.execute("INSERT OR IGNORE INTO state VALUES (?,?,?,NULL,0)", (topic_id, key, UNKNOWN_DIGEST))
            self._db.execute("UPDATE state SET digest=? WHERE topic=? AND key=?", (UNKNOWN_DIGEST, topic_id, key))

    def _earlier(self, a: bytes | None, b: bytes | None) -> bool:
        return a is not None and b is not None and bool(self._order(a) < self._order(b))


def _digest(row: EncodedRow) -> bytes:
    return blake2b(row.value or b"", digest_size=16).digest()
