"""Reading the lake (queries, listings) changes nothing in it, whatever state its tables are in."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.bus.bus import Bus
from infra.operate.listings import account_records, quarantined_records, release_records
from pipelines.share.query import query
from schemas.errors import InputError
from tests.integration.conftest import Road

NOTE = "      - {name: note, logicalType: string}\n"


def _files(road: Road) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in Path(road.bus.settings.lake_path).rglob("*")}


def test_reading_a_table_that_lacks_a_new_column_does_not_alter_it(road: Road) -> None:
    road.publish({"id": "a", "seq": 1}, {"id": "refused", "seq": 1, "amount": -1})
    road.sync()
    road.contract(version="1.1.0", columns=NOTE)  # in force before the next pass adds the column
    bus, before = Bus(road.bus.settings), _files(road)
    assert [row["id"] for row in query(f"SELECT * FROM {road.name}", bus.lake(), bus.store).collect()] == ["a"]
    (record,) = quarantined_records(bus, road.name)
    assert (record["record"]["id"], record["record"]["note"]) == ("refused", None)
    assert [release["status"] for release in release_records(bus, road.name)] == ["released"]
    assert [row["received"] for row in account_records(bus, road.name)] == [2]
    assert _files(road) == before


def test_a_lake_that_does_not_exist_reads_as_empty_and_is_not_created(road: Road) -> None:
    bus = Bus(road.bus.settings)
    assert quarantined_records(bus, road.name) == release_records(bus, road.name) == account_records(bus, None) == []
    with pytest.raises(InputError, match=f"Not yet released: {road.name}"):
        query(f"SELECT * FROM {road.name}", bus.lake(), bus.store)
    assert not Path(bus.settings.lake_path).exists()
