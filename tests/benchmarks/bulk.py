"""Millions of rows: made by Spark in bronze's schema, appended to bronze as ingest does, and merged by the product."""

from __future__ import annotations

import time
from typing import Any, cast

from pyspark.sql import DataFrame

from pipelines.lake.commit_notes import Note, dump_note
from pipelines.lake.lake import Lake
from pipelines.lake.table import Table
from pipelines.lake.table_schemas import bronze_schema
from pipelines.merge.account import account_pending
from pipelines.merge.merge import merge_pending
from schemas.dataset import Dataset
from tests.benchmarks.data import sql_values

DISTRICTS = ("440103", "440104", "440105", "440106")  # a key belongs to the district of its number's remainder
PARTITION = 1  # named in these rows, which do not go over Kafka; real records are in partition 0


class Bulk:
    """One dataset in one lake, filled without Kafka. Appended rows are newer than all rows before."""

    def __init__(self, dataset: Dataset, lake: Lake) -> None:
        self.dataset, self.lake = dataset, lake
        self.sequence = self.keys = self._offset = 0  # so far

    def append(self, new: int = 0, newest: int = 0, random: int = 0, note: Note | None = None) -> int:
        """Commit to bronze `new` keys, and changes of the `newest` keys and of `random` keys; returns the version."""
        bronze, spark = self.lake.bronze(self.dataset), cast(Any, self.lake.spark)
        self.sequence += 1
        n = (
            f"CASE WHEN id < {new} THEN {self.keys} + id WHEN id < {new + newest} THEN {self.keys + new - 1} - id "
            f"ELSE pmod(xxhash64(id, {self.sequence}), {max(self.keys, 1)}) END AS n"
        )
        numbers = spark.range(0, new + newest + random, 1, spark.sparkContext.defaultParallelism)
        # Java compiles no method above 8,000 bytes: wide rows made in one method would be interpreted, three times as slow.
        limit = "spark.sql.codegen.hugeMethodLimit"
        before = spark.conf.get(limit)
        spark.conf.set(limit, "8000")
        try:
            (
                self._rows(numbers.selectExpr(n, f"{self._offset} + id AS at"))
                .write.format("delta")
                .mode("append")
                .option("txnAppId", "ingest")
                .option("txnVersion", bronze.transaction("ingest") + 1)
                .option("userMetadata", dump_note(note) if note else "")
                .save(bronze.address)
            )
        finally:
            spark.conf.set(limit, before)
        self.keys, self._offset = self.keys + new, self._offset + new + newest + random
        return bronze.version

    def _rows(self, numbers: DataFrame) -> DataFrame:
        place = f"int(pmod(n, {len(DISTRICTS)})) + 1"
        district, topic = (
            f"element_at(array({', '.join(map(repr, names))}), {place})"
            for names in (DISTRICTS, map(self.dataset.topic, DISTRICTS))
        )
        seen = numbers.selectExpr("n", "at", f"{self.sequence}L AS seq", f"{district} AS district", f"{topic} AS topic")
        values = sql_values(self.dataset)
        made = {
            "_quarantined": "false", "_topic": "topic", "_partition": str(PARTITION), "_offset": "at",
            "_timestamp": "timestamp_millis(1767225600000 + at)", "_district": "district", "_key": values[self.dataset.key[0]],
            "_deleted": "false", "_writer": f"'{'0' * 16}'", "_sequence": "seq", **values,
        }  # fmt: skip
        schema = bronze_schema(self.dataset)
        return seen.selectExpr(
            *(f"CAST({made.get(f.name, 'NULL')} AS {f.dataType.simpleString()}) AS `{f.name}`" for f in schema)
        )

    def merge(self) -> float:
        """Seconds of the product's merge and account of all waiting rows."""
        began = time.perf_counter()
        info = merge_pending(self.dataset, self.lake)
        account_pending(self.dataset, self.lake)
        took = time.perf_counter() - began
        assert info, "nothing waited"
        return took

    def fill(self, rows: int, at_once: int) -> None:
        """Append and merge keys, `at_once` at a time, until there are `rows`."""
        while self.keys < rows:
            count = min(at_once, rows - self.keys)
            began = time.perf_counter()
            self.append(count)
            appended, merged = time.perf_counter() - began, self.merge()
            say(f"{self.dataset.name}: {self.keys:,} rows; {count:,} in {appended:.1f} s, merged in {merged:.1f} s")


def live(table: Table) -> tuple[int, int]:
    """Files and bytes of a table's newest version."""
    (found,) = table.spark.sql(f"DESCRIBE DETAIL delta.`{table.address}`").select("numFiles", "sizeInBytes").collect()
    return int(found[0]), int(found[1])


def say(line: str) -> None:
    """A line of progress, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)
