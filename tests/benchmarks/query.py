"""A department's queries through Suibus, compared with plain Spark on the same Delta version.

The rows are published, ingested, merged, judged and released by the product. Both sides run in one warm process, in turns, each from
the SQL text to the last row; the peer reads the version that the release names, without its tombstones, as a view in a session it keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from infra.bus.bus import Bus
from infra.settings import Settings
from pipelines.release.release_table import released_records
from pipelines.share.query import query
from schemas.dataset import receipts_topic
from schemas.districts import districts
from tests.benchmarks.data import contract
from tests.benchmarks.ingest import DISTRICTS
from tests.benchmarks.ingest import publish as produce
from tests.benchmarks.rows import Row, in_turns, timed

NAME, COLUMNS = "business", 12
RECORDS, QUICK = 1_000_000, 100_000
AGGREGATES = (
    "SELECT district_code, count(*) AS n, sum(capital) AS capital FROM business GROUP BY district_code ORDER BY 1",
    "SELECT year(registered_on) AS y, status, avg(staff) AS staff FROM business GROUP BY 1, 2 ORDER BY 1, 2",
    "SELECT count(*) AS n, max(changed_at) AS latest, sum(staff) AS staff FROM business WHERE status = '存续'",
)
POINTS = tuple(
    f"SELECT * FROM business WHERE id = '{district}-{number:010d}'"
    for district, number in zip(DISTRICTS, (17, 2_001, 11_111, 23_456), strict=True)
)


class Sides:
    """The two ways to the same rows."""

    def __init__(self, bus: Bus) -> None:
        self.bus, self.lake = bus, bus.lake()
        dataset = contract(NAME, COLUMNS)
        version = released_records(self.lake)[dataset.id].silver_version
        silver, columns = f"{self.lake.root}/silver/{dataset.id}", [f.name for f in dataset.table_fields]
        self.session: Any = self.lake.spark.newSession()
        frame = self.session.read.format("delta").option("versionAsOf", version).load(silver)
        frame.where("NOT _deleted").select(*columns).createOrReplaceTempView(NAME)

    def ours(self, sql: str) -> list[Any]:
        """Through the release."""
        return query(sql, self.lake, self.bus.store, "traffic").collect()

    def plain(self, sql: str) -> list[Any]:
        """Through an existing view."""
        found: list[Any] = self.session.sql(sql).collect()
        return found


def fill(bus: Bus, records: int) -> None:
    """Publish and release `records` rows of four districts."""
    dataset = contract(NAME, COLUMNS)
    bus.store.register(dataset)
    bus.kafka.ensure([*dataset.topics, *map(receipts_topic, districts())])
    for district in DISTRICTS:
        produce(bus, dataset, district, records // len(DISTRICTS))
    info = bus.sync()
    assert [r.status for r in info.releases][-1:] == ["released"], info


def _mean(ask: Callable[[str], list[Any]], queries: Sequence[str]) -> float:
    """Seconds per query."""
    return timed(lambda: [ask(sql) for sql in queries]) / len(queries)


def run(quick: bool) -> Iterator[Row]:
    """Each kind of query, then the first row for a session that has asked before."""
    records, runs = (QUICK, 2) if quick else (RECORDS, 9)
    with TemporaryDirectory() as folder:
        bus = Bus(Settings(home=Path(folder)))
        bus.broker.start()
        try:
            fill(bus, records)
        finally:
            bus.broker.stop()
        sides = Sides(bus)
        for kind, queries in (("aggregate", AGGREGATES), ("point", POINTS)):
            for sql in (*queries, *queries):  # warm, and the same rows
                mine, plain = sides.ours(sql), sides.plain(sql)
                assert mine == plain, sql
                assert mine, sql
            ours, peer = in_turns(
                runs,
                partial(_mean, sides.ours, queries),
                partial(_mean, sides.plain, queries),
            )
            yield Row(
                f"query.{kind}", f"{kind} query of {records:,} rows × {COLUMNS}, mean of {len(queries)}", ours, "s", "lower", 1.2,
                peer, "plain Spark, the same Delta version",
                note="Ours finds the release, makes a session that sees nothing else, and runs the SELECT. The peer runs it in a session "
                "where the version is a view already. Both to the last row, in one warm process.",
            )  # fmt: skip
        first = [
            timed(lambda: query(f"SELECT * FROM {NAME}", sides.lake, bus.store, "traffic").first())
            for _ in range(runs + 1)
        ]
        yield Row(
            "query.first", f"first row of {records:,}, a process that has asked before", first[1:], "s", "lower", 1.0, limit=1.0,
            note="SELECT * without a condition, through the release, to its first row. The limit is 1 s.",
        )  # fmt: skip
