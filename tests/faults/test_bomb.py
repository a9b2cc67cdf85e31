"""Records of a few hundred kilobytes that unpack to more than the city's Spark can hold, in a process of its own."""

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

# Of a heap of 512 MiB. The larger one is never held whole; the smaller is, and what Spark keeps of it leaves others no room.
_MIB = (320, 256)


def test_a_decompression_bomb_is_quarantined_and_every_record_before_behind_and_beside_it_is_shared(
    broker: Broker, spark: Any, tmp_path: Path
) -> None:
    name = f"bomb_{uuid.uuid4().hex[:8]}"
    settings = {"SUIBUS_BOOTSTRAP_SERVERS": broker.access.servers, "SUIBUS_SPARK_MEMORY": "512m"}
    bombed = {mib: Node(tmp_path / "home", tmp_path, f"{name}_{mib}", **settings) for mib in _MIB}
    beside = Node(tmp_path / "home", tmp_path, f"{name}_beside", **settings)
    nodes = [*bombed.values(), beside]
    topics = [t for code in districts() for node in nodes for t in (node.dataset.topic(code), receipts_topic(code))]
    Kafka(broker.access).ensure(topics)
    # Few: whatever is near a bomb is read with it until they are told apart, which takes a failure each time.
    bombs = []
    for mib, node in bombed.items():
        node.publish(node.rows(1, 1))
        bombs.append(_throw(broker.access.servers, node.topic, mib))
        node.publish(node.rows(2, 3, start=1))
    beside.publish(beside.rows(8, 8))

    said = beside.run("sync")
    assert "stopped" not in said, said
    failed = [line for line in said.splitlines() if "failed while others ran in parallel, retrying alone" in line]
    # The one beside may have failed too, for the others' memory.
    assert all(any(f"dataset={node.dataset.id}]" in line for line in failed) for node in bombed.values()), said
    bus = Bus(Settings(home=tmp_path / "home", bootstrap_servers=broker.access.servers))
    for node in bombed.values():
        (sums,) = [row for row in account_records(bus, node.dataset.name) if row["district"] == DISTRICT]
        assert (sums["inserted"], sums["quarantined"], sums["closes"]) == (3, 2, True)
    receipts = json.loads(beside.run("receipts", "--district", DISTRICT, "--json"))
    # The end of the transaction before a bomb has an offset too, and whoever reads that one is handed the bomb.
    assert sorted(receipt["offset"] for receipt in receipts) == sorted(o for at in bombs for o in (at - 1, at))
    assert {reason["rule"] for receipt in receipts for reason in receipt["reasons"]} == {"unread"}
    # Another dataset goes through the pass at the same time, in the same memory.
    (sums,) = [row for row in account_records(bus, beside.dataset.name) if row["district"] == DISTRICT]
    assert (sums["inserted"], sums["quarantined"], sums["closes"]) == (8, 0, True)


def _throw(servers: str, topic: str, mib: int) -> int:
    """One record whose value is zeros, as gzip leaves them; its offset."""
    with closing(
        KafkaProducer(
            bootstrap_servers=servers.split(","), compression_type="gzip", max_request_size=1 << 30,
            batch_size=1 << 20, request_timeout_ms=60_000, delivery_timeout_ms=120_000,
        )
    ) as producer:  # fmt: skip
        return int(producer.send(topic, bytes(mib << 20), b"bomb").get(timeout=120).offset)
