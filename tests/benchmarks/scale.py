"""What 540 million rows of 68 columns (单一窗口) would cost: every hop is measured while one table grows, and extrapolated.

Between the marks millions of rows are made by Spark, appended to bronze as ingest does, and merged by the product. At each mark a
slice of changes is published over a real broker, ingested, merged, judged and queried. Extrapolated is seconds = a + b × rows,
fitted by least squares; build/scale.md has the model, its assumptions and what n cores would need.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from urllib.parse import unquote

import numpy as np
from pyarrow import parquet

from infra.bus.bus import Bus
from infra.settings import Settings
from pipelines.ingest.ingest import ingest_batch
from pipelines.lake.commit_notes import IngestNote
from pipelines.lake.progress import ingested_position
from pipelines.release.release import release_version, shared_rows
from pipelines.release.release_table import last_records
from pipelines.share.query import query
from producers.publish.delivery import publish_source
from producers.publish.publisher import Publisher
from producers.send.transport import TransportName
from producers.sources.source import Record, Source
from quality.gate import judge
from schemas.dataset import Dataset
from tests.benchmarks.bulk import DISTRICTS, Bulk, live, say
from tests.benchmarks.data import rows
from tests.benchmarks.ingest import ruled
from tests.benchmarks.rows import Curve, Row, timed

COLUMNS, TARGET = 68, 540_000_000
MARKS, QUICK_MARKS = (1_000_000, 5_000_000, 10_000_000, 20_000_000), (10_000, 30_000)
AT_ONCE, QUICK_AT_ONCE = 1_000_000, 20_000  # rows of one commit and one merge between the marks
SLICE, QUICK_SLICE = 50_000, 2_000  # changes published at a mark: half of existing keys, half of new ones
WARM, WARM_SLICE = 10_000, 1_000  # rows and changes of a first round, so that no mark includes Java's compiling
CORES = (16, 64, 128)
EFFICIENCY = 0.7  # of each core beyond those of this machine
DAILY = 0.01  # of the rows change in a day
REPLICAS = 3
MINUTES = 60  # a mark that would end later is left out
DISTRICT = "440106"  # whose slice it is
TRANSPORT: TransportName = "librdkafka"
HOPS = {  # what is timed at a mark
    "publish": "publish a slice: validate, encode, outbox, broker",
    "ingest": "ingest of the slice to bronze",
    "merge": "merge and account of the slice",
    "release": "the release of the slice, counts carried on from the merge",
    "gate": "the gate over the whole candidate, everything counted anew",
    "aggregate": "an aggregate of three columns over all released rows",
    "point": "one released row by its key",
}
BUILD = Path("build")


@dataclass
class Point:
    """What was measured at one mark."""

    rows: int  # live in silver
    seconds: dict[str, float] = field(default_factory=dict)  # by hop
    silver_bytes: float = 0.0  # of a row, live files
    bronze_bytes: float = 0.0  # of an event
    silver_files: int = 0


@dataclass
class Load:
    """One commit of bulk rows and its merge."""

    before: int  # rows in silver
    rows: int
    append: float
    merge: float


class Growing:
    """The dataset, its lake and its bus."""

    def __init__(self, bus: Bus, dataset: Dataset) -> None:
        self.bus, self.dataset, self.lake = bus, dataset, bus.lake(to_write=True)
        self.bulk = Bulk(dataset, self.lake)
        bus.store.register(dataset)
        bus.kafka.ensure(dataset.topics)
        self.loads: list[Load] = []
        self._rows = 0  # by bulk

    def load(self, mark: int, at_once: int) -> None:
        """Append and merge rows up to a mark."""
        while self._rows < mark:
            count, before = min(at_once, mark - self._rows), self.bulk.keys
            position = ingested_position(self.lake.bronze(self.dataset))  # bulk rows do not change it
            append = timed(partial(self.bulk.append, new=count, note=IngestNote(position)))
            self.loads.append(Load(before, count, append, self.bulk.merge()))
            self._rows += count
            say(f"{self._rows:,} rows; {count:,} appended in {append:.1f} s, merged in {self.loads[-1].merge:.1f} s")

    def expected(self, mark: int, last: Point) -> float:
        """The expected seconds to reach a mark and measure it, from those so far."""
        a_row = sum(load.append + load.merge for load in self.loads) / sum(load.rows for load in self.loads)
        return a_row * (mark - self._rows) + sum(last.seconds.values()) * mark / last.rows

    def measure(self, changes: int) -> Point:
        """Publish and release one slice, run the queries, count the bytes."""
        seconds = {"publish": self._publish(changes)}
        say(f"published in {seconds['publish']:.2f} s")
        seconds["ingest"] = timed(lambda: self._ingest(changes))
        seconds["merge"] = self.bulk.merge()
        say(f"ingested in {seconds['ingest']:.2f} s, merged in {seconds['merge']:.2f} s")
        version = self.lake.silver(self.dataset).version
        count = 0

        def gate() -> None:
            nonlocal count
            verdict = judge(shared_rows(self.lake, self.dataset, version), self.dataset, version)
            assert verdict.passed, verdict.failures
            count = verdict.rows

        seconds["release"] = timed(self.release)
        seconds["gate"] = timed(gate)
        name = self.dataset.name
        seconds["aggregate"] = self._query(
            f"SELECT district_code, status, count(*) AS n, sum(amount) AS amount FROM {name} GROUP BY ALL", 2
        )
        seconds["point"] = self._query(f"SELECT * FROM {name} WHERE id = '{_key(self.bulk.keys // 2)}'", 3)
        files, silver = live(self.lake.silver(self.dataset))
        bronze = self.lake.bronze(self.dataset)
        events = bronze.read().count()
        told = ", ".join(f"{hop} {took:.2f} s" for hop, took in seconds.items())
        say(f"{count:,} rows: {told}; {silver / count:.0f} bytes a row in {files} files")
        return Point(count, seconds, silver / count, live(bronze)[1] / events, files)

    def release(self) -> None:
        """Judge and release the merged rows."""
        last = last_records(self.lake).get(self.dataset.id)
        found = release_version(self.dataset, self.lake, last, changed=True)
        assert found, "nothing to release"
        assert found.status == "released", found.verdict.failures

    def _publish(self, changes: int) -> float:
        """Seconds of publish_source; the slice has changes of existing keys and new keys, all of the district."""
        self.bulk.sequence += 1
        step, new = len(DISTRICTS), changes // 2
        mine = DISTRICTS.index(DISTRICT)
        old = np.random.default_rng(self.bulk.sequence).choice(self.bulk.keys // step, changes - new, replace=False)
        numbers = [int(n) * step + mine for n in old] + [
            self.bulk.keys // step * step + step * (n + 1) + mine for n in range(new)
        ]
        self.bulk.keys = numbers[-1] + 1
        made = rows(self.dataset, changes, DISTRICT, self.bulk.sequence)
        for number, row in zip(numbers, made, strict=True):
            row |= {"id": _key(number), "seq": self.bulk.sequence}
        source = Source("rows", lambda: (Record(n, None, row) for n, row in enumerate(made, 1)), total=changes)
        publisher = Publisher(
            self.dataset, DISTRICT, self.bus.outbox(DISTRICT), self.bus.access.servers, transport=TRANSPORT
        )

        def publish() -> None:
            info = publish_source(publisher, source)
            assert (info.sent, info.waiting, info.problem) == (changes, 0, None), info

        with publisher.outbox:
            return timed(publish)

    def _ingest(self, changes: int) -> None:
        states, taken = self.bus.kafka.states(self.dataset.topics), 0
        while batch := ingest_batch(self.dataset, self.lake, self.bus.store, self.bus.kafka, states).records:
            taken += batch
        assert taken == changes, taken

    def _query(self, sql: str, runs: int) -> float:
        return min(timed(lambda: query(sql, self.lake, self.bus.store).collect()) for _ in range(runs))

    def parquet_bytes(self, folder: Path) -> tuple[float, str]:
        """Bytes per row when Spark writes the same rows in the same order to Parquet; and silver's codec, which it uses."""
        silver = self.lake.silver(self.dataset)
        frame = shared_rows(self.lake, self.dataset, silver.version)
        file = unquote(silver.read().inputFiles()[0].removeprefix("file://"))
        codec = parquet.ParquetFile(file).metadata.row_group(0).column(0).compression.lower()
        frame.write.option("compression", codec).parquet(str(folder))
        found = (
            sum(f.stat().st_size for f in folder.glob("*.parquet")) / self.lake.spark.read.parquet(str(folder)).count()
        )
        shutil.rmtree(folder)
        return found, codec


def _key(number: int) -> str:
    return f"k{number:010d}"


def fit(columns: list[list[float]], y: list[float]) -> list[float]:
    """Least squares with no coefficient below 0: a negative one is set to 0, and the others are fitted again."""
    found = np.zeros(len(columns))
    held = [i for i in range(len(columns)) if any(columns[i])]
    while held:
        solved = np.linalg.lstsq(np.array([columns[i] for i in held]).T, np.array(y), rcond=None)[0]
        if solved.min() >= 0:
            found[held] = [c if c * max(columns[i]) > 1e-6 * max(y) else 0.0 for i, c in zip(held, solved, strict=True)]
            break
        held.pop(int(solved.argmin()))
    return [float(c) for c in found]


class Model:
    """The measured figures, extrapolated to any number of rows and cores."""

    def __init__(self, points: list[Point], loads: list[Load], changes: int, at_once: int) -> None:
        self.measured_on = os.cpu_count() or 1
        self.changes, self.at_once = changes, at_once
        at = [float(p.rows) for p in points]
        ones = [1.0] * len(at)
        self.lines = {hop: fit([ones, at], [p.seconds[hop] for p in points]) for hop in HOPS}
        self.ingest_rate = changes / median(p.seconds["ingest"] for p in points)
        self.load_rate = sum(load.rows for load in loads) / sum(load.merge for load in loads)
        zeros, before = [0.0] * len(loads), [float(load.before) for load in loads]
        merges = [
            [1.0] * (len(at) + len(loads)),
            [float(changes)] * len(at) + [float(load.rows) for load in loads],
            at + zeros,  # random changes look for their keys in all rows; new keys need not
            [0.0] * len(at) + before,
        ]
        seconds = [p.seconds["merge"] for p in points] + [load.merge for load in loads]
        self.fixed, self.change, self.random, self.new = fit(merges, seconds)
        self.silver, self.bronze = points[-1].silver_bytes, points[-1].bronze_bytes

    def share(self, cores: float) -> float:
        """The part of the measured time that `cores` cores need for work that can be divided."""
        return self.measured_on / (self.measured_on + max(0.0, cores - self.measured_on) * EFFICIENCY)

    def hop(self, hop: str, rows: float, cores: float) -> float:
        """Seconds of a hop: its fixed part, and its part per row divided among the cores."""
        a, b = self.lines[hop]
        return a + b * rows * self.share(cores)

    def load(self, rows: float, cores: float) -> float:
        """Seconds of the first load: ingest of all, and a merge for each `at_once` rows of new keys."""
        by_row = rows / self.ingest_rate + self.change * rows + self.new * rows**2 / (2 * self.at_once)
        return rows / self.at_once * self.fixed + by_row * self.share(cores)

    def day(self, rows: float, cores: float) -> float:
        """Seconds of a day's changes, at random keys: ingest, merges of `at_once`, one gate."""
        changes = DAILY * rows
        merges = math.ceil(changes / self.at_once)
        by_row = changes / self.ingest_rate + self.change * changes + merges * self.random * rows
        return merges * self.fixed + by_row * self.share(cores) + self.hop("gate", rows, cores)

    def cores_for(self, seconds: float, call: Callable[[float, float], float]) -> str:
        """The fewest cores, not fewer than were measured, that do it within `seconds` at the target."""
        return next((str(n) for n in range(self.measured_on, 4097) if call(TARGET, n) <= seconds), "more than 4096")


FORMULAS = """\
merge(changes, rows) = {fixed:.3g} + {change:.3g} × changes + {random:.3g} × rows s where keys are at random, \
{new:.3g} × rows where they are new; load = rows / {rate:,.0f} (ingest) + merges of {at_once:,}; n cores divide all but the fixed \
part by {measured} + (n − {measured}) × {efficiency}, over {measured}"""


def report(
    points: list[Point], loads: list[Load], changes: int, at_once: int, plain: float, codec: str
) -> Iterator[Row | Curve]:
    """The rows, the curves and build/scale.md."""
    first, last = points[0], points[-1]
    model = Model(points, loads, changes, at_once)
    formulas = FORMULAS.format(
        **{name: getattr(model, name) for name in ("fixed", "change", "random", "new", "at_once")},
        rate=model.ingest_rate, measured=model.measured_on, efficiency=EFFICIENCY,
    )  # fmt: skip
    for hop, what in HOPS.items():
        a, b = model.lines[hop]
        yield Row(
            f"scale.{hop}", f"{what}, at {last.rows:,} rows", [last.seconds[hop]], "s", "lower", None, [first.seconds[hop]],
            f"the same at {first.rows:,} rows",
            note=f"{COLUMNS} columns, a slice of {changes:,} changes, half of them new keys. Fitted: {a:.3g} s + {b:.3g} s × rows; "
            f"at {TARGET:,} rows on {model.measured_on} cores {model.hop(hop, TARGET, model.measured_on):,.0f} s",
        )  # fmt: skip
    alike = [load for load in loads if load.rows == max(other.rows for other in loads)]
    yield Row(
        "scale.load", f"merge and account of {alike[0].rows:,} new keys, onto {alike[-1].before:,} rows", [alike[-1].merge], "s",
        "lower", None, [alike[0].merge], f"the same onto {alike[0].before:,} rows",
        note=f"{COLUMNS} columns; {model.load_rate:,.0f} rows a second over the whole load. "
        f"{formulas}",
    )  # fmt: skip
    yield Row(
        "scale.bytes", "bytes a row of silver's live files", [last.silver_bytes], "bytes", "lower", None, [plain],
        f"plain Parquet, {codec}",
        note=f"silver at {last.rows:,} rows in {last.silver_files} files; the peer is the contract's {COLUMNS} columns of the "
        f"released rows at {first.rows:,}, written by Spark in the same order with the same codec",
    )  # fmt: skip
    yield Row(
        "scale.bytes.bronze", "bytes an event of bronze", [last.bronze_bytes], "bytes", "lower", None, [plain],
        f"plain Parquet, {codec}",
    )  # fmt: skip
    for cores in (model.measured_on, *CORES):
        for name, what, seconds in (
            ("load", "first load", model.load(TARGET, cores)),
            ("day", f"a day's {DAILY:.0%} of changes, ingest to release", model.day(TARGET, cores)),
            ("gate", "one full gate", model.hop("gate", TARGET, cores)),
        ):
            yield Row(
                f"scale.model.{name}.{cores}", f"{TARGET:,} rows, {cores} cores: {what}", [seconds / 3600], "h", "lower", None,
                note=f"Extrapolated, not measured. {formulas}",
            )  # fmt: skip
    stored = (model.silver + model.bronze) * TARGET / 1e9
    yield Row(
        "scale.model.storage", f"{TARGET:,} rows: silver and bronze, one copy", [stored], "GB", "lower", None,
        note=f"Extrapolated, not measured; × {REPLICAS} where the store keeps {REPLICAS} copies",
    )  # fmt: skip
    (BUILD / "scale.md").write_text(page(points, loads, model, formulas, plain, codec), "utf-8")
    x = [p.rows / 1e6 for p in points]
    lines = {hop: [p.seconds[hop] for p in points] for hop in HOPS}
    yield Curve(
        "scale_seconds", f"What a hop costs as the table grows, {COLUMNS} columns", "million rows", "seconds", x, lines
    )
    sizes = {
        "silver": [p.silver_bytes for p in points],
        "bronze": [p.bronze_bytes for p in points],
        f"plain Parquet, {codec}": [plain] * len(points),
    }
    yield Curve("scale_bytes", f"Bytes a row on disk, {COLUMNS} columns", "million rows", "bytes a row", x, sizes)


def page(points: list[Point], loads: list[Load], model: Model, formulas: str, plain: float, codec: str) -> str:
    """build/scale.md."""
    here = model.measured_on
    cores = (here, *CORES)

    def table(head: list[str], body: list[list[str]]) -> str:
        return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body)) + "\n"

    measured = [
        [what, *(f"{p.seconds[hop]:.2f}" for p in points), "{:.3g} + {:.3g} × rows".format(*model.lines[hop])]
        for hop, what in HOPS.items()
    ]
    measured.append(["bytes a row of silver", *(f"{p.silver_bytes:.0f}" for p in points), ""])
    measured.append(["bytes an event of bronze", *(f"{p.bronze_bytes:.0f}" for p in points), ""])
    drawn = [
        [what, *(_duration(call(TARGET, n)) for n in cores), wanted]
        for what, call, wanted in (
            ("first load 首次装载", model.load, f"24 h: {model.cores_for(86_400, model.load)}"),
            (
                f"a day's {DAILY:.0%} of changes, to release 每日变更",
                model.day,
                f"1 h: {model.cores_for(3600, model.day)}",
            ),
            ("one full gate 一次完整质检", _hop(model, "gate"), f"1 h: {model.cores_for(3600, _hop(model, 'gate'))}"),
            ("an aggregate of three columns 聚合查询", _hop(model, "aggregate"), ""),
            ("one row by its key 按主键查询", _hop(model, "point"), ""),
        )
    ]
    bytes_of = {"silver": model.silver * TARGET, "bronze, first load": model.bronze * TARGET}
    bytes_of["bronze, a year of daily changes"] = bytes_of["bronze, first load"] * DAILY * 365
    stored = [[what, f"{n / 1e9:,.0f}", f"{n * REPLICAS / 1e9:,.0f}"] for what, n in bytes_of.items()]
    return f"""\
# {TARGET:,} rows × {COLUMNS} columns 单一窗口规模推算

Measured to {points[-1].rows:,} rows on {here} cores; everything at {TARGET:,} is extrapolated, not measured.
实测至 {points[-1].rows:,} 行（{here} 核）；{TARGET:,} 行的数字均为推算。

## Measured 实测
Seconds at each number of rows; a slice is {model.changes:,} changes, half of them new keys.

{table(["hop", *(f"{p.rows:,}" for p in points), "fitted, s"], measured)}
{len(loads)} merges of bulk rows: {model.load_rate:,.0f} rows a second. Plain Parquet ({codec}) of the same rows: {plain:.0f} bytes a row, silver \
{points[-1].silver_bytes / plain:.2f} of it.

## Extrapolated 推算
{table([f"at {TARGET:,} rows", *(f"{n} cores" for n in cores), "cores for, at least"], drawn)}
{table(["storage 存储", "GB", f"GB × {REPLICAS} copies"], stored)}
## The model 模型
- A hop: seconds = a + b × rows, least squares over the measured points, neither a nor b below 0.
- {formulas}.
- First load: sum of the merges of {model.at_once:,} new keys each, and ingest at the slice's rate, a small batch's fixed cost in it.
- A day: {DAILY:.0%} of the rows change, at random keys; merges of {model.at_once:,}, and one gate, counted anew.
- 各环节：秒数 = a + b × 行数，按各测点最小二乘拟合，均不为负。首次装载：每 {model.at_once:,} 个新主键合并一次，加上入库。
  每日：{DAILY:.0%} 的行在随机主键上变更，再加一次全量评判。

## Assumed 假设
- n cores are like the {here} measured on; each beyond those adds {EFFICIENCY:.0%} of one. The fixed part of a job is not divided.
- As many Kafka partitions, file splits and shuffle partitions as cores; the store and the network keep up with them.
- Memory a core as here; no hop holds more than a task's share of rows at once.
- Every rule composes, so releases within the day carry their counts on; a mean, for instance, is counted anew at each.
- Keys arrive in order, as a register numbers them; a slice's changes are at random keys of one district.
- Districts publish beside each other: a publish does not grow with the table and is not part of the cluster's time.
- Old versions' files are not counted: silver's are kept as long as a release names them.
- 假设：各核相同，超出实测的每个核按 {EFFICIENCY:.0%} 计，作业的固定部分不可分摊；存储与网络跟得上；规则均可累计；新主键按顺序到达；不计旧版本文件。
"""


def _hop(model: Model, hop: str) -> Callable[[float, float], float]:
    return lambda rows, cores: model.hop(hop, rows, cores)


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s"


def run(quick: bool) -> Iterator[Row | Curve]:
    """Load, measure at each mark, extrapolate. A mark that fails or would end too late ends the measuring; earlier ones are reported."""
    marks, at_once, changes = (QUICK_MARKS, QUICK_AT_ONCE, QUICK_SLICE) if quick else (MARKS, AT_ONCE, SLICE)
    points: list[Point] = []
    plain, codec, began = 0.0, "", time.monotonic()
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        bus = Bus(Settings(home=Path(folder), transport=TRANSPORT))
        bus.broker.start()
        try:
            growing = Growing(bus, ruled("wide", COLUMNS))
            if quick:
                growing.load(marks[0], at_once)
                growing.release()  # so that the first mark has counts to carry
            else:
                growing.load(WARM, WARM)
                growing.measure(WARM_SLICE)
                growing.loads.clear()
            for mark in marks:
                if len(points) > 1 and time.monotonic() - began + growing.expected(mark, points[-1]) > MINUTES * 60:
                    say(f"{mark:,} rows would end after {MINUTES} minutes; what was measured before is reported")
                    break
                try:
                    growing.load(mark, at_once)
                    points.append(growing.measure(changes))
                    if not plain:
                        plain, codec = growing.parquet_bytes(Path(folder) / "plain")
                        say(f"plain Parquet, {codec}: {plain:.0f} bytes a row")
                except Exception:
                    if len(points) < 2:
                        raise
                    traceback.print_exc()
                    say(f"{mark:,} rows failed; what was measured before is reported")
                    break
                kept = {"points": [asdict(p) for p in points], "loads": [asdict(load) for load in growing.loads]}
                (BUILD / "scale.json").write_text(json.dumps(kept, indent=1))
            yield from report(points, growing.loads, changes, at_once, plain, codec)
        finally:
            bus.broker.stop()
