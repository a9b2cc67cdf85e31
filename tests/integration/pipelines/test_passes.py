"""A pass merges all that it ingested, tries failed datasets again, and ingests no record that another pipeline ingested."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar

import pytest

from pipelines.ingest import offsets
from pipelines.ingest.ingest import ingest_batch
from pipelines.ingest.topics import TopicState
from pipelines.lake.lake import Lake
from pipelines.merge.merge import MergeInfo, merge_pending
from pipelines.sync import Inputs, sync
from schemas.dataset import Dataset
from schemas.errors import StateError
from schemas.ports.kafka_access import KafkaAccess
from tests.integration.conftest import Road
from tests.integration.outside_changes import write_as_another_program

DISTRICT = "440106"


def test_a_pass_merges_what_it_ingested_when_its_last_batch_is_only_the_end_of_a_transaction(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offsets, "DISTRICT_SHARE", 3)
    road.publish(*({"id": f"{n}", "seq": 1} for n in range(3)))
    states = road.bus.kafka.states([road.dataset.topic(DISTRICT)])
    assert [end for _, end in states[road.dataset.topic(DISTRICT)].partitions.values()] == [4]
    info = road.sync()
    assert [release.status for release in info.releases] == ["released"]
    assert len(road.silver()) == 3


def test_a_pass_merges_what_it_ingested_when_more_rows_arrive_meanwhile(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offsets, "DISTRICT_SHARE", 5)
    road.publish(*({"id": f"{n}", "seq": 1} for n in range(7)))
    later = iter([*({"id": f"later {n}", "seq": 1} for n in range(20))])
    # More rows than two batches hold arrive after the pass has planned its end.
    info = sync(Inputs(road.lake, road.bus.store, road.bus.kafka), refresh=lambda: road.publish(*later))
    assert info.ingested[road.dataset.id] >= 7
    assert [release.status for release in info.releases] == ["released"]
    assert len(road.silver()) == info.ingested[road.dataset.id]


def test_every_pass_tries_a_failed_dataset_again_and_does_not_merge_the_others(
    road: Road, names: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Road(road.bus, names())
    for each in (road, other):
        each.publish({"id": "a", "seq": 1})
    road.sync()
    write_as_another_program(road.lake.silver(road.dataset))
    road.publish({"id": "b", "seq": 1})
    looked: list[str] = []

    def merge(dataset: Dataset, lake: Lake) -> MergeInfo | None:
        looked.append(dataset.id)
        return merge_pending(dataset, lake)

    monkeypatch.setattr("pipelines.sync.merge_pending", merge)
    for _ in range(3):  # the first pass merges every dataset, because another program wrote to a table
        looked.clear()
        assert "another program" in road.bus.sync(set()).failures[road.dataset.id]
    assert set(looked) == {road.dataset.id}
    assert not road.bus.rebuild(road.dataset, from_topics=False).failures
    assert len(road.query("SELECT id FROM t")) == 2


def test_two_pipelines_on_one_lake_ingest_no_record_twice(road: Road) -> None:
    road.publish({"id": "a", "seq": 1})

    class Overtaken:
        """Kafka, with another pipeline that ingests a batch between this one's plan and its read."""

        others: ClassVar[list[int]] = []

        def states(self, topics: Iterable[str]) -> dict[str, TopicState]:
            return road.bus.kafka.states(topics)

        @property
        def access(self) -> KafkaAccess:
            if not self.others:
                road.publish({"id": "b", "seq": 1})
                self.others.append(road.batch())
            return road.bus.access

    states = road.bus.kafka.states(road.dataset.topics)
    with pytest.raises(StateError, match="Another Suibus writes"):
        ingest_batch(road.dataset, road.lake, road.bus.store, Overtaken(), states)
    assert Overtaken.others == [2], "the other pipeline ingests first"
    assert road.merge() == 0
    assert road.lake.bronze(road.dataset).read().count() == 2
