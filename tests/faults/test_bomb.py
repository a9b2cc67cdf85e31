"""A record of a few hundred kilobytes that unpacks to more than the city's Spark can hold, in a process of its own."""

from __future__ import annotations

import json
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

from kafka import KafkaProducer

from infra.bus.bus import Bus
from infra.kafka.broker import Broker
from infra.kafka.topics import Kafka
from infra.operate.listings import account_records
from infra.settings import Settings
from schemas.dataset import receipts_topic
from schemas.districts import districts
from tests.faults.node import DISTRICT, Node

_MIB = 320  # of a heap of 512: Spark holds a value more than once


def test_a_decompression_bomb_is_quarantined_and_every_record_before_behind_and_beside_it_is_shared(
    broker: Broker, spark: Any, tmp_path: Path
) -> None:
    name = f"bomb_{uuid.uuid4().hex[:8]}"
    settings = {"SUIBUS_BOOTSTRAP_SERVERS": broker.access.servers, "SUIBUS_SPARK_MEMORY": "512m"}
    node = Node(tmp_path / "home", tmp_path, name, **settings)
    beside = Node(tmp_path / "home", tmp_path, f"{name}_beside", **settings)
    topics = [t for code in districts() for n in (node, beside) for t in (n.dataset.topic(code), receipts_topic(code))]
    Kafka(broker.access).ensure(topics)
    # Few: whatever is near the bomb is read with it until they are told apart, which takes a failure each time.
    node.publish(node.rows(1, 1))
    offset = _throw(broker.access.servers, node.topic)
    node.publish(node.rows(2, 3, start=1))
    beside.publish(beside.rows(8, 8))

    said = node.run("sync")
    assert "stopped" not in said, said
    failed = [line for line in said.splitlines() if "failed while others ran in parallel, retrying alone" in line]
    # The other may have failed too, for its memory.
    assert any(f"dataset={node.dataset.id}]" in line for line in failed)
    bus = Bus(Settings(home=tmp_path / "home", bootstrap_servers=broker.access.servers))
    (sums,) = [row for row in account_records(bus, name) if row["district"] == DISTRICT]
    assert sums["closes"]
    assert sums["inserted"] == 3
    receipts = json.loads(node.run("receipts", "--district", DISTRICT, "--json"))
    # The end of the transaction before it has an offset too, and whoever reads that one is handed the bomb.
    assert {receipt["offset"] for receipt in receipts} == {offset - 1, offset}
    assert {reason["rule"] for receipt in receipts for reason in receipt["reasons"]} == {"unread"}
    assert sums["quarantined"] == 2
    # Another dataset goes through the pass at the same time, in the same memory.
    (sums,) = [row for row in account_records(bus, beside.dataset.name) if row["district"] == DISTRICT]
    assert (sums["inserted"], sums["quarantined"], sums["closes"]) == (8, 0, True)


def _throw(servers: str, topic: str) -> int:
    """One record whose value is zeros, as gzip leaves them; its offset."""
    with closing(
        KafkaProducer(
            bootstrap_servers=servers.split(","), compression_type="gzip", max_request_size=1 << 30,
            batch_size=1 << 20, request_timeout_ms=60_000, delivery_timeout_ms=120_000,
        )
    ) as producer:  # fmt: skip
        return int(producer.send(topic, bytes(_MIB << 20), b"bomb").get(timeout=120).offset)
