"""A damaged table is reported, a damaged or half-built table is rebuilt, and no released row is lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.integration.conftest import Road
from tests.integration.outside_changes import cut

DISTRICT = "440106"


@pytest.mark.parametrize("broken", ["data", "log"])
def test_a_damaged_silver_is_reported_and_rebuilt_from_bronze(road: Road, broken: str) -> None:
    road.publish({"id": "a", "seq": 1, "amount": 1}, {"id": "b", "seq": 2, "amount": 2})
    road.publish(delete=[{"id": "b", "seq": 3}])
    road.publish({"id": "refused", "seq": 1, "amount": -1})
    road.sync()
    before = road.silver()
    silver = Path(road.lake.silver(road.dataset).address)
    if broken == "data":
        for file in silver.rglob("*.parquet"):
            if "_delta_log" not in file.parts:
                file.write_bytes(file.read_bytes()[:100] + b"\0" * 100)
    else:
        shutil.rmtree(silver / "_delta_log")
    road.forget()
    road.publish({"id": "a", "seq": 5, "amount": 5})
    info = road.bus.sync()
    assert road.dataset.id in info.failures
    info = road.bus.rebuild(road.dataset, from_topics=False)
    assert not info.failures
    assert road.silver() == [(*before[0][:2], 5, *before[0][3:4], 5), *before[1:]]
    assert road.query("SELECT id, amount FROM t") == [{"id": "a", "amount": 5}]
    road.account()


def test_a_damaged_bronze_is_rebuilt_from_the_topics_and_silver_keeps_rows_that_the_topics_lost(road: Road) -> None:
    road.publish({"id": "old", "seq": 1, "amount": 1})
    road.sync()
    cut(road, road.dataset.topic(DISTRICT))
    road.publish({"id": "new", "seq": 1, "amount": 1})
    road.sync()
    bronze = Path(road.lake.bronze(road.dataset).address)
    shutil.rmtree(bronze / "_delta_log")
    road.forget()
    road.publish({"id": "newest", "seq": 1, "amount": 1})
    assert road.dataset.id in road.bus.sync().failures
    road.bus.rebuild(road.dataset, from_topics=True)
    road.bus.resume(road.dataset, yes=True)
    road.sync()
    assert sorted(row["id"] for row in road.query("SELECT id FROM t")) == ["new", "newest", "old"]


def test_the_next_pass_repeats_an_interrupted_rebuild(road: Road) -> None:
    road.publish({"id": "a", "seq": 1, "amount": 1}, {"id": "b", "seq": 1, "amount": 2})
    road.sync()
    road.lake.set_aside("silver", road.dataset)  # as a rebuild does that ends here
    road.publish({"id": "b", "seq": 2, "amount": 3})
    road.sync()
    assert road.query("SELECT id, amount FROM t ORDER BY id") == [{"id": "a", "amount": 1}, {"id": "b", "amount": 3}]
    sums = road.account()[DISTRICT]
    assert (sums["received"], sums["inserted"], sums["updated"]) == (3, 2, 1)


def test_a_rebuild_that_fails_twice_sets_one_table_aside(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    road.publish({"id": "a", "seq": 1})
    road.sync()
    with monkeypatch.context() as patch:
        patch.setattr(
            "pipelines.lake.table.Table.overwrite", lambda *_: (_ for _ in ()).throw(OSError("the disk is full"))
        )
        road.lake.set_aside("silver", road.dataset)
        for _ in range(2):
            assert "the disk is full" in road.bus.sync().failures[road.dataset.id]
    assert len(list(Path(road.lake.silver(road.dataset).address).parent.glob("*set-aside*"))) == 1
    road.sync()
    assert len(road.query("SELECT id FROM t")) == 1
