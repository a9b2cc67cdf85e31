"""Changes that other programs make to the topics and tables of a bus."""

from __future__ import annotations

import time

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import NewPartitions

from pipelines.lake.table import Table
from tests.integration.conftest import Road


def admin(road: Road) -> KafkaAdminClient:
    return KafkaAdminClient(bootstrap_servers=road.bus.access.servers)


def recreate(road: Road, topic: str) -> None:
    delete_topic(road, topic)
    road.bus.kafka.ensure([topic])


def cut(road: Road, topic: str) -> None:
    """Remove all records, as retention does."""
    client = admin(road)
    end = road.bus.kafka.states([topic])[topic].partitions[0][1]
    client.delete_records({TopicPartition(topic, 0): end})
    client.close()


def add_partitions(road: Road, topic: str) -> None:
    client = admin(road)
    client.create_partitions({topic: NewPartitions(total_count=2)})
    while len(road.bus.kafka.states([topic])[topic].partitions) < 2:
        time.sleep(0.1)
    client.close()


def delete_topic(road: Road, topic: str) -> None:
    client = admin(road)
    client.delete_topics([topic])
    while topic in client.list_topics():
        time.sleep(0.1)
    client.close()


def write_as_another_program(table: Table) -> None:
    """Append a row to a table with Spark and without Suibus."""
    table.read().limit(1).write.format("delta").mode("append").save(table.address)
