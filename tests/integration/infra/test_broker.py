"""The embedded broker keeps its address and every acknowledged record when it is stopped or killed and started again."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer

from infra.kafka.broker import Broker
from infra.kafka.topics import Kafka
from infra.settings import Settings
from schemas.errors import InputError, UnavailableError


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker for these tests only, running or not; the name of its home has a space, a comma and Chinese characters."""
    made = Broker(Settings(home=tmp_path_factory.mktemp("broker") / "穗 数, 通"))
    yield made
    made.stop()


@pytest.fixture
def new(tmp_path: Path) -> Iterator[Broker]:
    """A broker that was never started."""
    made = Broker(Settings(home=tmp_path))
    yield made
    made.stop()


def _publish(bootstrap: str, topic: str, *values: bytes) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all")
    for value in values:
        producer.send(topic, value=value).get(timeout=30)
    producer.close()


def _records(bootstrap: str, topic: str, count: int) -> list[bytes]:
    consumer = KafkaConsumer(
        topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=30_000
    )
    found = [next(consumer).value for _ in range(count)]
    consumer.close()
    return found


def _state_file(broker: Broker) -> Path:
    return broker.home / "run" / "broker.json"


def _pid(broker: Broker) -> int:
    return int(json.loads(_state_file(broker).read_text("utf-8"))["pid"])


def test_started_broker_answers_and_starting_again_changes_nothing(embedded: Broker) -> None:
    address = embedded.start()
    pid = _pid(embedded)
    assert embedded.running()
    assert embedded.start() == address == embedded.access.servers
    assert _pid(embedded) == pid


def test_two_starts_at_once_make_one_broker(new: Broker) -> None:
    addresses: list[str] = []
    threads = [
        threading.Thread(target=lambda: addresses.append(Broker(Settings(home=new.home)).start())) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert addresses == [new.access.servers] * 2


def test_restarted_broker_has_its_topics_and_records_on_the_same_port(embedded: Broker) -> None:
    address = embedded.start()
    Kafka(address).ensure(["gz.up.440106.kept.v1"])
    _publish(address, "gz.up.440106.kept.v1", b"one", b"two")
    embedded.stop()
    assert not embedded.running()
    assert embedded.start() == address
    assert _records(address, "gz.up.440106.kept.v1", 2) == [b"one", b"two"]


def test_a_killed_broker_is_detected_and_starts_again_with_every_acknowledged_record(embedded: Broker) -> None:
    address = embedded.start()
    Kafka(address).ensure(["t"])
    _publish(address, "t", *(str(n).encode() for n in range(200)))
    os.kill(_pid(embedded), signal.SIGKILL)
    while embedded.running():
        pass
    assert embedded.start() == address
    assert Kafka(address).states(["t"])["t"].partitions == {0: (0, 200)}


def test_a_state_file_of_an_earlier_boot_does_not_count_as_a_running_broker(embedded: Broker) -> None:
    embedded.start()
    embedded.stop()
    state = json.loads(_state_file(embedded).read_text("utf-8"))
    # The pid now belongs to another process: to this test.
    process = {"pid": os.getpid(), "born": "another boot 1", "home": str(embedded.home.resolve())}
    _state_file(embedded).write_text(json.dumps({**state, **process}))
    assert not embedded.running()
    embedded.stop()  # must not end this test


def test_address_is_chosen_before_the_first_start_and_kept(new: Broker) -> None:
    address = new.access_when_up.servers
    assert not new.running()
    assert Broker(Settings(home=new.home)).access_when_up.servers == address
    assert new.start() == address == new.access.servers


def test_two_brokers_run_beside_each_other_and_share_nothing(embedded: Broker, broker: Broker) -> None:
    Kafka(embedded.start()).ensure(["only.here"])
    assert embedded.access != broker.access
    assert Kafka(broker.access).states(["only.here"]) == {}


def test_the_broker_uses_another_port_and_says_so_when_its_port_is_taken(embedded: Broker) -> None:
    address = embedded.start()
    Kafka(address).ensure(["kept"])
    embedded.stop()
    said: list[tuple[str, str]] = []
    with socket.socket() as foreign:
        foreign.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        foreign.bind(("127.0.0.1", int(address.split(":")[1])))
        foreign.listen()
        moved = embedded.start(lambda en, zh: said.append((en, zh)))
    assert moved != address
    assert len(said) == 1
    assert moved in said[0][0]
    assert Kafka(moved).states(["kept"])["kept"].partitions == {0: (0, 0)}


def test_stopped_broker_has_no_address_and_stopping_again_is_allowed(embedded: Broker) -> None:
    embedded.start()
    embedded.stop()
    embedded.stop()
    with pytest.raises(UnavailableError, match="suibus up"):
        _ = embedded.access


def test_broker_that_ends_while_starting_shows_the_end_of_its_log(new: Broker) -> None:
    new.start()
    new.stop()
    (new.folder / "data" / "meta.properties").write_text("cluster.id=other\nnode.id=7\nversion=1\n")
    with pytest.raises(UnavailableError, match="node id 7"):
        new.start()
    assert not new.running()


def test_topics_are_made_once_with_the_partitions_asked_for(broker: Broker) -> None:
    assert Kafka(broker.access).ensure(["b.topic", "a.topic"], partitions=2) == ["a.topic", "b.topic"]
    assert Kafka(broker.access).ensure(["a.topic", "b.topic", "c.topic"]) == ["c.topic"]
    states = Kafka(broker.access).states(["a.topic", "c.topic"])
    assert {name: state.partitions for name, state in states.items()} == {
        "a.topic": {0: (0, 0), 1: (0, 0)},
        "c.topic": {0: (0, 0)},
    }


def test_topic_that_kafka_refuses_is_an_input_error(broker: Broker) -> None:
    with pytest.raises(InputError):
        Kafka(broker.access).ensure(["not a topic"])
    with pytest.raises(InputError):
        Kafka(broker.access).ensure(["too.many.replicas"], replication=3)


def test_a_broker_that_does_not_answer_is_reported_with_its_address() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(UnavailableError, match=address):
        Kafka(address).ensure(["t"])
