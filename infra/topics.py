"""Kafka as the bus uses it: make the topics that are missing, and ask how far each one has come."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ConfigResource, OffsetSpec
from kafka.errors import AuthorizationError, KafkaError, TopicAlreadyExistsError, UnknownTopicOrPartitionError

from infra.broker import MAX_MESSAGE_BYTES
from infra.settings import spark_options
from pipelines.offsets import TopicState
from producers.refusal import why_refused
from schemas.dataset import UP_PREFIX
from schemas.errors import InputError, UnavailableError, first_line

ANSWER_MS = 8_000

_CONFIGS = {
    "cleanup.policy": "delete",  # a later record does not erase an earlier one: bronze keeps every change
    # A year: Kafka counts from when the node accepted a row, and a node may be away for months.
    "retention.ms": str(366 * 24 * 3600 * 1000),
}
# Upwards a batch with the largest row fits (Kafka's own default): what unpacks to very much more stays small on the wire.
_UPWARDS = str(1024 * 1024 + 12)


def _largest(topic: str) -> str:
    return _UPWARDS if topic.startswith(UP_PREFIX) else str(MAX_MESSAGE_BYTES)


@dataclass(frozen=True)
class Kafka:
    """The Kafka at `servers` (host:port,…); `security` holds kafka-python's own settings for TLS and passwords.

    Every call raises UnavailableError where no broker answers.
    """

    servers: str
    security: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def client(self) -> dict[str, Any]:
        """Settings of a kafka-python client."""
        return {**self.security, "bootstrap_servers": self.servers.split(",")}

    @property
    def spark(self) -> dict[str, str]:
        """The same as options of Spark's Kafka source."""
        return {"kafka.bootstrap.servers": self.servers, **spark_options(self.security)}

    def ensure(self, names: Iterable[str], partitions: int = 1, replication: int = 1) -> list[str]:
        """Make the topics that are missing and return those made, ready to be written.

        Doing it again, or two processes at once, makes each topic once; topics that exist are left as they are.
        InputError where the broker refuses a topic.
        """
        with self.admin() as admin:
            missing = sorted(set(names) - set(admin.list_topics()))
            made = []
            in_sync = {"min.insync.replicas": str(replication - 1)} if replication > 2 else {}  # one broker may be away
            for name in missing:
                wanted = {
                    "num_partitions": partitions,
                    "replication_factor": replication,
                    "configs": {**_CONFIGS, **in_sync, "max.message.bytes": _largest(name)},
                }
                try:
                    admin.create_topics({name: wanted}, timeout_ms=ANSWER_MS)
                except TopicAlreadyExistsError:  # another process was faster
                    continue
                made.append(name)
            if missing:
                admin.wait_for_topics(missing, timeout_ms=ANSWER_MS)
            return made

    def states(self, topics: Iterable[str]) -> dict[str, TopicState]:
        """The state of each of the topics that exists: what a reader of committed records can read."""
        with self.admin() as admin:
            found = {t["name"]: t for t in admin.describe_topics(sorted(set(topics))) if not t["error_code"]}
            places = [TopicPartition(name, p["partition_index"]) for name, t in found.items() for p in t["partitions"]]
            first = admin.list_partition_offsets(dict.fromkeys(places, OffsetSpec.EARLIEST), timeout_ms=ANSWER_MS)
            ends = admin.list_partition_offsets(
                dict.fromkeys(places, OffsetSpec.LATEST), isolation_level="read_committed", timeout_ms=ANSWER_MS
            )
        states = {name: TopicState(str(topic["topic_id"]), {}) for name, topic in found.items()}
        for place in places:
            states[place.topic].partitions[place.partition] = (first[place].offset, ends[place].offset)
        return states

    def endangered(self, waiting: Mapping[tuple[str, int], int], part: float = 0.5) -> dict[str, float]:
        """Of the topics and partitions whose next offset is given, those whose record there has used up `part` of its retention.

        By topic the retention in days: it removes a record whether or not it was taken.
        """
        if not waiting:
            return {}
        topics = sorted({topic for topic, _ in waiting})
        with self.admin() as admin:
            asked = [ConfigResource("TOPIC", name, ["retention.ms"]) for name in topics]
            configs = admin.describe_configs(asked, config_filter="all")
            kept = {name: int(configs["topic"][name]["retention.ms"]["value"]) for name in topics}
            now = time.time_ns() // 1_000_000
            specs = {TopicPartition(topic, p): now - int(kept[topic] * part) for topic, p in waiting if kept[topic] > 0}
            found = admin.list_partition_offsets(specs, timeout_ms=ANSWER_MS)
        # The first record younger than that: -1 where there is none, so all of the partition is older.
        return {
            place.topic: kept[place.topic] / 86_400_000
            for place, at in found.items()
            if at.offset == -1 or waiting[place.topic, place.partition] < at.offset
        }

    @contextmanager
    def admin(self) -> Iterator[KafkaAdminClient]:
        """An admin client, its errors told as ours."""
        admin = None
        try:
            admin = KafkaAdminClient(
                **self.client,
                bootstrap_timeout_ms=ANSWER_MS,
                request_timeout_ms=ANSWER_MS,
            )
            yield admin
        except UnknownTopicOrPartitionError as error:
            raise InputError(
                f"Kafka at {self.servers} does not know a topic: {error}. Declare the dataset's topics first.",
                f"Kafka({self.servers})中没有所需主题:{error}。请先建立该数据集的主题。",
            ) from error
        except AuthorizationError as error:
            raise InputError(
                f"Kafka at {self.servers} does not let this user do that ({first_line(error)}). Only the city may, or "
                "whoever's file SUIBUS_NODE names has the right: see docs/security.md.",
                f"Kafka（{self.servers}）不允许当前用户执行该操作（{first_line(error)}）。请由市级执行，"
                "或让 SUIBUS_NODE 指向有权限者的文件，见 docs/security.zh-CN.md。",
            ) from error
        except KafkaError as error:
            if getattr(error, "errno", -1) >= 0 and not getattr(error, "retriable", False):
                raise InputError(
                    f"Kafka at {self.servers} refused: {error}. Correct the topic's settings and try again.",
                    f"Kafka({self.servers})拒绝了请求:{error}。请更正主题设置后重试。",
                ) from error
            if refused := why_refused(self.client):
                raise UnavailableError(
                    f"Kafka at {self.servers}: {refused[0]}.", f"Kafka（{self.servers}）：{refused[1]}。"
                ) from error
            raise UnavailableError(
                f"Kafka at {self.servers} gave no answer ({type(error).__name__}). Nothing was lost. Start the "
                "embedded broker with: suibus up, or check SUIBUS_BOOTSTRAP_SERVERS and the network; try again.",
                f"Kafka({self.servers})没有应答({type(error).__name__})。数据没有丢失。"
                "请用 suibus up 启动内置消息代理,或检查 SUIBUS_BOOTSTRAP_SERVERS 与网络,然后重试。",
            ) from error
        finally:
            if admin is not None:
                admin.close()
