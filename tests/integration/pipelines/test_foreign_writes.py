"""A table that another program wrote to is neither merged nor shared until it is rebuilt; a compaction does not count."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.lake import bronze
from tests.integration.conftest import Road
from tests.integration.outside_changes import write_as_another_program

DISTRICT = "440106"


def test_a_table_that_another_program_wrote_to_is_neither_merged_nor_shared_until_it_is_rebuilt(road: Road) -> None:
    road.publish({"id": "a", "seq": 1, "amount": 1}, {"id": "b", "seq": 1, "amount": 2})
    road.sync()
    write_as_another_program(road.lake.silver(road.dataset))
    road.publish({"id": "c", "seq": 1, "amount": 3})
    assert "another program" in road.bus.sync().failures[road.dataset.id]
    assert len(road.query("SELECT id FROM t")) == 2
    info = road.bus.rebuild(road.dataset, from_topics=False)
    assert not info.failures
    assert sorted(row["id"] for row in road.query("SELECT id FROM t")) == ["a", "b", "c"]

    write_as_another_program(road.lake.bronze(road.dataset))
    road.publish({"id": "d", "seq": 1, "amount": 4})
    assert "another program" in road.bus.sync().failures[road.dataset.id]
    info = road.bus.rebuild(road.dataset, from_topics=True)
    assert not info.failures
    assert [release.status for release in info.releases] == ["released"], info
    assert sorted(row["id"] for row in road.query("SELECT id FROM t")) == ["a", "b", "c", "d"]
    sums = road.account()[DISTRICT]
    assert (sums["inserted"], sums["duplicate"]) == (4, 3), "records ingested again count as duplicates"


def test_a_row_that_another_program_writes_while_a_merge_begins_is_not_taken_for_suibus_own(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    road.publish({"id": "a", "seq": 1, "amount": 1})
    road.sync()
    road.publish({"id": "b", "seq": 1, "amount": 2})

    def portions(*given: Any) -> Any:
        write_as_another_program(road.lake.silver(road.dataset))
        return bronze.portions(*given)

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.merge.merge.portions", portions)
        assert "another program" in road.bus.sync().failures[road.dataset.id]
    assert not road.bus.rebuild(road.dataset, from_topics=False).failures
    assert sorted(row["id"] for row in road.query("SELECT id FROM t")) == ["a", "b"]


def test_a_change_by_another_program_is_found_also_when_a_compaction_follows_it(road: Road, spark: Any) -> None:
    for n in range(3):
        road.publish({"id": f"{n}", "seq": 1, "amount": 1})
        road.sync()
    silver = road.lake.silver(road.dataset).address
    spark.sql(f"UPDATE delta.`{silver}` SET amount = 9 WHERE id = '1'")
    spark.sql(f"OPTIMIZE delta.`{silver}`")
    road.publish({"id": "later", "seq": 1, "amount": 1})
    for _ in range(2):
        assert "another program" in road.bus.sync().failures[road.dataset.id]
    assert not road.bus.rebuild(road.dataset, from_topics=False).failures
    assert {row["amount"] for row in road.query("SELECT id, amount FROM t")} == {1}


def test_a_compaction_by_an_engineer_does_not_count_as_a_change(road: Road, spark: Any) -> None:
    for n in range(3):
        road.publish({"id": f"{n}", "seq": 1})
        road.sync()
    spark.sql(f"OPTIMIZE delta.`{road.lake.silver(road.dataset).address}`")
    road.publish({"id": "later", "seq": 1})
    road.sync()
    assert len(road.query("SELECT id FROM t")) == 4
