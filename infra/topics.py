"""Topics: make those that are missing, and ask how far each one has come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import KafkaError, TopicAlreadyExistsError, UnknownTopicOrPartitionError

from infra.broker import MAX_MESSAGE_BYTES
from schemas.errors import InputError, UnavailableError

ANSWER_MS = 8_000

_CONFIGS = {
    "cleanup.policy": "delete",  # a later record does not erase an earlier one: bronze keeps every change
    # A year: Kafka counts from when the node accepted a row, and a node may be away for months.
    "retention.ms": str(366 * 24 * 3600 * 1000),
    "max.message.bytes": str(MAX_MESSAGE_BYTES),
}


def ensure_topics(bootstrap: str, names: Iterable[str], partitions: int = 1, replication: int = 1) -> list[str]:
    """Make the topics that are missing and return those made, ready to be written.

    Doing it again, or two processes at once, makes each topic once; topics that exist are left as they are.
    UnavailableError where the broker gives no answer, InputError where it refuses a topic.
    """
    with _admin(bootstrap) as admin:
        missing = sorted(set(names) - set(admin.list_topics()))
        made = []
        for name in missing:
            wanted = {"num_partitions": partitions, "replication_factor": replication, "configs": _CONFIGS}
            try:
                admin.create_topics({name: wanted}, timeout_ms=ANSWER_MS)
            except TopicAlreadyExistsError:  # another process was faster
                continue
            made.append(name)
        if missing:
            admin.wait_for_topics(missing, timeout_ms=ANSWER_MS)
        return made


def end_offsets(bootstrap: str, topics: Iterable[str]) -> dict[str, dict[int, int]]:
    """For each topic and partition the offset that the next record will get.

    UnavailableError where the broker gives no answer, InputError for a topic that does not exist.
    """
    names = sorted(set(topics))
    if not names:
        return {}
    with _admin(bootstrap) as admin:
        partitions: dict[str, list[int]] = {}
        for topic in admin.describe_topics(names):
            if topic["error_code"]:
                raise _unknown(topic["name"])
            partitions[topic["name"]] = sorted(part["partition_index"] for part in topic["partitions"])
        every = [TopicPartition(name, part) for name in names for part in partitions[name]]
        found = admin.list_partition_offsets(dict.fromkeys(every, OffsetSpec.LATEST), timeout_ms=ANSWER_MS)
        ends: dict[str, dict[int, int]] = {name: {} for name in names}
        for at in every:
            ends[at.topic][at.partition] = found[at].offset
        return ends


def _unknown(name: str) -> InputError:
    return InputError(
        f"Topic {name} does not exist. Declare the dataset's topics first.",
        f"主题 {name} 不存在。请先建立该数据集的主题。",
    )


@contextmanager
def _admin(bootstrap: str) -> Iterator[KafkaAdminClient]:
    """An admin client, its errors told as ours."""
    admin = None
    try:
        admin = KafkaAdminClient(
            bootstrap_servers=bootstrap.split(","),
            bootstrap_timeout_ms=ANSWER_MS,
            request_timeout_ms=ANSWER_MS,
        )
        yield admin
    except UnknownTopicOrPartitionError as error:
        raise InputError(
            f"Kafka at {bootstrap} does not know a topic: {error}. Declare the dataset's topics first.",
            f"Kafka({bootstrap})中没有所需主题:{error}。请先建立该数据集的主题。",
        ) from error
    except KafkaError as error:
        if getattr(error, "errno", -1) >= 0 and not getattr(error, "retriable", False):
            raise InputError(
                f"Kafka at {bootstrap} refused: {error}. Correct the topic's settings and try again.",
                f"Kafka({bootstrap})拒绝了请求:{error}。请更正主题设置后重试。",
            ) from error
        raise UnavailableError(
            f"Kafka at {bootstrap} gave no answer ({type(error).__name__}). Nothing was lost. Start the "
            "embedded broker with: suibus up, or check SUIBUS_BOOTSTRAP_SERVERS and the network; try again.",
            f"Kafka({bootstrap})没有应答({type(error).__name__})。数据没有丢失。"
            "请用 suibus up 启动内置消息代理,或检查 SUIBUS_BOOTSTRAP_SERVERS 与网络,然后重试。",
        ) from error
    finally:
        if admin is not None:
            admin.close()
