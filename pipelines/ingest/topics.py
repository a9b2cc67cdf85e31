"""The port to Kafka that the pipeline needs: the state of topics, and the access with which their records are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from schemas.dataset import Dataset
from schemas.ports.kafka_access import KafkaAccess


class TopicState(NamedTuple):
    """A topic in Kafka: its id, and by partition the first offset kept and the end offset (the next to be written)."""

    id: str
    partitions: dict[int, tuple[int, int]]


class Topics(Protocol):
    """The port to Kafka that the pipeline needs; `infra.kafka.topics.Kafka` implements it."""

    @property
    def access(self) -> KafkaAccess:
        """The access with which records are read and receipts are sent."""

    def states(self, topics: Iterable[str]) -> dict[str, TopicState]:
        """The state of each of these topics that exists. UnavailableError if no broker answers."""


def present_topics(dataset: Dataset, states: Mapping[str, TopicState]) -> dict[str, TopicState]:
    """The states of those topics of the dataset that exist."""
    return {name: states[name] for name in dataset.topics if name in states}
