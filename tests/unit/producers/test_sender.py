"""Each row reaches the bus once and in order, whatever fails; tested with the bus in memory."""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import get_args

import pytest
from kafka.partitioner import murmur2

from producers.encoded_row import EncodedRow
from producers.outbox import Outbox
from producers.send.kafka_python import KafkaPython
from producers.send.librdkafka import Librdkafka
from producers.send.memory import Fault, MemoryBus
from producers.send.sender import flush
from producers.send.transport import Connect, Identity, Transport, TransportError
from schemas.errors import UnavailableError
from schemas.ports.kafka_access import KafkaAccess
from schemas.ports.lease import Lease
from tests.unit.producers.publishing import TOPIC, KilledError, Step, changed, killed_after, killed_before

OTHER = "gz.up.440106.u.v1"
ROWS = 200
KEYS = 10


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An outbox with rows of two topics and few keys, numbered in the order of acceptance."""
    with Outbox(tmp_path / "o.sqlite") as outbox:
        for start in range(0, ROWS, 50):
            for topic in (TOPIC, OTHER):
                outbox.accept(topic, [EncodedRow(b"k%d" % (i % KEYS), b"%d" % i) for i in range(start, start + 50)])
    return tmp_path / "o.sqlite"


def send(path: Path, connect: Connect, timeout: float = 0.0) -> int:
    return flush(path, "memory", timeout, transport=connect).sent


def check_each_row_is_there_once_and_in_order(bus: MemoryBus) -> None:
    for topic in (TOPIC, OTHER):
        found: dict[bytes, list[int]] = defaultdict(list)
        for record in bus.records(topic):
            found[record.key].append(int(record.value or b""))
        assert found == {b"k%d" % k: list(range(k, ROWS, KEYS)) for k in range(KEYS)}


@pytest.mark.parametrize("partitions", [1, 5])
def test_rows_arrive_with_their_headers_and_times_each_key_in_its_partition(tmp_path: Path, partitions: int) -> None:
    bus = MemoryBus(partitions=partitions)
    keys = [f'{{"code":"穗{i}"}}'.encode() for i in range(20)]
    with Outbox(tmp_path / "o") as outbox:
        outbox.accept(TOPIC, [EncodedRow(key, b"v", b"7") for key in keys])
        outbox.accept(TOPIC, [EncodedRow(keys[0], None, b"8"), EncodedRow(keys[1], b"w", answers="r")])
        stamps = {(row.key, row.value): row.timestamp_ms for row in outbox.next_rows(99, 9_999)}
    assert send(tmp_path / "o", bus.connect) == 22
    found = bus.records(TOPIC)
    assert {(r.key, r.value): r.timestamp_ms for r in found} == stamps
    assert {r.key: r.partition for r in found} == {key: (murmur2(key) & 0x7FFFFFFF) % partitions for key in keys}
    headers = {r.value: r.headers for r in found}
    assert headers == {b"v": (), None: (("sequence", b"8"),), b"w": (("answers", b"r"),)}


@pytest.mark.parametrize("killed", [killed_before, killed_after])
@pytest.mark.parametrize("step", ["open", "begin", "produce", "add_position", "commit", "close"])
def test_rows_of_a_sender_killed_at_any_step_are_sent_once(
    path: Path, killed: Callable[[Step], Step], step: str
) -> None:
    bus = MemoryBus()
    with pytest.raises(KilledError):
        send(path, changed(bus.connect, step, killed))
    send(path, bus.connect)
    check_each_row_is_there_once_and_in_order(bus)


@pytest.mark.parametrize("fault", get_args(Fault))
def test_rows_are_kept_through_every_fault_and_sent_once_when_it_is_over(path: Path, fault: Fault) -> None:
    bus = MemoryBus(fault)
    with pytest.raises(UnavailableError, match=f"{2 * ROWS} rows wait") as caught:
        send(path, bus.connect)
    assert f"{2 * ROWS} 行" in caught.value.zh
    assert "suibus flush --district 440106" in caught.value.zh
    bus.faults = set()
    send(path, bus.connect)
    with Outbox(path) as outbox:
        assert outbox.waiting() == 0
    check_each_row_is_there_once_and_in_order(bus)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("away", "did not take anything"),
        ("no such topic", f"Topic {TOPIC} is not on the broker"),
        ("not allowed", f"does not let this node write {TOPIC}"),
        ("credentials refused", "refuses the credentials"),
        ("commit fails", "did not take anything"),
    ],
)
def test_the_cause_that_keeps_rows_waiting_is_reported(path: Path, fault: Fault, says: str) -> None:
    with pytest.raises(UnavailableError, match=says):
        send(path, MemoryBus(fault).connect)


@pytest.mark.parametrize("fault", ["away", "no such topic", "commit fails"])
def test_a_flush_waits_for_a_fault_that_ends_in_time(path: Path, fault: Fault) -> None:
    bus = MemoryBus(fault)
    over = threading.Timer(0.5, bus.faults.clear)
    over.start()
    assert send(path, bus.connect, timeout=60) == 2 * ROWS
    over.join()
    check_each_row_is_there_once_and_in_order(bus)


def test_commit_whose_answer_is_lost_is_found_by_the_next_connection(path: Path) -> None:
    bus = MemoryBus("commit is not answered")
    assert send(path, bus.connect, timeout=60) == 2 * ROWS
    check_each_row_is_there_once_and_in_order(bus)


def test_connection_that_was_replaced_commits_nothing_more(tmp_path: Path) -> None:
    """However the threads take turns: what the newer connection does not find committed never comes."""
    with Outbox(tmp_path / "o") as outbox:
        outbox.accept(TOPIC, [EncodedRow(b"k", b"v")])
        rows, identity = outbox.next_rows(9, 99), Identity.of(outbox)

    def commit(connection: Transport) -> None:
        with suppress(TransportError):
            connection.commit()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(500):
            bus = MemoryBus()
            old, new = (bus.connect(KafkaAccess("memory"), identity, 1.0) for _ in range(2))
            old.open()
            old.begin()
            old.produce(rows)
            old.add_position(rows, "name")
            thread = threading.Thread(target=commit, args=(old,))
            thread.start()
            new.open()
            committed = new.committed("name") is not None
            thread.join()
            assert len(bus.records(TOPIC)) == committed
    finally:
        sys.setswitchinterval(before)


@pytest.mark.parametrize("fault", ["not allowed", "credentials refused"])
def test_a_flush_does_not_wait_after_a_refusal(path: Path, fault: Fault) -> None:
    began = time.monotonic()
    with pytest.raises(UnavailableError):
        send(path, MemoryBus(fault).connect, timeout=60)
    assert time.monotonic() - began < 30


def test_senders_of_one_outbox_take_turns(path: Path) -> None:
    bus, sent = MemoryBus(), []
    threads = [threading.Thread(target=lambda: sent.append(send(path, bus.connect, timeout=60))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(sent) == 2 * ROWS
    check_each_row_is_there_once_and_in_order(bus)


def test_another_sender_that_makes_no_progress_is_named(path: Path) -> None:
    with (
        Lease(Path(f"{path}.lock")).hold(),
        pytest.raises(UnavailableError, match=r"Process \d+ is sending .* but makes no progress") as caught,
    ):
        send(path, MemoryBus().connect)
    assert "没有进展" in caught.value.zh


def test_outbox_put_back_from_a_backup_loses_nothing(tmp_path: Path) -> None:
    bus, path = MemoryBus(), tmp_path / "o"
    Outbox(path).close()
    backup = path.read_bytes()
    with Outbox(path) as outbox:
        outbox.accept(TOPIC, [EncodedRow(b"old", b"%d" % i) for i in range(10)])
    send(path, bus.connect)
    for part in tmp_path.glob("o*"):
        part.unlink()
    path.write_bytes(backup)
    with Outbox(path) as outbox:
        outbox.accept(TOPIC, [EncodedRow(b"new", b"after the backup")])
        outbox.begin_attempt()  # killed before it sent
    assert send(path, bus.connect) == 1
    assert [record.value for record in bus.records(TOPIC) if record.key == b"new"] == [b"after the backup"]


def test_every_sender_of_an_outbox_uses_the_names_of_that_outbox(tmp_path: Path) -> None:
    with Outbox(tmp_path / "o") as outbox:
        outbox.accept(TOPIC, [EncodedRow(b"k", b"v")])
        first = Identity.of(outbox)
        outbox.accept("gz.up.440103.t.v1", [EncodedRow(b"k", b"v")])
    with Outbox(tmp_path / "o") as outbox:
        assert Identity.of(outbox) == first == (
            f"suibus.440106.{outbox.uuid}", f"suibus.440106.outbox.{outbox.uuid}",
        )  # fmt: skip


def test_nothing_waiting_needs_no_bus(tmp_path: Path) -> None:
    assert send(tmp_path / "o", MemoryBus("away").connect) == 0


@pytest.mark.parametrize("transport", [KafkaPython, Librdkafka])
def test_transport_that_was_never_open_is_abandoned_without_error(transport: type[Transport]) -> None:
    made: Connect = transport
    made(KafkaAccess("127.0.0.1:1"), Identity("a", "b"), 1.0).abandon()
