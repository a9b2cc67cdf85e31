"""A bus that does not answer: what a node does meanwhile, and what arrives when the bus is back.

`make away` runs the test with the number of rows that is promised, a million.
"""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from infra.bus.bus import Bus
from infra.kafka.topics import Kafka
from infra.settings import Settings
from tests.faults.node import DISTRICT, Node, check_delivered

_ROWS = os.environ.get("FAULTS_ROWS", "100000")  # not named SUIBUS_…: tests/conftest.py deletes those variables

# The peak of this process alone: getrusage includes the parent's, from before exec.
MEASURED = """
import re, sys
from infra.cli import main
try:
    main()
finally:
    print("peak", re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read()).group(1), flush=True)
"""
PEAK_MIB = 300
DISK_BYTES = 40  # a row in the outbox, beyond its key and value; SQLite's log included


def test_rows_published_while_the_bus_is_away_are_kept_in_bounded_memory_and_disk_and_delivered_in_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, keys = int(_ROWS), 30_000
    node = Node(tmp_path / "home", tmp_path, "away")
    path = node.rows(rows, keys)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, "publish", "away", str(path), "--district", DISTRICT, "--timeout", "1"],
        env=node.environment, capture_output=True, text=True, timeout=1500, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert f"accepted {rows:,}" in done.stdout
    assert f"({rows} rows wait)" in done.stderr
    assert "kept" in done.stderr
    assert "均已保留" in done.stderr
    peak = int(re.findall(r"peak (\d+)", done.stdout)[-1]) / 1024
    outbox = tmp_path / "home" / "nodes" / DISTRICT
    disk = sum(f.stat().st_size for f in outbox.iterdir()) / rows
    with closing(sqlite3.connect(outbox / "outbox.sqlite")) as waiting:
        ((content,),) = waiting.execute("SELECT avg(length(key) + length(value)) FROM outbox").fetchall()
    with capsys.disabled():
        print(
            f"\n{rows:,} rows, bus away: peak {peak:.0f} MiB, {disk:.0f} bytes a row on disk for {content:.0f} of content"
        )
    assert peak < PEAK_MIB
    assert disk < content + DISK_BYTES

    bus = Bus(Settings(home=tmp_path / "home", contracts=str(tmp_path / "contracts")))
    try:
        bus.broker.start()
        Kafka(bus.access).ensure([node.topic], partitions=2)
        assert "sent" in node.run("flush", "--district", DISTRICT)
        check_delivered(bus.access.servers, node, rows, keys)
    finally:
        bus.broker.stop()
