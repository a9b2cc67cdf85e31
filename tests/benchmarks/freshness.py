"""How old a record is when a department can first query it, while one district publishes 1,000 records a second.

The bus is a process of its own (`suibus up`). A node's outbox takes 200 rows every 0.2 s, each with its time, and a thread of the
node sends them. A record can be queried from the commit of the first release that holds it: that time is the time of the commit's
file. Which records a release holds is read from the version it names, after the load, so that measuring slows nothing down.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from unittest.mock import patch

from pyspark.sql import functions as F

from infra.bus.bus import Bus
from infra.bus.status import read_status
from infra.settings import Settings
from infra.up.process import start_in_background, stop
from pipelines.release.release import shared_rows
from pipelines.share.query import query
from producers.publish.publisher import Publisher
from producers.send.sender import flush
from schemas.progress_messages import quiet
from tests.benchmarks.data import contract, contract_text, rows
from tests.benchmarks.rows import Curve, Row

NAME, DISTRICT, COLUMNS = "permit", "440106", 12
A_SECOND, EVERY = 1_000, 0.2
KEYS = 30_000  # after the first round each record is a change of one of these keys
LOAD, QUICK_LOAD = 180, 12  # seconds
WARM, QUICK_WARM = 3, 1  # passes before the load


class Node:
    """A district's publisher as on another machine: its outbox is filled at a steady pace and sent by a thread."""

    def __init__(self, bus: Bus, path: Path) -> None:
        self.publisher = Publisher(contract(NAME, COLUMNS), DISTRICT, path, bus.access.servers)
        self.accepted: list[float] = []  # the time at which each record was accepted, by its sequence
        self._done, self._bus = threading.Event(), bus
        self._sender = threading.Thread(target=self._send, name="node")
        self._sender.start()

    def _send(self) -> None:
        while not self._done.wait(0.01):
            flush(self.publisher.outbox.path, self._bus.access)
        flush(self.publisher.outbox.path, self._bus.access)

    def accept(self, count: int) -> None:
        """Accept `count` more records in one transaction."""
        first = len(self.accepted)
        for row in rows(self.publisher.dataset, count, DISTRICT, 1, first):
            self.publisher.publish({**row, "id": f"{DISTRICT}-{row['seq'] % KEYS:010d}"})
        self.publisher.accept()
        self.accepted += [time.time()] * count

    def steadily(self, seconds: float) -> float:
        """Accept records at the pace; returns how many per second it was."""
        began, count = time.monotonic(), int(A_SECOND * EVERY)
        for beat in range(round(seconds / EVERY)):
            time.sleep(max(0.0, began + beat * EVERY - time.monotonic()))
            self.accept(count)
        return round(seconds / EVERY) * count / (time.monotonic() - began)

    def close(self) -> None:
        """End the sender after all is sent."""
        self._done.set()
        self._sender.join()
        self.publisher.outbox.close()


def released(bus: Bus, until: int, timeout: float = 300) -> None:
    """Wait until `until` records are released: nothing waits, and the last release has a row for each of their keys."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        found = read_status(bus).to_json()["datasets"]
        mine = next((d for d in found if d["dataset"] == NAME), None)
        last = mine["last_decision"] if mine and not mine["offsets_waiting"] else None
        if last and last["rows"] >= min(KEYS, until):
            return
        time.sleep(0.5)
    raise AssertionError(f"{until} records were not released in {timeout} s: {read_status(bus).to_json()['datasets']}")


def seen(bus: Bus) -> list[tuple[float, int]]:
    """For each release its time and the last sequence that it holds."""
    lake = bus.lake()
    releases, found = lake.releases(), []
    for number in range(1, releases.version + 1):
        file = Path(releases.address) / "_delta_log" / f"{number:020}.json"
        if releases.commit(number).own:
            found.append(file.stat().st_mtime)
    records = releases.read().where("status = 'released'").orderBy("release").collect()
    assert len(records) == len(found), (len(records), len(found))  # one dataset: a commit is a release
    dataset = contract(NAME, COLUMNS)
    last = [shared_rows(lake, dataset, r["silver_version"]).agg(F.max("seq")).collect()[0][0] for r in records]
    return list(zip(found, last, strict=True))


def run(quick: bool) -> Iterator[Row | Curve]:
    """Warm up, publish under load, then read when each record became visible."""
    with TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        (Path(folder) / "contracts").mkdir()
        (Path(folder) / "contracts" / f"{NAME}.yaml").write_text(contract_text(NAME, COLUMNS), "utf-8")
        bus = Bus(Settings(home=home, contracts=f"{folder}/contracts"))
        with patch.dict(os.environ, {"SUIBUS_CONTRACTS": f"{folder}/contracts"}):
            start_in_background(bus, quiet)
        try:
            node = Node(bus, Path(folder) / "outbox.sqlite")
            for _ in range(QUICK_WARM if quick else WARM):
                node.accept(1_000)
                time.sleep(2)
                released(bus, len(node.accepted))
            warm = len(node.accepted)
            pace = node.steadily(QUICK_LOAD if quick else LOAD)
            time.sleep(1)
            node.close()
            released(bus, len(node.accepted))
        finally:
            stop(bus)
        yield from _told(bus, node.accepted, warm, pace)


def _told(bus: Bus, accepted: list[float], warm: int, pace: float) -> Iterator[Row | Curve]:
    releases, ages, at = seen(bus), [], warm
    for moment, last in releases:  # for each record the first release that holds it
        ages += [moment - accepted[i] for i in range(at, last)]
        at = max(at, last)
    assert len(ages) == len(accepted) - warm, (len(ages), len(accepted))
    (count,) = query(f"SELECT count(*) FROM {NAME}", bus.lake(), bus.store, "traffic").collect()[0]
    assert count == min(KEYS, len(accepted)), count
    cuts = quantiles(ages, n=100)
    passes = [b[0] - a[0] for a, b in pairwise(releases) if b[1] > warm]
    title = f"published → visible, {pace:,.0f} records/s steady, one dataset"
    note = (
        f"{len(ages):,} records; a release every {sum(passes) / len(passes):.1f} s. Accepted in the node's outbox (synced) → the "
        "commit of the first release that holds it. Broker, pipeline and publisher share the machine. The limit is the target."
    )
    for name, cut, limit in (("p50", cuts[49], 5.0), ("p95", cuts[94], 10.0)):
        yield Row(f"freshness.{name}", f"{title}: {name}", [cut], "s", "lower", 1.0, limit=limit, note=note)
    yield Row("freshness.max", f"{title}: the oldest", [max(ages)], "s", "lower", None, note=note)
    beats = range(0, len(ages), A_SECOND)
    yield Curve(
        "freshness", title, "seconds of load", "age when visible, s",
        [accepted[warm + i] - accepted[warm] for i in beats], {"oldest of a second": [max(ages[i : i + A_SECOND]) for i in beats]},
    )  # fmt: skip
