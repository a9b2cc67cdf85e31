"""Ingest to bronze, compared with the decode-and-append that a Spark user would write, of the same offsets; and the fixed cost of a tiny batch.

Both sides read the same topics in the same session, in turns, each into an existing table of its own. One record in a
thousand breaks a row rule. `Bare` strips the frame, decodes with `from_avro` and appends; it checks nothing.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from confluent_kafka import Producer
from delta.tables import DeltaTable
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.avro.functions import from_avro

from infra.bus.bus import Bus
from infra.settings import Settings
from pipelines.ingest.ingest import ingest_batch
from pipelines.ingest.read import FETCH
from pipelines.lake.lake import Lake
from schemas.contract import parse_contract
from schemas.dataset import Dataset
from schemas.wire.avro import FRAME, MAGIC, avro_schema, schema_fingerprint
from schemas.wire.encoder import Encoder
from tests.benchmarks.data import contract_text, rows
from tests.benchmarks.rows import Row, in_turns, jobs, timed

DISTRICTS = ("440103", "440104", "440105", "440106")  # a topic each
SHAPES = {12: 400_000, 68: 200_000}  # columns: records; 400,000 is the product's own batch
QUICK = {12: 40_000}  # a multiple of 4,000, so that each district has the same number of broken rules
BAD_EVERY = 1_000
TINY = 100
_RULES = {  # added to a column of `tests.benchmarks.data`, by its name
    "name": "logicalTypeOptions: {minLength: 2, maxLength: 60}",
    "capital": "logicalTypeOptions: {minimum: 0}",
    "address": "logicalTypeOptions: {maxLength: 100}",
    "status": "enum: [{value: 存续}, {value: 注销}, {value: 吊销}, {value: 迁出}]",
    "staff": "logicalTypeOptions: {minimum: 0, maximum: 100000}",
    "industry_code": "logicalTypeOptions: {pattern: '^[0-9]{4}$'}",
    "licence": "logicalTypeOptions: {pattern: '^[0-9A-Z]{18}$'}",
    "amount": 'quality: [{name: COLUMN_given, type: sql, query: "SELECT COUNT(*) FROM ${object} WHERE COLUMN < 0", mustBe: 0}]',
    "area": "logicalTypeOptions: {minimum: 0}",
    "visits": 'quality: [{name: COLUMN_fit, type: sql, query: "SELECT COUNT(*) FROM ${object} WHERE COLUMN + seq < 0", mustBe: 0}]',
    "remark": "logicalTypeOptions: {maxLength: 200}",
}


def ruled(name: str, columns: int) -> Dataset:
    """The contract of the benchmarks with a rule on two of three columns."""

    def rule(match: re.Match[str]) -> str:
        base = re.sub(r"_\d+$", "", match[1])
        return f"{match[0]}, {_RULES[base].replace('COLUMN', match[1])}" if base in _RULES else match[0]

    text = re.sub(r"(?m)^      - \{name: (\w+)[^}]*", rule, contract_text(name, columns))
    return parse_contract(text, f"{name}.yaml")


def publish(bus: Bus, dataset: Dataset, district: str, n: int, first: int = 0) -> None:
    """Send rows to the topic without outbox and coercer, which are not measured here."""
    encoder, topic = Encoder(dataset), dataset.topic(district)
    producer = Producer(
        {"bootstrap.servers": bus.access.servers, "linger.ms": 20, "queue.buffering.max.messages": 1_000_000}
    )
    for i, row in enumerate(rows(dataset, n, district, 1, first)):
        bad = {"name": "x"} if i % BAD_EVERY == BAD_EVERY - 1 else {}
        producer.produce(topic, encoder.value({**row, **bad}), encoder.key(row))
        producer.poll(0)
    producer.flush()


class Side:
    """One way to put a dataset's records into a table; each run has a new table."""

    def __init__(self, bus: Bus, dataset: Dataset, records: int) -> None:
        self.bus, self.dataset, self.records = bus, dataset, records
        self.states = bus.kafka.states(dataset.topics)
        self.numbers = count()
        self.spark = bus.lake().spark

    def path(self) -> str:
        return f"{self.bus.settings.lake_path}/{self.dataset.name}-{type(self).__name__}-{next(self.numbers)}"

    def run(self) -> float:
        """Records per second."""
        job = self.prepare()
        began = time.perf_counter()
        job()
        return self.records / (time.perf_counter() - began)

    def prepare(self) -> Callable[[], object]:
        raise NotImplementedError


class Suibus(Side):
    """Checks every row rule, quarantines rows with their reasons, and commits the position."""

    def prepare(self) -> Callable[[], object]:
        self.lake = Lake(self.spark, self.path(), to_write=True)
        self.lake.bronze(self.dataset)

        def job() -> None:
            batch = ingest_batch(self.dataset, self.lake, self.bus.store, self.bus.kafka, self.states)
            assert batch.records == self.records, batch

        return job

    def check(self) -> None:
        """The last run took every record, and quarantined those that break a rule."""
        (found,) = (
            self.lake.bronze(self.dataset)
            .read()
            .agg(F.count("*").alias("all"), F.count_if("_quarantined").alias("bad"))
            .collect()
        )
        assert tuple(found) == (self.records, self.records // BAD_EVERY), found


class Bare(Side):
    """Strip the frame, decode, append."""

    where: tuple[str, ...] = ()
    settings: ClassVar[Mapping[str, str]] = {}  # of the Kafka reader, beside its own

    def prepare(self) -> Callable[[], object]:
        path = self.path()
        (
            DeltaTable.create(self.spark)
            .location(path)
            .addColumns(self.frame().schema)
            .partitionedBy(*self.where)
            .execute()
        )
        return lambda: self.frame().coalesce(2).write.format("delta").mode("append").save(path)

    def read(self) -> DataFrame:
        offsets = {t: s.partitions for t, s in self.states.items() if t in map(self.dataset.topic, DISTRICTS)}
        first = {t: {str(p): a for p, (a, _) in parts.items()} for t, parts in offsets.items()}
        last = {t: {str(p): z for p, (_, z) in parts.items()} for t, parts in offsets.items()}
        options = {
            **self.bus.kafka.access.spark(),
            **self.settings,
            "assign": json.dumps({t: list(parts) for t, parts in offsets.items()}),
            "startingOffsets": json.dumps(first),
            "endingOffsets": json.dumps(last),
        }
        return self.spark.read.format("kafka").options(**options).load()

    def record(self) -> Column:
        body = F.expr(f"substring(value, {FRAME + 1})")
        return from_avro(body, json.dumps(avro_schema(self.dataset))).alias("record")

    def frame(self) -> DataFrame:
        decoded = self.read().select("topic", "partition", "offset", self.record())
        return decoded.select("record.*", "topic", "partition", "offset")


class SchemaChecked(Bare):
    """Like `Bare`, but records of unknown schemas are marked and kept with their bytes in a partition of their own; Kafka is read as ours reads it."""

    where = ("quarantined",)
    settings: ClassVar[Mapping[str, str]] = {
        "kafka.fetch.max.wait.ms": "0",
        "kafka.max.partition.fetch.bytes": str(FETCH),
        "kafka.group.id": "bench.checked",  # one group name, so that Spark keeps its consumers from read to read
    }

    def frame(self) -> DataFrame:
        frame = bytearray(MAGIC + schema_fingerprint(avro_schema(self.dataset)))
        known = F.substring("value", 1, FRAME) == F.lit(frame)
        record = F.when(known, self.record()).alias("record")
        decoded = self.read().select("topic", "partition", "offset", "value", record)
        bad = F.col("record").isNull()
        return decoded.select(
            "record.*",
            "topic",
            "partition",
            "offset",
            bad.alias("quarantined"),
            F.when(bad, F.col("value")).alias("value"),
        )


def run(quick: bool) -> Iterator[Row]:
    """Throughput at two widths, then the fixed cost of a batch of a hundred."""
    with TemporaryDirectory() as folder:
        bus = Bus(Settings(home=Path(folder)))
        bus.broker.start()
        try:
            for columns, records in (QUICK if quick else SHAPES).items():
                yield from _throughput(bus, columns, records, quick)
            yield from _tiny(bus, 4 if quick else 15)
        finally:
            bus.broker.stop()


def _dataset(bus: Bus, name: str, columns: int) -> Dataset:
    dataset = ruled(name, columns)
    bus.store.register(dataset)
    bus.kafka.ensure(dataset.topics)
    return dataset


def _throughput(bus: Bus, columns: int, records: int, quick: bool) -> Iterator[Row]:
    dataset = _dataset(bus, f"wide_{columns}", columns)
    for district in DISTRICTS:
        publish(bus, dataset, district, records // len(DISTRICTS))
    suibus, bare, checked = (kind(bus, dataset, records) for kind in (Suibus, Bare, SchemaChecked))
    sides = (suibus, bare) if quick else (suibus, bare, checked)
    for side in sides if quick else (*sides, *sides):  # the JIT compiler is busy until the second run
        side.run()
    figures = in_turns(2 if quick else 3, *(side.run for side in sides))
    assert isinstance(suibus, Suibus)
    suibus.check()
    title = f"Ingest to bronze, {columns} columns"
    note = f"{records:,} records of four topics; 1 in {BAD_EVERY:,} breaks a rule. "
    yield Row(
        f"ingest.{columns}", title, figures[0], "records/s", "higher", 0.8, figures[1], "from_avro and append",
        note=f"{note}Ours checks every row rule and quarantines; the peer decodes and appends.",
    )  # fmt: skip
    if quick:
        return
    yield Row(
        f"ingest.{columns}.checked", title, figures[0], "records/s", "higher", None, figures[2], "the same, schema checked, our reader's settings",
        note=f"{note}The peer marks what no known schema wrote, in a partition of its own, and reads Kafka with the settings that "
        "Suibus found (no long poll, larger fetches, consumers kept).",
    )  # fmt: skip


def _note(took: list[float], call: Callable[[], object]) -> None:
    took.append(timed(call))


def _tiny(bus: Bus, runs: int) -> Iterator[Row]:
    """A batch of a hundred records in a warm process: the cost of a batch apart from its records."""
    dataset = _dataset(bus, "tiny", 6)
    lake = bus.lake(to_write=True)
    seconds, counts, commits = [], [], []
    for turn in range(runs + 3):
        publish(bus, dataset, DISTRICTS[0], TINY, turn * TINY)
        bronze = lake.bronze(dataset)
        states, before = bus.kafka.states(dataset.topics), bronze.version

        def take(now: Any = states) -> None:
            assert ingest_batch(dataset, lake, bus.store, bus.kafka, now).records == TINY

        took: list[float] = []
        count = jobs(lake.spark, partial(_note, took, take))
        if turn >= 3:  # three to warm up
            seconds += took
            counts.append(float(count))
            commits.append(float(bronze.version - before))
    what = f"A batch of {TINY} records, 6 columns, warm"
    yield Row(
        "ingest.tiny",
        what,
        seconds,
        "s",
        "lower",
        None,
        limit=0.7,
        note="One district has records. The limit is 0.7 s.",
    )
    yield Row("ingest.tiny.jobs", f"{what}: Spark jobs", counts, "jobs", "lower", None)
    yield Row("ingest.tiny.commits", f"{what}: commits", commits, "commits", "lower", None)
