"""Silver has one row per key, decided by the events alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from kafka import KafkaProducer

from pipelines.lake.lake import Lake
from pipelines.merge.account import account_pending
from pipelines.merge.merge import merge_pending
from schemas.contract import parse_contract
from schemas.wire.encoder import Encoder, sequence_text
from tests.integration.conftest import Road


def test_the_highest_sequence_wins_and_a_lower_one_that_arrives_later_is_superseded(road: Road) -> None:
    road.publish({"id": "a", "seq": 2, "amount": 20})
    road.merge()
    road.publish({"id": "a", "seq": 1, "amount": 10}, {"id": "b", "seq": 1, "amount": 1})
    road.merge()
    assert road.silver() == [("a", False, 2, "440106", 20), ("b", False, 1, "440106", 1)]
    account = road.account()["440106"]
    assert (account["received"], account["inserted"], account["superseded"]) == (3, 2, 1)


def test_of_equal_sequences_the_later_offset_wins(road: Road) -> None:
    road.publish({"id": "a", "seq": 1, "amount": 1}, {"id": "a", "seq": 1, "amount": 2})
    road.merge()
    assert road.silver() == [("a", False, 1, "440106", 2)]


def test_an_older_update_after_a_newer_delete_does_not_bring_the_row_back(road: Road) -> None:
    road.publish({"id": "a", "seq": 1})
    road.publish(delete=[{"id": "a", "seq": 5}])
    road.merge()
    road.publish({"id": "a", "seq": 3, "amount": 3})
    road.merge()
    assert road.silver() == [("a", True, 5, "440106", None)]
    road.publish({"id": "a", "seq": 6, "amount": 6})
    road.merge()
    assert road.silver() == [("a", False, 6, "440106", 6)]


def test_between_two_districts_the_later_sequence_wins_and_the_account_says_so(road: Road) -> None:
    road.publish({"id": "a", "seq": 1, "amount": 1}, district="440103")
    road.merge()
    road.publish({"id": "a", "seq": 2, "amount": 2}, district="440104")
    road.merge()
    road.publish({"id": "a", "seq": 1, "amount": 9}, district="440103")
    road.merge()
    assert road.silver() == [("a", False, 2, "440104", 2)]
    account = road.account()
    assert account["440104"]["took_from_other_district"] == 1
    assert account["440103"]["lost_to_other_district"] == 1


def test_the_same_rows_again_are_unchanged_and_are_not_released_again(road: Road) -> None:
    road.publish({"id": "a", "seq": 1, "amount": 1})
    assert [r.status for r in road.sync().releases] == ["released"]
    road.publish({"id": "a", "seq": 1, "amount": 1})
    assert road.sync().releases == ()
    assert road.account()["440106"]["unchanged"] == 1


def test_a_pass_with_nothing_new_makes_no_commit(road: Road) -> None:
    road.publish({"id": "a", "seq": 1})
    road.sync()
    lake = road.lake
    tables = [lake.bronze(road.dataset), lake.silver(road.dataset), lake.account(), lake.releases()]
    before = [table.version for table in tables]
    road.sync()
    assert [table.version for table in tables] == before


def test_a_pass_makes_one_commit_per_table(road: Road) -> None:
    road.publish({"id": "a", "seq": 1})
    road.sync()
    lake = road.lake
    tables = [lake.bronze(road.dataset), lake.silver(road.dataset), lake.account(), lake.releases()]
    before = [table.version for table in tables]
    road.publish(*({"id": f"k{i}", "seq": i} for i in range(50)), district="440103")
    road.publish(*({"id": f"m{i}", "seq": i} for i in range(50)), district="440104")
    road.sync()
    assert [table.version - old for table, old in zip(tables, before, strict=True)] == [1, 1, 1, 1]


def test_small_files_are_compacted_and_no_row_changes(road: Road, spark: Any) -> None:
    spark.conf.set("spark.databricks.delta.autoCompact.minNumFiles", "4")
    try:
        for i in range(5):
            road.publish({"id": f"k{i}", "seq": 1, "amount": i}, {"id": "k0", "seq": i + 2, "amount": i})
            assert [r.status for r in road.sync().releases] == ["released"]
    finally:
        spark.conf.unset("spark.databricks.delta.autoCompact.minNumFiles")
    lake = road.lake
    for table in (lake.silver(road.dataset), lake.account(), lake.releases()):
        assert "OPTIMIZE" in [table.commit(version).operation for version in range(table.version + 1)]
        assert len(table.change().files.files) < 5
    assert sum(row["received"] for row in road.account().values()) == 10
    assert [row[-1] for row in road.silver()] == [4, 1, 2, 3, 4]
    assert road.query("SELECT sum(amount) AS s FROM t") == [{"s": 14}]
    assert road.sync().releases == ()


def test_a_job_killed_between_any_two_hops_starts_again_without_repair(road: Road) -> None:
    lake = road.lake
    road.publish({"id": "a", "seq": 1, "amount": 1}, {"id": "b", "seq": 1, "amount": 1})
    road.ingest()  # as if killed after ingest
    road.publish({"id": "a", "seq": 2, "amount": 2})
    road.ingest()
    assert merge_pending(road.dataset, lake) is not None  # as if killed between merge and account
    road.merge()
    account = road.account()["440106"]
    assert (account["received"], account["inserted"], account["superseded"]) == (3, 2, 1)
    assert account_pending(road.dataset, lake) == 0
    assert merge_pending(road.dataset, lake) is None


def test_any_order_and_any_duplication_of_the_same_events_gives_the_same_silver(
    road: Road, spark: Any, tmp_path: Path
) -> None:
    """Bronze rows of 200 random events are shuffled, doubled and cut into merges at random; silver never differs."""
    dice = random.Random(20260101)
    encoder = Encoder(road.dataset)
    producer = KafkaProducer(bootstrap_servers=road.bus.access.servers, acks="all")
    for _ in range(200):
        district = dice.choice(["440103", "440104", "440106"])
        row = {"id": dice.choice("abcdefgh"), "seq": dice.randrange(12), "amount": dice.randrange(5)}
        row["district_code"] = district
        topic, key = road.dataset.topic(district), encoder.key(row)
        if dice.random() < 0.3:
            producer.send(topic, None, key, headers=[("sequence", sequence_text(row["seq"]))])
        else:
            producer.send(topic, encoder.value(row), key)
    producer.close()
    road.ingest()
    events = road.lake.bronze(road.dataset).read().collect()
    assert len(events) == 200
    merge_pending(road.dataset, road.lake)
    expected = road.silver()
    assert 0 < sum(row[1] for row in expected) < len(expected), "the events must leave some keys deleted and some not"
    for seed in range(3):
        dice = random.Random(seed)
        shuffled = dice.sample(events + dice.choices(events, k=60), k=260)
        other = Lake(spark, str(tmp_path / f"lake{seed}"), to_write=True)
        bronze, start = other.bronze(road.dataset), 0
        while start < len(shuffled):
            size = dice.randrange(20, 150)
            part = spark.createDataFrame(shuffled[start : start + size], bronze.read().schema)
            part.coalesce(1).write.format("delta").mode("append").option("txnAppId", "ingest").option(
                "txnVersion", start
            ).save(bronze.address)
            start += size
            if dice.random() < 0.7:
                merge_pending(road.dataset, other)
        merge_pending(road.dataset, other)
        found = other.silver(road.dataset).read()
        rows = found.select("id", "_deleted", "_sequence", "_district", "amount").orderBy("id").collect()
        assert [tuple(r) for r in rows] == expected, f"seed {seed}"


def test_a_column_may_have_a_name_that_the_product_uses_itself(road: Road) -> None:
    from infra.kafka.topics import Kafka
    from producers.publish.publisher import Publisher

    keys = ("copies", "order", "fate", "s")
    parts = "".join(f"      - {{name: {key}, logicalType: string, primaryKey: true, required: true}}\n" for key in keys)
    others = "".join(f"      - {{name: {n}, logicalType: string}}\n" for n in ("c", "count", "value", "lost", "events"))
    dataset = parse_contract(
        f"apiVersion: v3.1.0\nkind: DataContract\nid: t\nversion: 7.0.0\nstatus: active\nschema:\n  - name: {road.name}\n"
        f"    properties:\n{parts}{others}"
    )
    road.bus.store.register(dataset)
    Kafka(road.bus.access).ensure(dataset.topics)
    with Publisher(dataset, "440106", road.bus.outbox("440106"), road.bus.access.servers) as publisher:
        for value in ("a", "b", "b"):
            publisher.publish(dict.fromkeys(keys, value) | {"count": value})
    road.dataset = dataset
    road.sync()
    sums = road.account()["440106"]
    assert (sums["received"], sums["inserted"], sums["superseded"]) == (3, 2, 1)
