"""Each accepted row reaches the bus once and in order, whichever process is killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer
from confluent_kafka import TopicPartition as Place
from kafka import KafkaConsumer, TopicPartition
from kafka.partitioner.default import murmur2

from infra.kafka.topics import Kafka
from producers.encoded_row import EncodedRow
from producers.outbox import Outbox
from producers.publish.delivery import publish_source
from producers.publish.publisher import Publisher
from producers.send.sender import flush
from producers.send.transport import TransportName
from producers.sources.files import open_source
from schemas.dataset import Dataset, Field
from schemas.errors import UnavailableError
from schemas.ports.lease import Lease
from schemas.wire.avro import avro_schema, schema_fingerprint
from tests.avro_reader import decode
from tests.unit.producers.publishing import KilledError, Step, changed, killed_after, killed_before

DISTRICT = "440106"
ROOT = Path(__file__).parents[3]


@pytest.fixture(params=["kafka-python", "librdkafka"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    # kafka-python reads it without another library.
    monkeypatch.setattr("producers.send.librdkafka.COMPRESSION", "gzip")
    return request.param


def dataset(name: str = "") -> Dataset:
    fields = (Field("code", "string", True), Field("name", "string"), Field("at", "long", True))
    name = name or f"t{uuid.uuid4().hex[:8]}"
    return Dataset(name, "1.0.0", fields, ("code",), "at", None, "none", None, (), "", "", "t.yaml", "")


def topics(bootstrap: str, count: int = 1, partitions: int = 2) -> list[str]:
    names = [dataset().topic(DISTRICT) for _ in range(count)]
    Kafka(bootstrap).ensure(names, partitions, 1)
    return names


def committed(bootstrap: str, topic: str) -> list[Any]:
    """Every record of a topic that a reader of committed transactions sees, partition after partition."""
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    try:
        places = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic) or ())]
        ends = consumer.end_offsets(places)
        consumer.assign(places)
        consumer.seek_to_beginning(*places)
        found: dict[TopicPartition, list[Any]] = defaultdict(list)
        give_up = time.monotonic() + 30
        while any(consumer.position(p) < ends[p] for p in places):
            assert time.monotonic() < give_up, "records are missing"
            for place, records in consumer.poll(timeout_ms=500).items():
                found[place].extend(records)
        return [record for place in places for record in found[place]]
    finally:
        consumer.close()


def fill(path: Path, names: list[str], rows: int, keys: int = 50) -> dict[str, dict[bytes, list[bytes]]]:
    """Accept numbered rows of few keys; returns what each topic must then hold for each key."""
    expected: dict[str, dict[bytes, list[bytes]]] = {name: defaultdict(list) for name in names}
    with Outbox(path) as outbox:
        for start in range(0, rows, 1_000):
            for name in names:
                chunk = [EncodedRow(b"k%d" % (i % keys), b"v%d" % i) for i in range(start, start + 1_000)]
                outbox.accept(name, chunk)
                for key, value, *_ in chunk:
                    expected[name][key].append(value or b"")
    return expected


def held(bootstrap: str, name: str) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = defaultdict(list)
    for record in committed(bootstrap, name):
        found[record.key].append(record.value)
    return found


def check_exactly_once(bootstrap: str, expected: dict[str, dict[bytes, list[bytes]]]) -> None:
    for name, keys in expected.items():
        found = held(bootstrap, name)
        assert {k: len(v) for k, v in found.items()} == {k: len(v) for k, v in keys.items()}
        assert found == keys  # in order, too


def test_rows_arrive_in_order_with_time_and_header(broker: Any, tmp_path: Path, transport: TransportName) -> None:
    (name,) = topics(broker.access.servers)
    with Outbox(tmp_path / "o") as outbox:
        outbox.accept(name, [EncodedRow(b"a", b"1", b"7"), EncodedRow(b"a", None, b"8"), EncodedRow(b"b", None)])
        stamps = [w.timestamp_ms for w in outbox.next_rows(9, 99)]
    info = flush(tmp_path / "o", broker.access, transport=transport)
    assert (info.sent, info.waiting) == (3, 0)
    found = sorted(committed(broker.access.servers, name), key=lambda r: (r.key, r.offset))
    assert [(r.key, r.value, list(r.headers)) for r in found] == [
        (b"a", b"1", []),
        (b"a", None, [("sequence", b"8")]),
        (b"b", None, []),
    ]
    assert sorted(r.timestamp for r in found) == stamps


SENDING = """
import sys
import producers.send.librdkafka as librdkafka
import producers.send.sender as sender
sender.ROWS = 100
librdkafka.COMPRESSION = "gzip"
sender.flush(sys.argv[1], sys.argv[2], timeout=60, transport=sys.argv[3])
"""


def test_killed_sender_leaves_no_duplicates_and_no_gaps(broker: Any, tmp_path: Path, transport: TransportName) -> None:
    names = topics(broker.access.servers, 3)
    path = tmp_path / "o"
    expected = fill(path, names, 4_000)
    dice = random.Random(0)
    for _ in range(6):
        sender = subprocess.Popen(
            [sys.executable, "-c", SENDING, str(path), broker.access.servers, transport], cwd=ROOT
        )
        with Outbox(path) as outbox:
            goal = outbox.waiting() - 100 * dice.randrange(1, 12)  # so many transactions, not seconds
            while outbox.waiting() > goal and sender.poll() is None:
                time.sleep(0.002)
        time.sleep(dice.uniform(0, 0.02))
        sender.send_signal(signal.SIGKILL)
        sender.wait()
    with Outbox(path) as outbox:
        assert 0 < outbox.waiting() < 12_000  # it was killed before the end
    info = flush(path, broker.access)
    assert info.waiting == 0
    check_exactly_once(broker.access.servers, expected)


MOMENTS = {
    "after begin_attempt": ("begin", killed_before),
    "after the records": ("add_position", killed_before),
    "before commit": ("commit", killed_before),
    "after commit": ("commit", killed_after),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_transaction_cut_at_any_moment_is_settled_once(
    broker: Any, tmp_path: Path, moment: str, transport: TransportName
) -> None:
    names = topics(broker.access.servers, 2)
    path = tmp_path / "o"
    expected = fill(path, names, 1_000)
    with pytest.raises(KilledError):
        flush(path, broker.access, transport=changed(transport, *MOMENTS[moment]))
    with Outbox(path) as outbox:
        assert outbox.waiting() == 2_000
    other: TransportName = "kafka-python" if transport == "librdkafka" else "librdkafka"
    info = flush(path, broker.access, transport=other)  # either transport can send an outbox
    assert (info.sent, info.waiting) == (2_000, 0)
    check_exactly_once(broker.access.servers, expected)


def test_commit_whose_answer_is_lost_is_settled_once(broker: Any, tmp_path: Path, transport: TransportName) -> None:
    (name,) = topics(broker.access.servers)
    path = tmp_path / "o"
    expected = fill(path, [name], 1_000)

    def hang_after(commit: Step) -> Step:
        def commit_and_hang() -> None:
            commit()
            threading.Event().wait()

        return commit_and_hang

    with pytest.raises(UnavailableError, match="1000 rows wait"):
        flush(path, broker.access, timeout=2.0, transport=changed(transport, "commit", hang_after))
    assert flush(path, broker.access, transport=transport).waiting == 0
    check_exactly_once(broker.access.servers, expected)


def test_rows_are_kept_and_counted_in_the_message_when_the_bus_does_not_answer(
    broker: Any, tmp_path: Path, transport: TransportName
) -> None:
    (name,) = topics(broker.access.servers)
    path = tmp_path / "o"
    expected = fill(path, [name], 1_000)
    with pytest.raises(UnavailableError, match="1000 rows wait") as caught:
        flush(path, "127.0.0.1:1", timeout=0.5, transport=transport)
    assert "suibus flush --district" in caught.value.zh
    assert flush(path, broker.access, transport=transport).sent == 1_000
    check_exactly_once(broker.access.servers, expected)


def test_a_flush_waits_for_a_topic_that_is_created_later(broker: Any, tmp_path: Path, transport: TransportName) -> None:
    name = dataset().topic(DISTRICT)
    path = tmp_path / "o"
    expected = fill(path, [name], 1_000)
    with pytest.raises(UnavailableError, match="is not on the broker"):
        flush(path, broker.access, timeout=5.0, transport=transport)
    late = threading.Timer(1.5, Kafka(broker.access).ensure, ([name], 2, 1))
    late.start()
    assert flush(path, broker.access, timeout=20, transport=transport).sent == 1_000
    late.join()
    check_exactly_once(broker.access.servers, expected)


def test_both_transports_put_a_key_into_the_same_partition(
    broker: Any, tmp_path: Path, transport: TransportName
) -> None:
    (name,) = topics(broker.access.servers, partitions=5)
    keys = [f'{{"code":"穗{i}"}}'.encode() for i in range(200)]
    with Outbox(tmp_path / "o") as outbox:
        outbox.accept(name, [EncodedRow(key, b"v") for key in keys])
    flush(tmp_path / "o", broker.access, transport=transport)
    placed = {record.key: record.partition for record in committed(broker.access.servers, name)}
    assert placed == {key: (murmur2(key) & 0x7FFFFFFF) % 5 for key in keys}


def test_rows_that_a_flush_reports_as_sent_can_be_read_at_once(
    broker: Any, tmp_path: Path, transport: TransportName
) -> None:
    """With so many topics that the broker needs some time to mark them as committed."""
    names = topics(broker.access.servers, 100)
    with Outbox(tmp_path / "o") as outbox:
        for name in names:
            outbox.accept(name, [EncodedRow(b"%d" % i, b"v") for i in range(10)])
    places = [TopicPartition(name, partition) for name in names for partition in range(2)]
    reader = KafkaConsumer(bootstrap_servers=broker.access.servers, isolation_level="read_committed")
    assert set(reader.end_offsets(places).values()) == {0}  # also connects the reader
    assert flush(tmp_path / "o", broker.access, transport=transport).sent == 1_000
    found = reader.end_offsets(places)
    anyone = KafkaConsumer(bootstrap_servers=broker.access.servers)
    assert found == anyone.end_offsets(places)
    reader.close()
    anyone.close()


def test_records_compressed_by_librdkafka_can_be_read(broker: Any, tmp_path: Path) -> None:
    (name,) = topics(broker.access.servers, partitions=1)
    expected = fill(tmp_path / "o", [name], 1_000)
    flush(tmp_path / "o", broker.access, transport="librdkafka")
    reader = Consumer(
        {"bootstrap.servers": broker.access.servers, "group.id": "reader", "isolation.level": "read_committed"}
    )
    reader.assign([Place(name, 0, 0)])
    found: dict[bytes, list[bytes]] = defaultdict(list)
    for message in reader.consume(1_000, 30):
        found[message.key() or b""].append(message.value() or b"")
    reader.close()
    assert found == expected[name]


def many(count: int) -> list[dict[str, Any]]:
    return [{"code": str(i), "name": "穗", "at": i} for i in range(count)]


def times(bootstrap: str, data: Dataset) -> list[int]:
    schema = avro_schema(data)
    writers = {schema_fingerprint(schema): schema}
    return [decode(r.value, writers, schema)["at"] for r in committed(bootstrap, data.topic(DISTRICT))]


@pytest.mark.parametrize("killed", [False, True])
def test_rows_are_sent_once_while_more_are_accepted_also_when_the_sender_is_killed(
    broker: Any, tmp_path: Path, killed: bool
) -> None:
    data = dataset()
    Kafka(broker.access).ensure([data.topic(DISTRICT)], 1, 1)
    lease = Lease(tmp_path / "o.lock")
    with Publisher(data, DISTRICT, tmp_path / "o", broker.access.servers) as node:
        for row in many(8_000):
            node.publish(row)
        until = time.monotonic() + 60
        while node.outbox.waiting() > 6_000 and time.monotonic() < until:
            time.sleep(0.02)
        assert node.outbox.waiting() <= 6_000  # some were sent
        sender = lease.holder()  # the background sender holds it while more rows may be accepted
        assert sender
        if killed:
            os.kill(sender.pid, signal.SIGKILL)
        info = node.send()
        assert lease.holder() is None, "the sender ends when all is sent"
        assert info.waiting == 0
        assert info.sent == 8_000 or (killed and info.sent <= 8_000)
    assert times(broker.access.servers, data) == list(range(8_000))


ACCEPTING = """
import sys
import time
from producers.publish.publisher import Publisher
from tests.integration.producers.test_publish import DISTRICT, dataset, many
node = Publisher(dataset(sys.argv[1]), DISTRICT, sys.argv[2], sys.argv[3])
for row in many(4_000):
    node.publish(row)
print("accepted", flush=True)
time.sleep(600)
"""


def test_the_background_sender_ends_with_its_parent_and_the_next_one_continues(broker: Any, tmp_path: Path) -> None:
    data = dataset()
    Kafka(broker.access).ensure([data.topic(DISTRICT)], 1, 1)
    lease = Lease(tmp_path / "o.lock")  # the sender holds it while more rows may be accepted
    arguments = [data.name, str(tmp_path / "o"), broker.access.servers]
    with subprocess.Popen([sys.executable, "-c", ACCEPTING, *arguments], stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == b"accepted\n"
        wait_until(lambda: lease.holder() is not None)
        holder = lease.holder()
        assert holder is not None
        assert holder.pid != parent.pid
        parent.kill()
    wait_until(lambda: lease.holder() is None)
    assert flush(tmp_path / "o", broker.access).waiting == 0
    assert times(broker.access.servers, data) == list(range(4_000))


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_the_background_sender_reports_that_the_bus_does_not_answer_and_rows_are_kept(
    broker: Any, tmp_path: Path
) -> None:
    data = dataset()
    node = Publisher(data, DISTRICT, tmp_path / "o", "127.0.0.1:1", timeout=0.5)
    for row in many(4_000):
        node.publish(row)
    with pytest.raises(UnavailableError, match="4000 rows wait") as caught:
        node.close()
    assert "suibus flush --district" in caught.value.zh
    Kafka(broker.access).ensure([data.topic(DISTRICT)], 1, 1)
    assert flush(tmp_path / "o", broker.access).sent == 4_000


def test_failed_publish_leaves_no_sender_behind(tmp_path: Path) -> None:
    node, lease = Publisher(dataset(), DISTRICT, tmp_path / "o", "127.0.0.1:1"), Lease(tmp_path / "o.lock")

    def fail() -> None:
        with node:
            for row in many(2_000):
                node.publish(row)
            wait_until(lambda: lease.holder() is not None)
            sender = lease.holder()
            assert sender
            running.append(sender.pid)
            raise ZeroDivisionError

    running: list[int] = []
    with pytest.raises(ZeroDivisionError):
        fail()
    with pytest.raises(ProcessLookupError):
        os.kill(running[0], 0)


PUBLISHING = """
import sys
from pathlib import Path
import producers.send.sender as sender
from producers.publish.delivery import publish_source
from producers.publish.publisher import Publisher
from producers.sources.files import open_source
from tests.integration.producers.test_publish import DISTRICT, dataset
sender.ROWS = 500
data = dataset(sys.argv[1])
node = Publisher(data, DISTRICT, sys.argv[2], sys.argv[3])
print("begins", flush=True)
info = publish_source(node, open_source(sys.argv[4], data))
Path(sys.argv[5]).write_text(f"{info.read} {info.accepted} {info.rejected} {info.waiting}")
"""


def test_killed_publish_run_again_publishes_each_row_once(broker: Any, tmp_path: Path) -> None:
    data = dataset()
    Kafka(broker.access).ensure([data.topic(DISTRICT)], 2, 1)
    file, done = tmp_path / "in.csv", tmp_path / "done"
    total = 20_000
    rows = (f"{i},x,{'bad' if i % 100 == 0 else i}\n" for i in range(total))
    file.write_text("code,name,at\n" + "".join(rows))
    arguments = [data.name, str(tmp_path / "o"), broker.access.servers, str(file), str(done)]
    dice = random.Random(7)
    kills = 0
    while not done.exists():
        with subprocess.Popen([sys.executable, "-c", PUBLISHING, *arguments], cwd=ROOT, stdout=subprocess.PIPE) as node:
            assert node.stdout
            assert node.stdout.readline() == b"begins\n"
            try:
                node.wait(dice.uniform(0.05, 0.5) * 1.3**kills)
            except subprocess.TimeoutExpired:
                node.kill()
                kills += 1
    assert done.read_text() == f"{total} {total * 99 // 100} {total // 100} 0"
    assert sorted(times(broker.access.servers, data)) == [i for i in range(total) if i % 100]
    assert len((tmp_path / "in.rejects.csv").read_text("utf-8-sig").splitlines()) == total // 100 + 1
    assert kills


def test_publisher_sends_rows_and_deletions(broker: Any, tmp_path: Path) -> None:
    data = dataset()
    Kafka(broker.access).ensure([data.topic(DISTRICT)], 1, 1)
    with Publisher(data, DISTRICT, tmp_path / "o", broker.access.servers) as node:
        node.publish({"code": "1", "name": "a", "at": 5})
        node.delete({"code": "1", "at": 6})
    first, second = committed(broker.access.servers, data.topic(DISTRICT))
    assert first.key == second.key == b'{"code":"1"}'
    assert (second.value, list(second.headers)) == (None, [("sequence", b"6")])


def test_progress_is_reported_up_to_the_end(broker: Any, tmp_path: Path) -> None:
    data = dataset()
    Kafka(broker.access).ensure([data.topic(DISTRICT)], 1, 1)
    file = tmp_path / "in.csv"
    file.write_text("code,name,at\n" + "".join(f"{i},x,{i}\n" for i in range(12_000)))
    seen: list[Any] = []
    node = Publisher(data, DISTRICT, tmp_path / "o", broker.access.servers)
    info = publish_source(node, open_source(file, data), progress=seen.append)
    node.outbox.close()
    assert (info.exit_status, info.sent, info.waiting) == (0, 12_000, 0)
    assert seen[-1].read == seen[-1].sent == 12_000
    assert [p.fraction for p in seen] == sorted(p.fraction for p in seen)
    assert seen[-1].fraction == 1.0
