"""The node's inbox: the receipts that the city sent, the state of each, and the position in the return topic.

Receipts and the next offset to read are stored in one transaction. A reader that is killed therefore continues where it
stopped, and each receipt is stored once, even if the city has sent it twice.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from producers.outbox import Outbox
from producers.send.access_refused import why_refused
from producers.statefile import StateFile
from schemas.dataset import UP_PREFIX, receipts_topic
from schemas.districts import check_district
from schemas.errors import InputError, UnavailableError, first_line
from schemas.ports.kafka_access import KafkaAccess
from schemas.wire.receipt import Receipt

log = logging.getLogger(__name__)
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


@dataclass(frozen=True)
class FetchInfo:
    """The result of one fetch. `notes` are messages for the operator, each in English and Chinese."""

    new: int  # receipts that the inbox did not have yet
    unreadable: int  # records of the return topic that are not receipts of this district
    notes: tuple[tuple[str, str], ...] = ()


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

    # --- fetching ---------------------------------------------------------------------------------

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


def fetch_receipts(inbox: Inbox, kafka: KafkaAccess | str, district: str, timeout: float = 30.0) -> FetchInfo:
    """Read the district's return topic to its end into the inbox; killed and run again, each receipt is stored once.

    If the topic was recreated, or has lost records that were not read yet, it is read from its start, and `notes` says so.
    A record that is not a receipt is counted, logged and skipped. UnavailableError if the bus cannot be reached or no
    record arrives for `timeout` seconds; what was fetched is kept. The only rights it needs are to read and to describe
    topics that begin with `gz.down.<district>.`.
    """
    access, topic = KafkaAccess.to(kafka), receipts_topic(check_district(district))
    settings = {**access.kafka_python(), "bootstrap_timeout_ms": int(min(timeout, 10.0) * 1000)}
    try:
        return _fetch(inbox, settings, topic, f"{UP_PREFIX}{district}.", timeout)
    except (KafkaError, OSError, TimeoutError) as error:
        if refused := why_refused(access):
            raise UnavailableError(
                f"The bus: {refused[0]}. What was fetched before is kept.",
                f"总线：{refused[1]}。此前已获取的均已保留。",
            ) from None
        why = type(error).__name__ if not str(error) else first_line(error)
        raise UnavailableError(
            f"Receipts could not be fetched from {topic} ({why}). What was fetched before is kept. Check the network, that "
            "the bus is up and that it lets this node in, then try again.",
            f"无法从 {topic} 获取回执（{why}）。此前已获取的均已保留。请检查网络、总线是否运行、是否允许本节点访问，然后重试。",
        ) from None


def _fetch(inbox: Inbox, settings: Mapping[str, Any], topic: str, prefix: str, timeout: float) -> FetchInfo:
    topic_id, numbers = _describe(settings, topic)
    partitions = [TopicPartition(topic, number) for number in numbers]
    consumer = KafkaConsumer(
        **settings, group_id=None, isolation_level="read_committed", auto_offset_reset="earliest",
        enable_auto_commit=False, allow_auto_create_topics=False, metrics_enabled=False,
    )  # fmt: skip
    try:
        consumer.assign(partitions)
        first, ends = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
        stored, from_start = inbox.position(), False
        for partition in partitions:
            offset, stored_id = stored.get(partition.partition, (first[partition], topic_id))
            if stored_id != topic_id or not first[partition] <= offset <= ends[partition]:
                from_start, offset = True, first[partition]
            consumer.seek(partition, offset)
        new = unreadable = 0
        deadline = time.monotonic() + timeout
        while any(consumer.position(p) < ends[p] for p in partitions):
            records = [r for batch in consumer.poll(timeout_ms=500).values() for r in batch]
            receipts = [r for r in map(_receipt, records) if r is not None and r.topic.startswith(prefix)]
            if records:
                new += inbox.store(receipts, {p.partition: consumer.position(p) for p in partitions}, topic_id)
                unreadable += len(records) - len(receipts)
                deadline = time.monotonic() + timeout
            elif time.monotonic() >= deadline:
                raise TimeoutError(f"no record arrived for {timeout:g} s")
        inbox.store([], {p.partition: consumer.position(p) for p in partitions}, topic_id)
    finally:
        with suppress(KafkaError):
            consumer.close()
    return FetchInfo(new, unreadable, _notes(topic, from_start, unreadable))


def _describe(settings: Mapping[str, Any], topic: str) -> tuple[str, list[int]]:
    """Kafka's id of the topic, and the numbers of its partitions."""
    admin = KafkaAdminClient(**settings)
    try:
        (description,) = admin.describe_topics([topic])
    finally:
        admin.close()
    if description["error_code"]:
        raise UnavailableError(
            f"This node sees no topic {topic} on the bus: its return topic has not been created yet, or this node has no right to "
            "read it. Ask the city.",
            f"本节点在总线上看不到主题 {topic}：回执主题尚未建立，或本节点无权读取。请联系市级。",
        )
    return str(description["topic_id"]), sorted(p["partition_index"] for p in description["partitions"])


def _receipt(record: Any) -> Receipt | None:
    try:
        return Receipt.from_json(record.value)
    except InputError as error:
        log.warning("%s:%d:%d is skipped: %s", record.topic, record.partition, record.offset, error.en)
        return None


def _notes(topic: str, from_start: bool, unreadable: int) -> tuple[tuple[str, str], ...]:
    notes = []
    if from_start:
        notes.append(
            (
                f"{topic} was recreated, or has lost receipts that were not read yet; it was read from its start. In the city, "
                "`suibus quarantine` shows every refused record.",
                f"{topic} 曾被重建，或丢失了尚未读取的回执，已从头读取。市级用 `suibus quarantine` 可查看全部被拒的记录。",
            )
        )
    if unreadable:
        notes.append(
            (
                f"{unreadable} records on {topic} are not receipts of this district and were skipped: upgrade Suibus on this "
                "node, or report it to the city.",
                f"{topic} 上有 {unreadable} 条记录不是本区的回执，已跳过：请升级本节点的 Suibus，或告知市级。",
            )
        )
    return tuple(notes)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
