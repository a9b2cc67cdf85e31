"""A topic, a table or a file that is not as Suibus left it: noticed, named, stopped for that dataset alone, with a way back."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, NewPartitions

from infra.bus.status import read_status
from infra.operate.listings import quarantined_records
from pipelines.ingest import offsets
from pipelines.ingest.ingest import ingest_batch
from pipelines.ingest.offsets import BATCH_RECORDS, DISTRICT_SHARE, Range, TopicState, plan
from pipelines.lake.lake import Lake
from pipelines.lake.position import Position, TopicPosition
from pipelines.lake.table import Table
from pipelines.merge.merge import MergeInfo, merge_pending
from pipelines.sync import Inputs, sync
from schemas.dataset import Dataset
from schemas.errors import StateError
from schemas.ports.kafka_access import KafkaAccess
from schemas.wire.encoder import Encoder
from tests.integration.conftest import Road

DISTRICT = "440106"


def admin(road: Road) -> KafkaAdminClient:
    return KafkaAdminClient(bootstrap_servers=road.bus.access.servers)


def recreate(road: Road, topic: str) -> None:
    client = admin(road)
    client.delete_topics([topic])
    while topic in client.list_topics():
        time.sleep(0.1)
    road.bus.kafka.ensure([topic])
    client.close()


def cut(road: Road, topic: str) -> None:
    """Remove all records, as retention does."""
    client = admin(road)
    end = road.bus.kafka.states([topic])[topic].partitions[0][1]
    client.delete_records({TopicPartition(topic, 0): end})
    client.close()


def add_partitions(road: Road, topic: str) -> None:
    client = admin(road)
    client.create_partitions({topic: NewPartitions(total_count=2)})
    while len(road.bus.kafka.states([topic])[topic].partitions) < 2:
        time.sleep(0.1)
    client.close()


def delete(road: Road, topic: str) -> None:
    client = admin(road)
    client.delete_topics([topic])
    while topic in client.list_topics():
        time.sleep(0.1)
    client.close()


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
    assert [release.dataset for release in info.releases] == [other.dataset.id], "the other dataset went on"
    assert road.query("SELECT id FROM t") == [{"id": "taken"}], "what was released stays"
    assert ["recreated" in en for en, _ in road.bus.resume(road.dataset, yes=False)] == [True]
    assert road.bus.sync().failures, "looking changes nothing, and it is still told"
    road.bus.resume(road.dataset, yes=True)
    road.publish({"id": "later", "seq": 1})
    road.sync()
    assert sorted(row["id"] for row in road.query("SELECT id FROM t")) == ["later", "taken"]
    road.account()


@pytest.mark.parametrize(
    ("change", "named", "kept"),
    [
        (cut, "were removed", ["taken", "later"]),
        (add_partitions, "partition 1 was added", ["taken", "waiting", "later"]),
        (delete, "was deleted", ["taken", "later"]),
    ],
)
def test_no_change_of_a_topic_skips_records_silently(
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


def test_records_that_have_waited_half_of_the_retention_are_an_alarm_in_the_status(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.kafka.topics.FETCH_SECONDS", 60.0)
    topic, now = road.dataset.topic(DISTRICT), time.time_ns() // 1_000_000
    client = admin(road)
    client.alter_configs([ConfigResource("TOPIC", topic, {"retention.ms": str(10 * 86_400_000)})])
    client.close()

    def danger() -> dict[str, float]:
        (found,) = (d for d in read_status(road.bus).to_json()["datasets"] if d["dataset"] == road.name)
        return dict(found["near_retention"])

    producer, encoder = KafkaProducer(bootstrap_servers=road.bus.access.servers, acks="all"), Encoder(road.dataset)
    row = {"id": "a", "district_code": DISTRICT, "seq": 1, "amount": 1}
    producer.send(topic, encoder.value(row), encoder.key(row), timestamp_ms=now - 4 * 86_400_000).get()
    assert danger() == {}
    producer.send(topic, encoder.value(row), encoder.key(row), timestamp_ms=now - 6 * 86_400_000).get()
    road.sync()
    producer.send(topic, encoder.value(row), encoder.key(row), timestamp_ms=now - 6 * 86_400_000).get()
    producer.close()
    assert danger() == {topic: 10}
    road.sync()
    assert danger() == {}, "it was taken"


def test_every_district_gets_its_share_whatever_the_backlog_of_another(road: Road) -> None:
    names = road.dataset.topics
    states = {name: TopicState("i", {0: (0, 5_000_000 if n == 0 else 300)}) for n, name in enumerate(names)}
    first = plan(road.dataset, {}, states)
    assert {r.topic: r.end for r in first.ranges} == {n: DISTRICT_SHARE if n == names[0] else 300 for n in names}
    assert first.drained
    assert first.waiting[names[0]] == 5_000_000 - DISTRICT_SHARE
    second = plan(road.dataset, first.after, states)
    assert second.ranges == (Range(names[0], 0, DISTRICT_SHARE, 2 * DISTRICT_SHARE),)
    assert not second.drained
    everyone = {name: TopicState("i", {0: (0, 5_000_000), 1: (0, 5)}) for name in names}
    sizes = [r.end - r.start for r in plan(road.dataset, {}, everyone).ranges]
    assert sum(sizes) <= BATCH_RECORDS
    assert sizes[1::2] == [5] * 11, "a short partition goes whole"
    assert len(set(sizes[::2])) == 1


def test_a_plan_continues_exactly_where_the_last_one_ended(road: Road) -> None:
    topic = road.dataset.topic(DISTRICT)
    position: Position = {}
    seen: list[tuple[int, int]] = []
    for end in (10, 10, 250_000):
        states = {topic: TopicState("i", {0: (0, end)})}
        while (made := plan(road.dataset, position, states)).ranges:
            seen += [(r.start, r.end) for r in made.ranges]
            position = made.after
    assert seen[0][0] == 0
    assert all(a[1] == b[0] for a, b in pairwise(seen))
    assert seen[-1][1] == 250_000
    assert position == {topic: TopicPosition("i", {0: 250_000})}


def foreign(table: Table) -> None:
    """Write to a table as another program does."""
    table.read().limit(1).write.format("delta").mode("append").save(table.address)


def test_a_table_that_another_program_wrote_to_is_neither_merged_nor_shared_until_it_is_rebuilt(road: Road) -> None:
    road.publish({"id": "a", "seq": 1, "amount": 1}, {"id": "b", "seq": 1, "amount": 2})
    road.sync()
    foreign(road.lake.silver(road.dataset))
    road.publish({"id": "c", "seq": 1, "amount": 3})
    assert "another program" in road.bus.sync().failures[road.dataset.id]
    assert len(road.query("SELECT id FROM t")) == 2
    info = road.bus.rebuild(road.dataset, from_topics=False)
    assert not info.failures
    assert sorted(row["id"] for row in road.query("SELECT id FROM t")) == ["a", "b", "c"]

    foreign(road.lake.bronze(road.dataset))
    road.publish({"id": "d", "seq": 1, "amount": 4})
    assert "another program" in road.bus.sync().failures[road.dataset.id]
    info = road.bus.rebuild(road.dataset, from_topics=True)
    assert not info.failures
    assert [release.status for release in info.releases] == ["released"], info
    assert sorted(row["id"] for row in road.query("SELECT id FROM t")) == ["a", "b", "c", "d"]
    sums = road.account()[DISTRICT]
    assert (sums["inserted"], sums["duplicate"]) == (4, 3), "what came again is counted as what it is"


def test_a_change_by_another_program_is_also_found_before_a_compaction(road: Road, spark: Any) -> None:
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


def test_compaction_by_an_engineer_is_no_foreign_change(road: Road, spark: Any) -> None:
    for n in range(3):
        road.publish({"id": f"{n}", "seq": 1})
        road.sync()
    spark.sql(f"OPTIMIZE delta.`{road.lake.silver(road.dataset).address}`")
    road.publish({"id": "later", "seq": 1})
    road.sync()
    assert len(road.query("SELECT id FROM t")) == 4


def test_the_last_records_of_a_pass_are_merged_even_if_its_last_batch_is_only_a_transaction_marker(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offsets, "DISTRICT_SHARE", 3)
    road.publish(*({"id": f"{n}", "seq": 1} for n in range(3)))
    states = road.bus.kafka.states([road.dataset.topic(DISTRICT)])
    assert [end for _, end in states[road.dataset.topic(DISTRICT)].partitions.values()] == [4]
    info = road.sync()
    assert [release.status for release in info.releases] == ["released"]
    assert len(road.silver()) == 3


def test_a_failed_dataset_is_retried_by_every_later_pass_and_others_are_left_alone(
    road: Road, names: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Road(road.bus, names())
    for each in (road, other):
        each.publish({"id": "a", "seq": 1})
    road.sync()
    foreign(road.lake.silver(road.dataset))
    road.publish({"id": "b", "seq": 1})
    looked: list[str] = []

    def merge(dataset: Dataset, lake: Lake) -> MergeInfo | None:
        looked.append(dataset.id)
        return merge_pending(dataset, lake)

    monkeypatch.setattr("pipelines.sync.merge_pending", merge)
    for _ in range(3):  # the first looks at everything, for another program had written something
        looked.clear()
        assert "another program" in road.bus.sync(set()).failures[road.dataset.id]
    assert set(looked) == {road.dataset.id}
    assert not road.bus.rebuild(road.dataset, from_topics=False).failures
    assert len(road.query("SELECT id FROM t")) == 2


def test_the_last_records_of_a_pass_are_merged_even_if_more_arrived_than_it_ingests(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offsets, "DISTRICT_SHARE", 5)
    road.publish(*({"id": f"{n}", "seq": 1} for n in range(7)))
    later = iter([*({"id": f"later {n}", "seq": 1} for n in range(20))])
    # Once the pass knows where it ends, there is more than two batches hold.
    info = sync(Inputs(road.lake, road.bus.store, road.bus.kafka), refresh=lambda: road.publish(*later))
    assert info.ingested[road.dataset.id] >= 7
    assert [release.status for release in info.releases] == ["released"]
    assert len(road.silver()) == info.ingested[road.dataset.id]


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


def test_a_rebuild_that_was_killed_is_completed_by_the_next_pass(road: Road) -> None:
    road.publish({"id": "a", "seq": 1, "amount": 1}, {"id": "b", "seq": 1, "amount": 2})
    road.sync()
    road.lake.set_aside(f"silver/{road.dataset.id}")  # and no further
    road.publish({"id": "b", "seq": 2, "amount": 3})
    road.sync()
    assert road.query("SELECT id, amount FROM t ORDER BY id") == [{"id": "a", "amount": 1}, {"id": "b", "amount": 3}]
    sums = road.account()[DISTRICT]
    assert (sums["received"], sums["inserted"], sums["updated"]) == (3, 2, 1)


def test_a_rebuild_that_fails_repeatedly_does_not_set_a_table_aside_each_time(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    road.publish({"id": "a", "seq": 1})
    road.sync()
    with monkeypatch.context() as patch:
        patch.setattr(
            "pipelines.lake.table.Table.overwrite", lambda *_: (_ for _ in ()).throw(OSError("the disk is full"))
        )
        road.lake.set_aside(f"silver/{road.dataset.id}")
        for _ in range(2):
            assert "the disk is full" in road.bus.sync().failures[road.dataset.id]
    assert len(list(Path(road.lake.silver(road.dataset).address).parent.glob("*set-aside*"))) == 1
    road.sync()
    assert len(road.query("SELECT id FROM t")) == 1


def test_a_damaged_bronze_is_rebuilt_from_the_topics_and_silver_keeps_what_they_no_longer_hold(road: Road) -> None:
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


def test_a_record_that_spark_fails_on_is_quarantined_alone(road: Road) -> None:
    """Java's regular expressions end with a stack overflow on long text, and with it the whole read."""
    rule = "{name: letters, metric: invalidValues, arguments: {pattern: '^(a|b)*$'}, mustBe: 0}"
    column = f"      - name: x\n        logicalType: string\n        quality:\n          - {rule}\n"
    road.contract(version="1.1.0", columns=column)
    road.publish(*({"id": f"{n:02}", "seq": 1, "x": "ab" * (100_000 if n == 13 else 1)} for n in range(40)))
    assert road.merge() == 40
    (record,) = quarantined_records(road.bus, road.name)
    assert (record["key"], record["reasons"][0]["rule"]) == ('{"id":"13"}', "contract")
    assert "StackOverflow" in record["reasons"][0]["reason"]
    assert len(road.silver()) == 39
    assert road.account()[DISTRICT]["quarantined"] == 1


def test_a_release_whose_account_does_not_close_is_held(road: Road, spark: Any) -> None:
    road.publish({"id": "a", "seq": 1})
    road.sync()
    path = road.lake.account().address
    spark.sql(f"ALTER TABLE delta.`{path}` SET TBLPROPERTIES ('delta.appendOnly' = 'false')")
    spark.sql(f"UPDATE delta.`{path}` SET inserted = 2 WHERE dataset = '{road.dataset.id}'")
    road.publish({"id": "b", "seq": 1})
    (release,) = road.sync().releases
    assert release.status == "held"
    (failed,) = release.verdict.failures
    assert failed.rule == "account_closes"
    assert len(failed.samples) == 2, failed.samples
    assert road.query("SELECT id FROM t") == [{"id": "a"}]


def test_two_pipelines_on_one_lake_take_no_record_twice(road: Road) -> None:
    road.publish({"id": "a", "seq": 1})

    class Overtaken:
        """The bus, where another pipeline takes a batch between this one's plan and its read."""

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
    assert Overtaken.others == [2], "the other pipeline was faster"
    assert road.merge() == 0
    assert road.lake.bronze(road.dataset).read().count() == 2
