"""Changes of a large table: the product's merge and account, compared with a textbook foreachBatch MERGE and with delta-rs.

The tables hold the same rows and get the same changes, batch by batch, in turns. Rows are made by Spark and appended to bronze
without Kafka; silver is filled by the product's own merge, so it has the product's layout of files.
"""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import deltalake
from delta.tables import DeltaTable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from infra.jvm.spark import spark_session
from infra.settings import Settings
from pipelines.lake.lake import Lake
from pipelines.lake.table import Table
from tests.benchmarks.bulk import Bulk, live, say
from tests.benchmarks.data import contract
from tests.benchmarks.rows import Row, in_turns

ROWS, BACKLOG = 10_000_000, 1_000_000
RECENT = (1_000_000, 50_000_000)  # not in the quick run: at its size both would be one file
QUICK_ROWS, QUICK_BACKLOG = 100_000, 50_000
CHANGES = 20_000
COLUMNS, RECENT_COLUMNS = 12, 6
AT_ONCE = 5_000_000  # rows of one commit and one merge while a table is filled
RUNS, RECENT_RUNS = 3, 5
OURS = (
    "ours: merge_pending and account_pending of one bronze commit: of each key the latest in a total order, tombstones kept, "
    "each row's fate, the account of every record by district, all in transactions that a kill cannot part"
)
MANY = 100_000  # changes a second that a backlog must reach


class Sides:
    """The product's lake, the textbook's table and delta-rs's table, and the batches of changes that all three get."""

    def __init__(self, bulk: Bulk, folder: str) -> None:
        self.bulk, self.lake = bulk, bulk.lake
        self.columns = [f.name for f in bulk.dataset.fields]
        self.textbook, self.rust = f"{folder}/textbook", f"{folder}/delta-rs"
        self._versions: list[int] = []  # of bronze: the batch of each turn
        self._turns = {"ours": 0, "textbook": 0, "rust": 0}
        bronze = self.lake.bronze(bulk.dataset).read()
        rows = bronze.where("NOT _quarantined").select(*self.columns)
        properties = {"delta.enableDeletionVectors": "true", "delta.autoOptimize.optimizeWrite": "true"}
        for path, wanted in ((self.textbook, properties), (self.rust, {"delta.enableDeletionVectors": "false"})):
            made = DeltaTable.create(self.lake.spark).location(path).addColumns(rows.schema)
            for key, value in wanted.items():
                made = made.property(key, value)
            made.execute()
            began = time.perf_counter()
            rows.write.format("delta").mode("append").save(path)
            took, (files, _) = time.perf_counter() - began, live(Table(self.lake.spark, path))
            say(f"{Path(path).name}: filled in {took:.1f} s, {files} files")

    def _batch(self, side: str) -> int:
        """The bronze version of this side's next batch; the first side to need it makes it."""
        turn = self._turns[side]
        self._turns[side] += 1
        if turn == len(self._versions):
            self._versions.append(self.bulk.append(new=CHANGES // 10, random=CHANGES - CHANGES // 10))
        return self._versions[turn]

    def _latest(self, version: int) -> DataFrame:
        changes = self.lake.spark.read.format("delta").option("readChangeFeed", "true")
        changes = changes.option("startingVersion", version).option("endingVersion", version)
        row, order = F.struct(*self.columns), F.struct("_sequence", "_offset")
        seen = changes.load(self.lake.bronze(self.bulk.dataset).address).where("NOT _quarantined")
        return seen.groupBy("id").agg(F.max_by(row, order).alias("row")).select("row.*")

    def ours(self) -> float:
        self._batch("ours")
        return self._told("ours", self.bulk.merge())

    def by_textbook(self) -> float:
        """The MERGE that Delta's documentation shows for foreachBatch, on the same commit of bronze."""
        version = self._batch("textbook")
        began = time.perf_counter()
        (
            DeltaTable.forPath(self.lake.spark, self.textbook)
            .alias("s")
            .merge(self._latest(version).alias("c"), "s.id = c.id")
            .whenMatchedUpdateAll(condition="c.seq > s.seq")
            .whenNotMatchedInsertAll()
            .execute()
        )
        return self._told("textbook", time.perf_counter() - began)

    def by_rust(self) -> float:
        """delta-rs, which gets the latest changes as an Arrow table in memory."""
        source = self._latest(self._batch("rust")).toArrow()
        gc.collect()
        began = time.perf_counter()
        (
            deltalake.DeltaTable(self.rust)
            .merge(source, predicate="s.id = c.id", source_alias="c", target_alias="s")
            .when_matched_update_all(predicate="c.seq > s.seq")
            .when_not_matched_insert_all()
            .execute()
        )
        return self._told("delta-rs", time.perf_counter() - began)

    def _told(self, side: str, took: float) -> float:
        say(f"{CHANGES:,} random changes, {side}: {took:.2f} s")
        return took

    def check(self) -> None:
        """The three tables hold the same rows in the end."""
        spark, silver = self.lake.spark, self.lake.silver(self.bulk.dataset).read().where("NOT _deleted")
        found = [
            frame.agg(F.count("*"), F.sum(F.pmod(F.xxhash64(*self.columns), F.lit(2**31)))).first()
            for frame in (silver, Table(spark, self.textbook).read(), Table(spark, self.rust).read())
        ]
        assert found[0] == found[1] == found[2], found


def run(quick: bool) -> Iterator[Row]:
    """Random changes compared with the peers, a backlog, and recent changes at two table sizes."""
    rows, backlog = (QUICK_ROWS, QUICK_BACKLOG) if quick else (ROWS, BACKLOG)
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        spark = spark_session(Settings(home=Path(folder)))
        lake = Lake(spark, f"{folder}/random", to_write=True)
        bulk = Bulk(contract("random", COLUMNS), lake)
        bulk.fill(rows, AT_ONCE)
        yield from _random(Sides(bulk, folder), rows, 2 if quick else RUNS)
        for path in (f"{folder}/textbook", f"{folder}/delta-rs"):
            shutil.rmtree(path)
        yield _backlog(bulk, rows, backlog, 1 if quick else RUNS)
        shutil.rmtree(lake.root)
        if not quick:
            yield from _recent(spark, folder)


def _random(sides: Sides, rows: int, runs: int) -> Iterator[Row]:
    for side in (sides.ours, sides.by_textbook, sides.by_rust):  # compiled, and the logs are read
        side()
    ours, textbook, rust = in_turns(runs, sides.ours, sides.by_textbook, sides.by_rust)
    sides.check()
    title = f"{CHANGES:,} random changes into {rows:,} rows"
    mixed = f"{COLUMNS} columns; nine changes of ten are of keys at random, one is a new key. {OURS}. "
    yield Row(
        "merge.random_10m.textbook", title, ours, "s", "lower", 0.5, textbook, "foreachBatch MERGE with deletion vectors",
        note=f"{mixed}peer: the same commit of bronze, max_by a key, MERGE (update if newer, insert) into a table with "
        "deletion vectors and optimized writes, in the same session (AQE, the same shuffle partitions); called as "
        "foreachBatch calls it, without a stream's own cost; no account, no tombstones, no fate",
    )  # fmt: skip
    yield Row(
        "merge.random_10m.delta_rs", title, ours, "s", "lower", 1.0, rust, f"delta-rs {deltalake.__version__} merge",
        note=f"{mixed}peer: the same changes, of each key already the latest, from an Arrow table in memory (ours reads "
        "bronze and finds the latest); copy-on-write, no account, no tombstones, no fate",
    )  # fmt: skip


def _backlog(bulk: Bulk, rows: int, backlog: int, runs: int) -> Row:
    rates = []
    for _ in range(runs):
        bulk.append(new=backlog // 10, random=backlog - backlog // 10)
        took = bulk.merge()
        say(f"{backlog:,} changes: {took:.2f} s")
        rates.append(backlog / took)
    return Row(
        "merge.backlog", f"a backlog of {backlog:,} changes into {rows:,} rows", rates, "changes/s", "higher", 1.0,
        limit=MANY, note=f"{COLUMNS} columns, one commit of bronze; nine changes of ten are of keys at random. {OURS}",
    )  # fmt: skip


def _recent(spark: Any, folder: str) -> Iterator[Row]:
    """Both tables are filled first, then measured in turns."""
    sides = []
    for size in RECENT:
        bulk = Bulk(contract(f"recent{size}", RECENT_COLUMNS), Lake(spark, f"{folder}/recent{size}", to_write=True))
        bulk.fill(size, AT_ONCE)
        sides.append(bulk)

    def merge(bulk: Bulk) -> float:
        bulk.append(new=CHANGES // 2, newest=CHANGES // 2)
        took = bulk.merge()
        say(f"{CHANGES:,} recent changes, {bulk.dataset.name}: {took:.2f} s")
        return took

    for bulk in sides:
        merge(bulk)
    small, large = in_turns(RECENT_RUNS, *(lambda b=bulk: merge(b) for bulk in sides))
    kind = (
        f"{RECENT_COLUMNS} columns, fewer than above for the time of filling; half of the changes are of the newest keys, "
        f"half are new keys. {OURS}"
    )
    yield Row(
        "merge.recent", f"{CHANGES:,} recent changes at {RECENT[1]:,} rows", large, "s", "lower", 1.2, small,
        f"ours at {RECENT[0]:,} rows", note=kind,
    )  # fmt: skip
    sides[1].append(new=CHANGES // 2, newest=CHANGES // 2)
    scheduler = spark.sparkContext._jsc.sc().dagScheduler()
    before = scheduler.numTotalJobs()  # of all threads
    sides[1].merge()
    jobs = scheduler.numTotalJobs() - before
    yield Row(
        "merge.jobs", f"Spark jobs of a merge and its account, at {RECENT[1]:,} rows", [jobs], "jobs", "lower", None
    )
