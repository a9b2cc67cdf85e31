"""Shared by integration tests: `Road`, a bus with one dataset and its own lake, on the session's broker and Spark."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from infra.bus.bus import Bus
from infra.kafka.broker import Broker
from infra.settings import Settings
from pipelines.ingest.ingest import ingest_batch
from pipelines.lake.delta import forget_tables
from pipelines.lake.lake import Lake
from pipelines.merge.account import account_pending
from pipelines.merge.merge import merge_pending
from pipelines.sync_info import SyncInfo
from producers.publish.publisher import Publisher
from schemas.contract import parse_contract
from schemas.dataset import Dataset, receipts_topic
from schemas.districts import districts
from schemas.errors import UnavailableError

CONTRACT = """\
apiVersion: v3.1.0
kind: DataContract
id: test.{name}
version: {version}
status: active
schema:
  - name: {name}
    properties:
      - {{name: id, logicalType: string, primaryKey: true, required: true}}
      - {{name: district_code, logicalType: string, required: true}}
      - {{name: seq, logicalType: integer, required: true}}
      - name: amount
        logicalType: integer
        quality:
          - {{name: amount_not_negative, type: sql, query: "SELECT COUNT(*) FROM ${{object}} WHERE amount < 0", mustBe: 0}}
{columns}    quality:
      - {{name: enough_rows, metric: rowCount, mustBeGreaterOrEqualTo: {least}}}
      - {{name: amounts_are_given, type: sql, query: "SELECT count_if(amount IS NULL) FROM ${{object}}", mustBe: 0, severity: warning}}
customProperties:
  - {{property: suibus.sharing, value: {sharing}}}
  - {{property: suibus.sequence, value: seq}}
  - {{property: suibus.district, value: district_code}}
"""


class Road:
    """A bus for one test: its own lake, contracts and dataset name; the broker and Spark are shared."""

    def __init__(self, bus: Bus, name: str) -> None:
        self.bus = bus
        self.name = name
        self.dataset = self.contract()

    def contract(self, **changes: Any) -> Dataset:
        """Put a version of the contract in force."""
        values = {
            "name": self.name,
            "version": "1.0.0",
            "least": 1,
            "sharing": "unconditional",
            "columns": "",
        } | changes
        self.dataset = parse_contract(CONTRACT.format(**values), f"{self.name}.yaml")
        self.bus.store.register(self.dataset)
        names = [name for code in districts() for name in (self.dataset.topic(code), receipts_topic(code))]
        self.bus.kafka.ensure(names)
        return self.dataset

    def publish(
        self, *rows: Mapping[str, Any], district: str = "440106", delete: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Publish rows (id, seq, amount) and deletions as a district."""
        with Publisher(self.dataset, district, self.bus.outbox(district), self.bus.access) as publisher:
            for row in rows:
                publisher.publish({"district_code": district, "amount": 0, **row})
            for key in delete:
                publisher.delete(key)

    def accept(self, row: Mapping[str, Any], district: str = "440106") -> Path:
        """Accept a row while no broker answers; returns the path of the outbox."""
        outbox = self.bus.outbox(district)
        with (
            pytest.raises(UnavailableError),
            Publisher(self.dataset, district, outbox, "127.0.0.1:1", timeout=0.1) as publisher,
        ):
            publisher.publish({"district_code": district, "amount": 0, **row})
        return outbox

    def sync(self) -> SyncInfo:
        """One pass of the pipeline; it must report no failure."""
        info = self.bus.sync()
        assert not info.failures, info.failures
        return info

    def ingest(self) -> int:
        """Ingest all waiting records and do not merge them; returns their number."""
        records = 0
        while batch := self.batch():
            records += batch
        return records

    def batch(self) -> int:
        """Ingest one batch; returns the number of its records."""
        kafka = self.bus.kafka
        states = kafka.states(self.dataset.topics)
        return ingest_batch(self.dataset, self.lake, self.bus.store, kafka, states, self.bus.registry).records

    def merge(self) -> int:
        """Ingest, merge and account, without the gate; returns the number of ingested records."""
        records = self.ingest()
        merge_pending(self.dataset, self.lake)
        account_pending(self.dataset, self.lake)
        return records

    @property
    def lake(self) -> Lake:
        """The lake of this test."""
        return self.bus.lake(to_write=True)

    def query(self, sql: str, department: str | None = None) -> list[dict[str, Any]]:
        """A query over the released versions; `t` stands for the dataset."""
        from pipelines.share.query import query

        rows = query(sql.replace(" t", f" {self.name}"), self.lake, self.bus.store, department).collect()
        return [row.asDict() for row in rows]

    def forget(self) -> None:
        """Drop what this process has cached of the lake, as if it had just started."""
        self.bus = Bus(self.bus.settings)
        forget_tables(self.lake.spark)

    def silver(self) -> list[tuple[Any, ...]]:
        """All rows of silver: key, deletion, sequence, district, amount."""
        frame = self.lake.silver(self.dataset).read()
        rows = frame.select("id", "_deleted", "_sequence", "_district", "amount").orderBy("id").collect()
        return [tuple(row) for row in rows]

    def account(self) -> dict[str, dict[str, Any]]:
        """The account by district; each must balance."""
        from infra.operate.listings import account_records

        found = account_records(self.bus, self.name)
        assert all(row["closes"] for row in found), found
        return {row["district"]: row for row in found}


@pytest.fixture(scope="session")
def names() -> Callable[[], str]:
    """Dataset names that no other test uses, since topics are shared."""
    numbers = iter(range(10_000))
    return lambda: f"t{next(numbers)}"


@pytest.fixture
def road(tmp_path: Path, broker: Broker, spark: Any, names: Callable[[], str]) -> Road:
    """A bus with one dataset of four columns in force."""
    settings = Settings(home=tmp_path / "home", bootstrap_servers=broker.access.servers)
    return Road(Bus(settings), names())


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Rows as a CSV file with a header."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
