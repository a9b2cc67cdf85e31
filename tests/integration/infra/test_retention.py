"""The status warns of records that Kafka may delete before they are ingested."""

from __future__ import annotations

import time

import pytest
from kafka import KafkaProducer
from kafka.admin import ConfigResource

from infra.bus.status import read_status
from schemas.wire.encoder import Encoder
from tests.integration.conftest import Road
from tests.integration.outside_changes import admin

DISTRICT = "440106"


def test_the_status_warns_of_records_near_the_end_of_their_retention(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.kafka.topics.FETCH_SECONDS", 60.0)
    topic, now = road.dataset.topic(DISTRICT), time.time_ns() // 1_000_000
    client = admin(road)
    client.alter_configs([ConfigResource("TOPIC", topic, {"retention.ms": str(10 * 86_400_000)})])
    client.close()

    def near_retention() -> dict[str, float]:
        (found,) = (d for d in read_status(road.bus).to_json()["datasets"] if d["dataset"] == road.name)
        return dict(found["near_retention"])

    producer, encoder = KafkaProducer(bootstrap_servers=road.bus.access.servers, acks="all"), Encoder(road.dataset)
    row = {"id": "a", "district_code": DISTRICT, "seq": 1, "amount": 1}
    producer.send(topic, encoder.value(row), encoder.key(row), timestamp_ms=now - 4 * 86_400_000).get()
    assert near_retention() == {}
    producer.send(topic, encoder.value(row), encoder.key(row), timestamp_ms=now - 6 * 86_400_000).get()
    road.sync()
    producer.send(topic, encoder.value(row), encoder.key(row), timestamp_ms=now - 6 * 86_400_000).get()
    producer.close()
    assert near_retention() == {topic: 10}
    road.sync()
    assert near_retention() == {}, "it was ingested"
