"""Fetch the district's receipts: read the return topic of the city into the inbox."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from producers.inbox import Inbox
from producers.send.access_refused import why_refused
from schemas.dataset import UP_PREFIX, receipts_topic
from schemas.districts import check_district
from schemas.errors import InputError, UnavailableError, first_line
from schemas.ports.kafka_access import KafkaAccess
from schemas.wire.receipt import Receipt

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FetchInfo:
    """The result of one fetch. `notes` are messages for the operator, each in English and Chinese."""

    new: int  # receipts that the inbox did not have yet
    unreadable: int  # records of the return topic that are not receipts of this district
    notes: tuple[tuple[str, str], ...] = ()


def fetch_receipts(inbox: Inbox, kafka: KafkaAccess | str, district: str, timeout: float = 30.0) -> FetchInfo:
    """Read the district's return topic to its end into the inbox; killed and run again, each receipt is stored once.

    If the topic was recreated, or has lost records that were not read yet, it is read from its start, and `notes` says so.
    A record that is not a receipt is counted, logged and skipped. UnavailableError if the bus cannot be reached or no
    record arrives for `timeout` seconds; what was fetched is kept. The only rights it needs are to read and to describe
    topics that begin with `gz.down.<district>.`.
    """
    access, topic = KafkaAccess.to(kafka), receipts_topic(check_district(district))
    try:
        return _fetch(inbox, access, topic, f"{UP_PREFIX}{district}.", timeout)
    except (KafkaError, OSError) as error:
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


def _fetch(inbox: Inbox, access: KafkaAccess, topic: str, prefix: str, timeout: float) -> FetchInfo:
    connect_ms = int(min(timeout, 10.0) * 1000)
    topic_id, numbers = _describe(access, topic, connect_ms)
    partitions = [TopicPartition(topic, number) for number in numbers]
    consumer = KafkaConsumer(**access.kafka_python_reader(), bootstrap_timeout_ms=connect_ms)
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


def _describe(access: KafkaAccess, topic: str, connect_ms: int) -> tuple[str, list[int]]:
    """Kafka's id of the topic, and the numbers of its partitions."""
    admin = KafkaAdminClient(**access.kafka_python(), bootstrap_timeout_ms=connect_ms)
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
