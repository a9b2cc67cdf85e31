"""Bronze holds every record once and in order, and a bad one with every reason and its bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

from infra.bus.bus import Bus
from infra.kafka.broker import Broker
from infra.operate.listings import quarantined_records
from infra.settings import Settings
from pipelines.ingest.decode import bronze_rows
from schemas.contract import parse_contract
from schemas.store import ContractStore
from schemas.wire.encoder import Encoder
from tests.benchmarks.data import contract
from tests.integration.conftest import Road

GOOD = {"id": "good", "district_code": "440106", "seq": 1, "amount": 1}


@pytest.fixture(scope="module")
def scene(
    tmp_path_factory: pytest.TempPathFactory, broker: Broker, spark: Any, names: Callable[[], str]
) -> tuple[Road, dict[str, dict[str, Any]], dict[str, bytes]]:
    """Eleven bad records and two good ones, ingested together. Returns the bus, the quarantined records by key, the bytes sent."""
    home = tmp_path_factory.mktemp("ingest") / "home"
    road = Road(Bus(Settings(home=home, bootstrap_servers=broker.access.servers)), names())
    encoder, topic = Encoder(road.dataset), road.dataset.topic("440106")

    def key(name: str) -> bytes:
        return encoder.key({"id": name})

    def value(name: str, **changes: Any) -> bytes:
        return encoder.value({**GOOD, "id": name, **changes})

    values: dict[str, bytes | None] = {
        "good": value("good"),
        "framing": b"not avro at all",
        "empty": b"",
        "schema": b"\xc3\x01" + b"12345678" + value("schema")[10:],
        "truncated": value("truncated")[:-3],
        "broken": value("broken", amount=-5),
        "district": value("district", district_code="440103"),
        "twice": value("twice", amount=-1, district_code="440103"),
        "other": value("not-other"),
        "last": value("last"),
    }
    producer = KafkaProducer(bootstrap_servers=broker.access.servers, acks="all")
    for name, sent in values.items():
        producer.send(topic, sent, key(name))
    producer.send(topic, value("nokey"), None)
    producer.send(topic, None, key("tombstone"))  # no sequence header
    producer.send(topic, None, key("textsequence"), headers=[("sequence", b"yesterday")])
    producer.close()
    road.ingest()
    records = quarantined_records(road.bus, road.name)
    by_key = {(r["key"] or "none").removeprefix('{"id":"').removesuffix('"}'): r for r in records}
    assert len(by_key) == len(records)
    return road, by_key, {k: v for k, v in values.items() if v is not None}


Scene = tuple[Road, dict[str, dict[str, Any]], dict[str, bytes]]


@pytest.mark.parametrize(
    ("key", "rules"),
    [
        ("framing", ["framing"]),
        ("empty", ["framing"]),
        ("schema", ["schema"]),
        ("truncated", ["malformed"]),
        ("broken", ["amount_not_negative"]),
        ("district", ["district"]),
        ("twice", ["district", "amount_not_negative"]),
        ("other", ["key"]),
        ("none", ["key"]),
        ("tombstone", ["sequence"]),
        ("textsequence", ["sequence"]),
    ],
)
def test_a_bad_record_is_quarantined_with_every_rule_it_breaks(scene: Scene, key: str, rules: list[str]) -> None:
    _, quarantined, _ = scene
    assert [reason["rule"] for reason in quarantined[key]["reasons"]] == rules
    assert all(reason["reason"] and reason["reason_zh"] for reason in quarantined[key]["reasons"])


def test_quarantine_keeps_the_bytes_with_topic_partition_and_offset(scene: Scene) -> None:
    import base64

    road, quarantined, sent = scene
    for name, value in sent.items():
        if name in quarantined:
            record = quarantined[name]
            assert base64.b64decode(record["value"]) == value
            assert (record["topic"], record["partition"]) == (road.dataset.topic("440106"), 0)
    assert [quarantined[n]["offset"] for n in ("framing", "empty", "schema")] == [1, 2, 3]


def test_good_records_beside_bad_ones_are_in_bronze_once_and_keep_no_raw_bytes(scene: Scene) -> None:
    road, quarantined, _ = scene
    rows = road.lake.bronze(road.dataset).read().where("NOT _quarantined").collect()
    assert sorted(row["id"] for row in rows) == ["good", "last"]
    assert all(row["_value"] is None and row["_reasons"] is None for row in rows)
    assert len(quarantined) == 11


def test_all_rules_are_checked_in_one_pass_over_one_decoding(scene: Scene, spark: Any) -> None:
    road, _, _ = scene
    records = (
        spark.read.format("kafka")
        .option("kafka.bootstrap.servers", road.bus.access.servers)
        .option("subscribe", road.dataset.topic("440106"))
        .option("includeHeaders", "true")
        .load()
    )
    rows = bronze_rows(records, road.dataset, road.bus.store)
    plan = rows._jdf.queryExecution().executedPlan().toString()
    assert plan.count("from_avro(") == 1
    assert plan.count("BatchScan") == 1


def test_a_rule_that_spark_cannot_run_stops_its_own_dataset_and_loses_nothing(road: Road) -> None:
    road.contract(version="1.1.0")
    broken = road.contract(
        version="1.2.0",
        columns="      - name: extra\n        logicalType: string\n        quality:\n"
        "          - {name: broken_sql, type: sql, query: 'SELECT COUNT(*) FROM ${object} WHERE no_such_column = 1', mustBe: 0}\n",
    )
    assert broken.version == "1.2.0"
    road.publish({"id": "a", "seq": 1}, {"id": "b", "seq": 1})
    assert road.ingest() == 2
    records = quarantined_records(road.bus, road.name)
    assert [r["reasons"][0]["rule"] for r in records] == ["contract", "contract"]
    assert all(r["value"] for r in records)


def test_a_record_of_an_older_schema_version_decodes_with_the_new_column_null(road: Road) -> None:
    old = road.dataset
    road.publish({"id": "old", "seq": 1, "amount": 1})
    road.contract(version="1.1.0", columns="      - {name: note, logicalType: string}\n")
    road.publish({"id": "new", "seq": 1, "amount": 2, "note": "新"})
    assert Encoder(old).value({**GOOD})[:10] != Encoder(road.dataset).value({**GOOD, "note": None})[:10]
    road.merge()
    rows = road.lake.silver(road.dataset).read().select("id", "amount", "note").orderBy("id").collect()
    assert [tuple(r) for r in rows] == [("new", 2, "新"), ("old", 1, None)]


def test_a_table_made_before_a_column_was_added_is_widened(road: Road) -> None:
    road.publish({"id": "a", "seq": 1, "amount": 1})
    road.merge()
    road.contract(version="1.1.0", columns="      - {name: note, logicalType: string}\n")
    road.publish({"id": "b", "seq": 1, "note": "x"})
    road.merge()
    rows = road.lake.silver(road.dataset).read().select("id", "note").orderBy("id").collect()
    assert [tuple(r) for r in rows] == [("a", None), ("b", "x")]


def test_a_rule_that_cannot_be_evaluated_for_a_row_quarantines_it_without_an_extra_job(road: Road) -> None:
    """A cast of text, a division by zero, an overflow, an index outside an array: no such row is accepted."""
    rules = "".join(
        f'          - {{name: r{i}, type: sql, query: "SELECT COUNT(*) FROM ${{object}} WHERE {condition}", mustBe: 0}}\n'
        for i, condition in enumerate(
            [
                "CAST(note AS INT) > 5",
                "10 / (amount - 1) > 100",
                "element_at(split(note, ','), 9) = 'x'",
                "amount + amount < 0",
            ]
        )
    )
    road.contract(
        version="1.1.0", columns=f"      - name: note\n        logicalType: string\n        quality:\n{rules}"
    )
    road.publish(
        {"id": "a", "seq": 1, "amount": 1, "note": "not a number"},
        {"id": "b", "seq": 1, "amount": 2, "note": "9"},
        {"id": "c", "seq": 1, "amount": 2**63 - 1, "note": None},
        {"id": "d", "seq": 1, "amount": 2, "note": None},
    )
    assert road.merge() == 4
    found = {r["record"]["id"]: r["reasons"] for r in quarantined_records(road.bus, road.name)}
    assert {key: [r["rule"] for r in reasons] for key, reasons in found.items()} == {
        "a": ["r0", "r1", "r2"],
        "b": ["r0", "r2"],
        "c": ["r3"],
    }
    assert ["cannot be evaluated" in r["reason"] for r in found["b"]] == [False, True]
    assert [row[0] for row in road.silver()] == ["d"]


def test_the_description_of_a_rule_is_quoted_exactly(road: Road) -> None:
    says = "It's \\\\n no \\\"name\\\" of ${env:HOME} or $1. 不是 '名称' 或 \\\\\\\\。"
    road.contract(
        version="1.1.0",
        columns="      - name: note\n        logicalType: string\n        quality:\n"
        '          - {name: "it\'s", type: sql, query: "SELECT COUNT(*) FROM ${object} WHERE note = \'x\'", mustBe: 0, '
        f'description: "{says}"}}\n',
    )
    road.publish({"id": "a", "seq": 1, "note": "x"})
    road.ingest()
    (record,) = quarantined_records(road.bus, road.name)
    (reason,) = record["reasons"]
    assert (reason["rule"], reason["found"]) == ("it's", "x")
    assert reason["reason"] == 'It\'s \\n no "name" of ${env:HOME} or $1.'
    assert reason["reason_zh"] == "不是 '名称' 或 \\\\。"


def test_a_decimal_is_read_exactly_or_as_null(road: Road) -> None:
    """With any number of bytes: the digits of one that is too wide are never cut, and a huge one takes no time."""
    road.contract(version="1.1.0", columns='      - {name: price, logicalType: number, physicalType: "decimal(9,2)"}\n')
    encoder = Encoder(road.dataset)
    producer = KafkaProducer(bootstrap_servers=road.bus.access.servers, acks="all", max_request_size=2_000_000)

    def varint(n: int) -> bytes:
        n <<= 1
        out = bytearray()
        while n > 0x7F:
            out.append(n & 0x7F | 0x80)
            n >>= 7
        return bytes([*out, n])

    digits = {
        "short": b"\x04\xd2", "padded": bytes(70) + b"\x04\xd2", "wide": (10**9).to_bytes(8, "big"),
        "widest": (10**38).to_bytes(17, "big"), "long": bytes(4_096) + b"\1", "huge": b"\x7f" * 900_000, "none": b"",
    }  # fmt: skip
    for name, number in digits.items():
        row = {**GOOD, "id": name, "price": None}
        value = encoder.value(row)
        assert value.endswith(b"\0")  # the union branch of null
        value = value[:-1] + b"\2" + varint(len(number)) + number
        producer.send(road.dataset.topic("440106"), value, encoder.key(row))
    producer.close()
    assert road.ingest() == len(digits)
    rows = road.lake.bronze(road.dataset).read().collect()
    rules = {json.loads(row["_key"])["id"]: [r["rule"] for r in row["_reasons"] or ()] for row in rows}
    assert rules == {
        "short": [], "padded": [], "wide": ["unreadable"], "widest": ["malformed"], "long": ["malformed"],
        "huge": ["malformed"], "none": ["malformed"],
    }  # fmt: skip
    assert {str(row["price"]) for row in rows if not row["_quarantined"]} == {"12.34"}


def test_the_plan_of_a_wide_contract_takes_few_calls_into_the_jvm(spark: Any, tmp_path: Path) -> None:
    wide, store = contract("wide", 68), ContractStore(tmp_path)
    store.register(wide)
    types = "topic string, partition int, offset bigint, timestamp timestamp, key binary, value binary, " \
            "headers array<struct<key: string, value: binary>>"  # fmt: skip
    records = spark.createDataFrame([], types)
    calls, send = list[str](), spark._jvm._gateway_client.send_command
    with pytest.MonkeyPatch.context() as patch:

        def counted(_client: Any, command: str, *rest: Any, **named: Any) -> Any:
            calls.append(command)
            return send(command, *rest, **named)

        patch.setattr(type(spark._jvm._gateway_client), "send_command", counted)
        rows = bronze_rows(records, wide, store)
    # Calls that begin with "m" release objects of the JVM, whenever Python's garbage collector runs.
    assert len([call for call in calls if not call.startswith("m\n")]) < 10 * len(wide.fields)
    assert len(rows.columns) > len(wide.fields)


NUMBERS = """\
apiVersion: v3.1.0
kind: DataContract
id: test.numbers
version: 1.0.0
status: active
schema:
  - name: numbers
    properties:
      - {name: id, logicalType: integer, physicalType: bigint, primaryKey: true, required: true}
      - {name: size, logicalType: integer, physicalType: bigint}
"""


def test_a_dataset_is_decoded_when_none_of_its_columns_can_be_unreadable(spark: Any, tmp_path: Path) -> None:
    dataset, store = parse_contract(NUMBERS, "numbers.yaml"), ContractStore(tmp_path)
    store.register(dataset)
    encoder, row = Encoder(dataset), {"id": 1, "size": 2}
    record: tuple[Any, ...] = (
        encoder.key(row),
        encoder.value(row),
        dataset.topic("440106"),
        0,
        0,
        datetime.now(UTC),
        [],
    )
    kafka = (
        "key binary, value binary, topic string, partition int, offset long, timestamp timestamp, "
        "headers array<struct<key:string,value:binary>>"
    )
    (found,) = bronze_rows(spark.createDataFrame([record], kafka), dataset, store).collect()
    assert (found["_quarantined"], found["id"], found["size"], found["_reasons"]) == (False, 1, 2, None)
