"""`Kafka`, whose topics the bus uses: make missing ones, and read their offsets, times and retention."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, OffsetSpec
from kafka.errors import (
    AuthorizationError,
    KafkaError,
    NoError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)

from infra.kafka.properties import MAX_MESSAGE_BYTES
from pipelines.ingest.topics import TopicState
from producers.send.access_refused import why_refused
from schemas.dataset import UP_PREFIX
from schemas.errors import InputError, UnavailableError, first_line
from schemas.ports.kafka_access import KafkaAccess

log = logging.getLogger(__name__)
ANSWER_MS = 8_000
_AT_ONCE = 100  # topics made by one request: 220 topics take 0.9 s this way, and 8 s with a request for each
FETCH_SECONDS = 3.0  # the longest time to wait for the oldest waiting records

_CONFIGS = {
    "cleanup.policy": "delete",  # a later record does not erase an earlier one: bronze keeps every change
    # A year: Kafka counts from when the node accepted a row, and a node may be away for months.
    "retention.ms": str(366 * 24 * 3600 * 1000),
}
# Upward topics keep Kafka's default limit: the largest row fits, and a batch cannot unpack to much more.
_UPWARDS = str(1024 * 1024 + 12)


def _largest(topic: str) -> str:
    return _UPWARDS if topic.startswith(UP_PREFIX) else str(MAX_MESSAGE_BYTES)


class Kafka:
    """A Kafka, reached by its access. Every call raises UnavailableError if no broker answers."""

    def __init__(self, access: KafkaAccess | str) -> None:
        self.access = KafkaAccess.to(access)

    def ensure(self, names: Iterable[str], partitions: int = 1, replication: int = 1) -> list[str]:
        """Make the missing topics and return those made, ready to be written.

        Repeated, or called by two processes at once, it makes each topic once; existing topics are not changed.
        InputError if the broker refuses a topic.
        """
        with self.admin() as admin:
            missing = sorted(set(names) - set(admin.list_topics()))
            made = []
            in_sync = {"min.insync.replicas": str(replication - 1)} if replication > 2 else {}  # one broker may be away
            for at in range(0, len(missing), _AT_ONCE):
                wanted = {
                    name: {
                        "num_partitions": partitions,
                        "replication_factor": replication,
                        "configs": {**_CONFIGS, **in_sync, "max.message.bytes": _largest(name)},
                    }
                    for name in missing[at : at + _AT_ONCE]
                }
                for found in admin.create_topics(wanted, timeout_ms=ANSWER_MS, raise_errors=False)["topics"]:
                    error = for_code(found["error_code"])
                    if error is NoError:
                        made.append(found["name"])
                    elif error is not TopicAlreadyExistsError:  # TopicAlreadyExistsError: another process made it first
                        raise error(f"{found['name']}: {found['error_message']}")
            if missing:
                admin.wait_for_topics(missing, timeout_ms=ANSWER_MS)
            return sorted(made)

    def states(self, topics: Iterable[str]) -> dict[str, TopicState]:
        """The state of each existing topic: its id, and the first and next offset of each partition for a reader of committed records."""
        with self.admin() as admin:
            found = {t["name"]: t for t in admin.describe_topics(sorted(set(topics))) if not t["error_code"]}
            every = [TopicPartition(name, p["partition_index"]) for name, t in found.items() for p in t["partitions"]]
            first = admin.list_partition_offsets(dict.fromkeys(every, OffsetSpec.EARLIEST), timeout_ms=ANSWER_MS)
            ends = admin.list_partition_offsets(
                dict.fromkeys(every, OffsetSpec.LATEST), isolation_level="read_committed", timeout_ms=ANSWER_MS
            )
        states = {name: TopicState(str(topic["topic_id"]), {}) for name, topic in found.items()}
        for partition in every:
            states[partition.topic].partitions[partition.partition] = (first[partition].offset, ends[partition].offset)
        return states

    def since(self, behind: Mapping[tuple[str, int], tuple[int, int]]) -> dict[tuple[str, int], float]:
        """When the first waiting record of each topic and partition was accepted by its node, in seconds since 1970.

        `behind` gives for each partition the next offset and the end. Kafka gives a record's time only with the record, so one
        record of each partition is fetched. A partition is left out if no record arrives in time, or if only transaction markers wait.
        """
        found: dict[tuple[str, int], float] = {}
        if not behind:
            return found
        until = time.monotonic() + FETCH_SECONDS
        asked = {TopicPartition(*partition): offsets for partition, offsets in behind.items()}
        consumer = None
        try:
            consumer = KafkaConsumer(
                **self.access.kafka_python_reader(), bootstrap_timeout_ms=int(FETCH_SECONDS * 1000),
                max_partition_fetch_bytes=1 << 16, fetch_max_wait_ms=100,
            )  # fmt: skip
            consumer.assign(list(asked))
            for partition, (start, _) in asked.items():
                consumer.seek(partition, start)
            while asked and time.monotonic() < until:
                for partition, records in consumer.poll(timeout_ms=100, max_records=1).items():
                    found[partition.topic, partition.partition] = records[0].timestamp / 1000
                    consumer.pause(partition)
                    asked.pop(partition, None)
                for partition in [p for p, (_, end) in asked.items() if (consumer.position(p) or 0) >= end]:
                    consumer.pause(partition)
                    del asked[partition]
        except (KafkaError, OSError) as error:
            log.warning("the age of waiting records is not known: %s", first_line(error))
        finally:
            if consumer is not None:
                consumer.close()
        return found

    def retention(self, topics: Iterable[str]) -> dict[str, float]:
        """How many seconds each topic keeps a record, ingested or not; infinity if it keeps all."""
        asked = [ConfigResource("TOPIC", name, ["retention.ms"]) for name in sorted(set(topics))]
        if not asked:
            return {}
        with self.admin() as admin:
            found = admin.describe_configs(asked, config_filter="all")["topic"]
        kept = {name: int(configs["retention.ms"]["value"]) for name, configs in found.items()}
        return {name: ms / 1000 if ms >= 0 else math.inf for name, ms in kept.items()}

    @contextmanager
    def admin(self) -> Iterator[KafkaAdminClient]:
        """An admin client whose errors are raised as Suibus's own."""
        admin, servers = None, self.access.servers
        try:
            admin = KafkaAdminClient(
                **self.access.kafka_python(), bootstrap_timeout_ms=ANSWER_MS, request_timeout_ms=ANSWER_MS
            )
            yield admin
        except UnknownTopicOrPartitionError as error:
            raise InputError(
                f"Kafka at {servers} lacks a topic: {error}. Make the dataset's topics first: run suibus up or suibus sync.",
                f"Kafka（{servers}）中缺少所需主题：{error}。请先执行 suibus up 或 suibus sync 建立该数据集的主题。",
            ) from error
        except AuthorizationError as error:
            raise InputError(
                f"Kafka at {servers} does not let this user do that ({first_line(error)}). Let the city do it, or set "
                "SUIBUS_NODE to the file of a user with this right: see docs/security.md.",
                f"Kafka（{servers}）不允许当前用户执行该操作（{first_line(error)}）。请由市级执行，"
                "或让 SUIBUS_NODE 指向有权限者的文件，见 docs/security.zh-CN.md。",
            ) from error
        except KafkaError as error:
            if getattr(error, "errno", -1) >= 0 and not getattr(error, "retriable", False):
                raise InputError(
                    f"Kafka at {servers} refused: {error}. Correct the topic's settings and try again.",
                    f"Kafka（{servers}）拒绝了请求：{error}。请更正主题设置后重试。",
                ) from error
            if refused := why_refused(self.access):
                raise UnavailableError(
                    f"Kafka at {servers}: {refused[0]}.", f"Kafka（{servers}）：{refused[1]}。"
                ) from error
            raise UnavailableError(
                f"Kafka at {servers} gave no answer ({type(error).__name__}). Nothing was lost. Start the "
                "embedded broker with suibus up, or check SUIBUS_BOOTSTRAP_SERVERS and the network, then try again.",
                f"Kafka（{servers}）没有应答（{type(error).__name__}）。数据没有丢失。"
                "请用 suibus up 启动内置消息代理，或检查 SUIBUS_BOOTSTRAP_SERVERS 与网络，然后重试。",
            ) from error
        finally:
            if admin is not None:
                admin.close()
