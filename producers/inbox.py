"""The node's inbox: the receipts that the city sent, the state of each, and the position in the return topic.

Receipts and the next offset to read are stored in one transaction. A reader that is killed therefore continues where it
stopped, and each receipt is stored once, even if the city has sent it twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from producers.outbox import Outbox
from producers.statefile import StateFile
from schemas.wire.receipt import Receipt

State = Literal["new", "acknowledged", "answered"]
_TABLES = """
CREATE TABLE receipts (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, "offset" INTEGER NOT NULL,
    dataset_id TEXT NOT NULL, timestamp_ms INTEGER NOT NULL, receipt BLOB NOT NULL,
    state TEXT NOT NULL DEFAULT 'new', since TEXT NOT NULL, PRIMARY KEY (topic, partition, "offset")
);
CREATE INDEX listed ON receipts (state, timestamp_ms);
-- The next offset to read from the return topic. topic_id: Kafka's id of the topic, which changes if the topic is recreated.
CREATE TABLE position (partition INTEGER PRIMARY KEY, next INTEGER NOT NULL, topic_id TEXT NOT NULL)
"""


class StoredReceipt(NamedTuple):
    """A receipt with its state, and the time of the last change of state (ISO 8601, UTC)."""

    receipt: Receipt
    state: State
    since: str


class Inbox(StateFile):
    """The inbox file of one node; its outbox is the file `outbox.sqlite` beside it."""

    kind = ("inbox", "收件箱")
    application_id = int.from_bytes(b"SuIb")
    version = 1
    tables = _TABLES

    @property
    def outbox_path(self) -> Path:
        """The outbox of the same node."""
        return self.path.with_name("outbox.sqlite")

    def receipts(self, state: State | None = None, dataset_id: str | None = None) -> Iterator[StoredReceipt]:
        """The receipts in the order in which their records were published, filtered by state and by dataset id if given."""
        rows = self._db.execute(
            "SELECT receipt, state, since FROM receipts WHERE coalesce(?1, state) = state "
            'AND coalesce(?2, dataset_id) = dataset_id ORDER BY timestamp_ms, topic, partition, "offset"',
            (state, dataset_id),
        )
        for receipt, current, since in rows:
            yield StoredReceipt(Receipt.from_json(receipt), current, since)

    def find(self, topic: str, partition: int, offset: int) -> StoredReceipt | None:
        """The receipt of one refused record; None if it was not fetched."""
        row = self._db.execute(
            'SELECT receipt, state, since FROM receipts WHERE topic=? AND partition=? AND "offset"=?',
            (topic, partition, offset),
        ).fetchone()
        return row and StoredReceipt(Receipt.from_json(row[0]), row[1], row[2])

    def set_state(self, refused: Iterable[tuple[str, int, int]], state: State) -> int:
        """Set the state of receipts, named by the topic, partition and offset of their records; returns how many changed.

        An answered receipt keeps its state.
        """
        with self._write() as db:
            before = db.total_changes
            db.executemany(
                'UPDATE receipts SET state=?, since=? WHERE topic=? AND partition=? AND "offset"=? '
                "AND state NOT IN (?, 'answered')",
                [(state, _now(), *record, state) for record in refused],
            )
            return db.total_changes - before

    def note_answers(self, outbox: Outbox) -> None:
        """Set the receipts that accepted rows answer to answered.

        The outbox keeps their ids until then, so after a kill the next call completes it.
        """
        while ids := outbox.answered():
            parts = [receipt_id.rsplit(":", 2) for receipt_id in ids]
            self.set_state([(topic, int(partition), int(offset)) for topic, partition, offset in parts], "answered")
            outbox.forget_answered(ids)

    def position(self) -> dict[int, tuple[int, str]]:
        """By partition of the return topic: the next offset to read, and Kafka's id of the topic at that time."""
        rows = self._db.execute("SELECT partition, next, topic_id FROM position")
        return {partition: (offset, topic_id) for partition, offset, topic_id in rows}

    def store(self, receipts: Sequence[Receipt], position: Mapping[int, int], topic_id: str) -> int:
        """Store receipts together with the next offsets to read; returns how many receipts are new.

        Before that the refused keys are recorded in the outbox. After a kill between the two, the receipts are read again
        and the same keys are recorded again, which changes nothing.
        """
        new = {r.id: r for r in receipts if self.find(r.topic, r.partition, r.offset) is None}
        self._note_in_outbox(new.values())
        with self._write() as db:
            before = db.total_changes
            db.executemany(
                "INSERT OR IGNORE INTO receipts VALUES (?,?,?,?,?,?,'new',?)",
                [
                    (r.topic, r.partition, r.offset, r.dataset_id, r.timestamp_ms, r.to_json(), _now())
                    for r in new.values()
                ],
            )
            count = db.total_changes - before
            db.executemany(
                "INSERT OR REPLACE INTO position VALUES (?,?,?)",
                [(p, offset, topic_id) for p, offset in position.items()],
            )
        return count

    def _note_in_outbox(self, receipts: Iterable[Receipt]) -> None:
        refused: dict[str, list[tuple[bytes, bool]]] = defaultdict(list)
        for r in receipts:
            if r.key is not None and "_key" not in r.shortened:
                refused[r.topic].append((r.key.encode(), r.deleted))
        if refused and self.outbox_path.exists():
            with Outbox(self.outbox_path) as outbox:
                for topic, keys in refused.items():
                    outbox.note_refused(topic, keys)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
