"""A city loses one or two of its three brokers: what a node does meanwhile, and what the topics hold when they are back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.kafka.topics import Kafka
from tests.faults.cluster import Cluster
from tests.faults.node import DISTRICT, Node, check_delivered


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three brokers; a test that kills one starts it again."""
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


def _node(cluster: Cluster, folder: Path, name: str) -> Node:
    node = Node(folder / "home", folder, name, SUIBUS_BOOTSTRAP_SERVERS=cluster.servers, SUIBUS_REPLICATION="3")
    Kafka(cluster.servers).ensure([node.topic], partitions=1, replication=3)
    return node


def test_one_of_three_brokers_killed_under_load_loses_and_doubles_nothing(cluster: Cluster, tmp_path: Path) -> None:
    rows, keys = 60_000, 500
    node = _node(cluster, tmp_path, "one_gone")
    publishing = node.start("publish", "one_gone", str(node.rows(rows, keys)), "--district", DISTRICT)
    said: list[str] = []
    with publishing:
        reader = threading.Thread(target=lambda: said.extend(publishing.communicate()))
        reader.start()
        until = time.monotonic() + 120
        while not _ends(cluster, node) and time.monotonic() < until:  # the first records have arrived
            time.sleep(0.05)
        leader = cluster.leader(node.topic)
        assert publishing.poll() is None, "it had ended before the broker was killed"
        cluster.kill(leader)
        reader.join()
    try:
        assert publishing.returncode == 0, said
        assert "all on the bus" in said[0]
        check_delivered(cluster.servers, node, rows, keys)  # the two that are left hold everything
    finally:
        cluster.start(leader)
    check_delivered(cluster.servers, node, rows, keys)


def test_publishing_waits_and_says_so_when_two_of_three_brokers_are_gone_and_completes_when_they_return(
    cluster: Cluster, tmp_path: Path
) -> None:
    node = _node(cluster, tmp_path, "two_gone")
    first, second = node.rows(500, 50), node.rows(500, 50, start=500)
    node.publish(first)
    gone = [n for n in range(3) if n != cluster.leader(node.topic)]  # the leader is left: alone it could still write
    for number in gone:
        cluster.kill(number)
    try:
        said = node.publish(second, "--timeout", "10", status=3)
        assert "did not take anything for 10 s" in said
        assert "What was accepted is kept (500 rows wait)" in said
        assert "均已保留" in said
    finally:
        cluster.start(*gone)
    node.run("flush", "--district", DISTRICT)
    check_delivered(cluster.servers, node, 1_000, 50)


def _ends(cluster: Cluster, node: Node) -> int:
    state = Kafka(cluster.servers).states([node.topic])[node.topic]
    return sum(end for _, end in state.partitions.values())
