"""A topic that another program changed stops only its own dataset, with the reason, until `suibus resume`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipelines.merge.rebuild import rebuild_silver
from schemas.errors import StateError
from tests.integration.conftest import Road
from tests.integration.outside_changes import add_partitions, cut, delete_topic, recreate

DISTRICT = "440106"


def test_a_topic_that_changed_stops_its_own_dataset_and_resume_goes_on(road: Road) -> None:
    other, topic = Road(road.bus, f"{road.name}other"), road.dataset.topic(DISTRICT)
    road.publish({"id": "taken", "seq": 1})
    road.sync()
    road.publish({"id": "waiting", "seq": 1})
    other.publish({"id": "a", "seq": 1})
    recreate(road, topic)
    info = road.bus.sync()
    assert "recreated" in info.failures[road.dataset.id]
    assert f"suibus resume {road.name}" in info.failures[road.dataset.id]
    assert [release.dataset for release in info.releases] == [other.dataset.id], "the other dataset continues"
    assert road.query("SELECT id FROM t") == [{"id": "taken"}], "released rows stay"
    assert ["recreated" in en for en, _ in road.bus.resume(road.dataset, yes=False)] == [True]
    assert road.bus.sync().failures, "the next pass changes nothing and still reports it"
    road.bus.resume(road.dataset, yes=True)
    road.publish({"id": "later", "seq": 1})
    road.sync()
    assert sorted(row["id"] for row in road.query("SELECT id FROM t")) == ["later", "taken"]
    road.account()


def test_what_is_released_stays_readable_when_silver_is_rebuilt_after_a_resume_without_records(road: Road) -> None:
    road.publish({"id": "taken", "seq": 1})
    road.sync()
    recreate(road, road.dataset.topic(DISTRICT))
    road.bus.resume(road.dataset, yes=True)
    road.sync()
    rebuild_silver(road.dataset, road.lake)  # and no pass yet
    assert road.query("SELECT id FROM t") == [{"id": "taken"}]
    road.publish({"id": "later", "seq": 1})
    road.sync()
    assert sorted(row["id"] for row in road.query("SELECT id FROM t")) == ["later", "taken"]
    road.account()


@pytest.mark.parametrize(
    ("change", "named", "kept"),
    [
        (cut, "were removed", ["taken", "later"]),
        (add_partitions, "partition 1 was added", ["taken", "waiting", "later"]),
        (delete_topic, "was deleted", ["taken", "later"]),
    ],
)
def test_a_topic_that_was_cut_widened_or_deleted_stops_its_dataset_until_resume(
    road: Road, change: Callable[[Road, str], None], named: str, kept: list[str]
) -> None:
    topic = road.dataset.topic(DISTRICT)
    road.publish({"id": "taken", "seq": 1})
    assert road.ingest() == 1
    road.publish({"id": "waiting", "seq": 1})
    change(road, topic)
    for _ in range(2):
        with pytest.raises(StateError, match=named):
            road.ingest()
    assert [named in en for en, _ in road.bus.resume(road.dataset, yes=True)] == [True]
    road.bus.kafka.ensure([topic])
    road.publish({"id": "later", "seq": 1})
    road.ingest()
    rows = road.lake.bronze(road.dataset).read().orderBy("_timestamp").collect()
    assert [row["id"] for row in rows] == kept
