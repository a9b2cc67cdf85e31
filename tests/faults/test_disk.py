"""A disk that is really full, under the outbox, the lake or the broker: nothing accepted is lost, and work continues once there is space."""

from __future__ import annotations

import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from infra.bus.bus import Bus
from infra.kafka.broker import Broker
from infra.kafka.topics import Kafka
from infra.settings import Settings
from tests.faults.node import DISTRICT, Node, check_delivered
from tests.integration.conftest import Road


class Disk:
    """A small file system of its own, in memory."""

    def __init__(self, folder: Path, size: str) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "suibus", str(folder)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            pytest.skip(
                f"no file system can be mounted here ({done.stderr.strip()}): run as root, or in `unshare -Urm`"
            )

    def fill(self, leave: int = 0) -> None:
        """Use up all space except `leave` bytes."""
        self.free()
        free = shutil.disk_usage(self.folder).free
        with suppress(OSError), (self.folder / "ballast").open("wb", buffering=0) as ballast:
            for size in (1 << 16, 1 << 12, 1):
                while ballast.tell() + size <= free - leave:
                    ballast.write(b"\0" * size)

    def free(self) -> None:
        """Free the space that `fill` used."""
        (self.folder / "ballast").unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount the file system."""
        subprocess.run(["umount", "-l", str(self.folder)], check=False)


@pytest.fixture
def disks() -> Iterator[list[Disk]]:
    """The file systems that a test has mounted."""
    made: list[Disk] = []
    yield made
    for disk in made:
        disk.close()


def _name() -> str:
    return f"disk_{uuid.uuid4().hex[:8]}"


def test_an_outbox_on_a_full_disk_says_so_keeps_accepted_rows_and_continues_once_there_is_space(
    broker: Broker, tmp_path: Path, disks: list[Disk]
) -> None:
    rows, keys = 60_000, 700
    disks.append(disk := Disk(tmp_path / "home", "64m"))
    node = Node(disk.folder, tmp_path, _name(), SUIBUS_BOOTSTRAP_SERVERS=broker.access.servers)
    Kafka(broker.access).ensure([node.topic])
    path = node.rows(rows, keys)

    disk.fill()
    said = node.publish(path, status=(2, 3))  # no space even to create an outbox
    assert "not an outbox" not in said, said
    assert "disk" in said.lower()

    disk.fill(leave=3 << 20)
    said = node.publish(path, status=(2, 3))
    assert "cannot be written (database or disk is full)" in said, said
    assert "continues where it stopped" in said
    assert "将从中断处继续" in said

    disk.free()
    said = node.publish(path)
    assert "An interrupted publish of this file had read" in said
    check_delivered(broker.access.servers, node, rows, keys)


def test_a_lake_on_a_full_disk_stops_the_dataset_by_name_and_a_pass_with_space_takes_everything(
    broker: Broker, spark: Any, tmp_path: Path, disks: list[Disk]
) -> None:
    disks.append(disk := Disk(tmp_path / "lake", "64m"))
    settings = Settings(home=tmp_path / "home", lake=str(disk.folder), bootstrap_servers=broker.access.servers)
    road = Road(Bus(settings), _name())
    road.publish({"id": "a", "seq": 1})
    road.sync()
    failed = []
    for number, leave in enumerate((0, 12 << 10, 24 << 10, 48 << 10, 96 << 10), 2):  # each fails at a later hop
        road.publish({"id": "a", "seq": number, "amount": number}, {"id": f"b{number}", "seq": 1})
        disk.fill(leave)
        info = road.bus.sync()
        failed.append(info.failures)
    assert list(failed[0]) == [road.dataset.id], failed
    reasons = [reason for found in failed for reason in found.values()]
    assert all("No space left on device" in reason for reason in reasons), reasons
    assert all("Free some space" in reason or "Check the lake and its disk" in reason for reason in reasons), reasons
    disk.free()
    road.sync()
    assert [(r["id"], r["amount"]) for r in road.query("SELECT * FROM t ORDER BY id")] == [
        ("a", 6), ("b2", 0), ("b3", 0), ("b4", 0), ("b5", 0), ("b6", 0),
    ]  # fmt: skip
    account = road.account()[DISTRICT]
    assert (account["received"], account["inserted"], account["quarantined"]) == (11, 6, 0)


def test_a_broker_on_a_full_disk_is_reported_and_loses_no_acknowledged_record(
    tmp_path: Path, disks: list[Disk]
) -> None:
    disks.append(disk := Disk(tmp_path / "home" / "kafka", "192m"))
    node = Node(tmp_path / "home", tmp_path, _name())
    keys = 90
    log = tmp_path / "up.log"
    with log.open("wb") as out:
        up = subprocess.Popen(
            [*_command(), "up", "--services-only"],
            env=node.environment,
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
        )
    try:
        _await(log, "ready")
        node.publish(node.rows(1_000, keys))
        disk.fill(leave=100 << 10)
        said = node.publish(node.rows(40_000, keys, start=1_000), "--timeout", "15", status=3)
        assert "kept" in said, said
        _await(log, "embedded broker ended", "Kafka had stopped", "gave no answer", "did not take anything")
        disk.free()
        until = time.monotonic() + 150
        while node.start("flush", "--district", DISTRICT, "--timeout", "20").wait() and time.monotonic() < until:
            time.sleep(1)
        check_delivered(Broker(Settings(home=node.home)).access.servers, node, 41_000, keys)
    finally:
        up.terminate()
        up.wait(60)
        Broker(Settings(home=node.home)).stop()


def _command() -> list[str]:
    import sys

    return [sys.executable, "-m", "infra.cli"]


def _await(log: Path, *texts: str) -> None:
    until = time.monotonic() + 120
    while not any(text in log.read_text("utf-8") for text in texts):
        assert time.monotonic() < until, f"none of {texts} in:\n{log.read_text('utf-8')[-3000:]}"
        time.sleep(0.3)
