"""Many datasets in one pipeline process: a pass in which all have changes, the cost of a dataset without changes, and the memory.

Eleven districts per dataset. The changes are on the topics when the pass begins. On a running bus a record may also wait for the
pass before: a record is at most one minute old at its release if a pass takes half a minute.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from confluent_kafka import Producer

from infra.bus.bus import Bus
from infra.settings import Settings
from schemas.dataset import Dataset, receipts_topic
from schemas.districts import districts
from schemas.wire.encoder import Encoder
from tests.benchmarks.data import contract, rows
from tests.benchmarks.rows import Row, timed

DATASETS, QUICK = 100, 2
CHANGES, COLUMNS = 100, 8


class City:
    """One process of the pipeline and its datasets; a change is a new version of a row that its district has."""

    def __init__(self, bus: Bus) -> None:
        self.bus, self.datasets, self._rounds = bus, list[Dataset](), 0
        self._producer = Producer({"bootstrap.servers": bus.access.servers, "linger.ms": 20})

    def add(self, count: int) -> None:
        """Add datasets, in force and with their topics."""
        made = [contract(f"register{len(self.datasets) + i}", COLUMNS) for i in range(count)]
        for dataset in made:
            self.bus.store.register(dataset)
        self.bus.kafka.ensure([*(t for d in made for t in d.topics), *map(receipts_topic, districts())])
        self.datasets += made

    def change(self, datasets: Iterable[Dataset]) -> None:
        """Publish a hundred changes of each dataset, over all districts."""
        self._rounds += 1
        codes = list(districts())
        for dataset in datasets:
            encoder = Encoder(dataset)
            for i, code in enumerate(codes):
                count = CHANGES // len(codes) + (i < CHANGES % len(codes))
                for row in rows(dataset, count, code, self._rounds):
                    row["seq"] += self._rounds * CHANGES
                    self._producer.produce(dataset.topic(code), encoder.value(row), encoder.key(row))
        self._producer.flush()

    def run(self, datasets: Iterable[Dataset]) -> float:
        """Seconds of a pass after changes of these datasets; each must have a new release."""
        changed = list(datasets)
        self.change(changed)
        began = time.perf_counter()
        info = self.bus.sync(None if self._rounds == 1 else set())  # as `suibus up` does
        seconds = time.perf_counter() - began
        assert not info.failures, info.failures
        assert {r.dataset: r.status for r in info.releases} == {d.id: "released" for d in changed}
        return seconds


class Memory:
    """The peak memory of this process and those it started, without the broker."""

    def __init__(self) -> None:
        self.most, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(0.5):
            self.most = max(self.most, held())

    def end(self) -> float:
        """MiB."""
        self._done.set()
        self._thread.join()
        return self.most / 2**20


def held() -> int:
    """Bytes in memory of this process and its descendants."""
    parents, sizes = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:  # it has just ended
                continue
            parents[int(entry.name)], sizes[int(entry.name)] = (
                int(fields[1]),
                int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
            )
    mine = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return sum(sizes.get(pid, 0) for pid in mine)


def run(quick: bool) -> Iterator[Row]:
    """One dataset alone, one among idle ones, then all."""
    count, runs = (QUICK, 1) if quick else (DATASETS, 3)
    with TemporaryDirectory() as folder:
        bus = Bus(Settings(home=Path(folder)))
        bus.broker.start()
        try:
            city, memory = City(bus), None if quick else Memory()
            city.add(1)
            alone = [] if quick else [city.run(city.datasets) for _ in range(2 * runs)][runs:]
            city.add(count - 1)
            city.run(city.datasets)  # makes their tables
            among = [] if quick else [city.run(city.datasets[:1]) for _ in range(runs + 1)][1:]
            idle = [(a - b) / (count - 1) for a, b in zip(sorted(among), sorted(alone), strict=True)]
            nothing = [timed(lambda: bus.sync(set())) for _ in range(runs)]
            whole = [city.run(city.datasets) for _ in range(runs)]
            most = memory.end() if memory else 0.0
        finally:
            bus.broker.stop()
    what = f"{count} datasets × {len(districts())} districts"
    yield Row(
        "breadth.pass", f"a pass over {what}, {CHANGES} changes each", whole, "s", "lower", 1.0, limit=0.6 * count,
        note="Ingest, merge, account, gate and release of every dataset. The limit is 60 s for 100 datasets, in proportion for fewer.",
    )  # fmt: skip
    yield Row("breadth.nothing", f"a pass over {what} where nothing is new", nothing, "s", "lower", None)
    if quick:
        return  # two datasets do not show the cost of an idle one; all benchmarks share this process and its memory
    yield Row(
        "breadth.idle", f"what a dataset without changes adds to a pass, of {what}", idle, "s", "lower", None,
        note=f"One of {count} has {CHANGES} changes: the pass, less one where it is alone, by the others.",
    )  # fmt: skip
    yield Row(
        "breadth.memory", f"memory of the pipeline's process, {what}", [most], "MiB", "lower", None,
        note="Resident, Python and its JVM together, at most during all of this; the driver may take 2 GiB of heap.",
    )  # fmt: skip
