"""A record that cannot be read or judged is quarantined with its reason, and costs no other record."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from fastavro import parse_schema, schemaless_writer
from kafka import KafkaProducer

from infra.operate.listings import quarantined_records
from pipelines.ingest.ingest import ingest_batch
from pipelines.ingest.topics import Topics, TopicState
from schemas.errors import UnavailableError
from schemas.wire.avro import MAGIC, avro_schema, schema_fingerprint
from schemas.wire.encoder import Encoder
from tests.integration.conftest import Road

DISTRICT = "440106"


def test_a_record_that_a_rule_cannot_judge_is_quarantined_and_costs_no_other(road: Road) -> None:
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


class _LostKafka:
    """The road's Kafka, which answers once and is unavailable from then on."""

    def __init__(self, kafka: Topics) -> None:
        self.access, self._kafka, self._answers = kafka.access, kafka, iter([True])

    def states(self, topics: Iterable[str]) -> dict[str, TopicState]:
        if not next(self._answers, False):
            raise UnavailableError("Kafka is unavailable.", "Kafka 不可用。")
        return self._kafka.states(topics)


def test_if_kafka_is_lost_while_bad_records_are_searched_no_record_is_quarantined_for_it(road: Road) -> None:
    rule = "{name: letters, metric: invalidValues, arguments: {pattern: '^(a|b)*$'}, mustBe: 0}"
    column = f"      - name: x\n        logicalType: string\n        quality:\n          - {rule}\n"
    road.contract(version="1.1.0", columns=column)
    road.publish(*({"id": str(n), "seq": 1, "x": "ab" * (100_000 if n == 2 else 1)} for n in range(4)))
    states = road.bus.kafka.states(road.dataset.topics)
    with pytest.raises(UnavailableError):
        ingest_batch(road.dataset, road.lake, road.bus.store, _LostKafka(road.bus.kafka), states)
    assert road.lake.bronze(road.dataset).read().count() == 0
    assert road.merge() == 4
    assert [record["key"] for record in quarantined_records(road.bus, road.name)] == ['{"id":"2"}']


@pytest.mark.parametrize("condition", ["extra RLIKE '['", "element_at(array(1), seq) = 2", "raise_error(extra) = 1"])
def test_a_rule_that_fails_while_it_runs_stops_its_own_dataset_only(road: Road, condition: str) -> None:
    rule = f'{{name: r, type: sql, query: "SELECT COUNT(*) FROM ${{object}} WHERE {condition}", mustBe: 0}}'
    road.contract(columns=f"      - name: extra\n        logicalType: string\n        quality:\n          - {rule}\n")
    other = Road(road.bus, f"{road.name}other")
    road.publish({"id": "a", "seq": 5, "extra": "x"})
    other.publish({"id": "a", "seq": 1})
    info = road.bus.sync()
    assert not info.failures
    assert info.ingested == {road.dataset.id: 1, other.dataset.id: 1}
    (record,) = quarantined_records(road.bus, road.name)
    assert record["reasons"][0]["rule"] in ("contract", "r"), "it could not be evaluated at all, or not for this row"
    assert record["value"]
    assert road.lake.bronze(other.dataset).read().where("NOT _quarantined").count() == 1


def test_a_value_that_no_reader_can_read_is_quarantined_with_its_bytes(road: Road) -> None:
    columns = "".join(
        f"      - {{name: {name}, logicalType: {kind}}}\n"
        for name, kind in {"day": "date", "moment": "timestamp", "text": "string"}.items()
    )
    road.contract(
        columns=columns + "      - name: texts\n        logicalType: array\n        items: {logicalType: string}\n"
    )
    schema = avro_schema(road.dataset)
    plain = {"day": "int", "moment": "long", "text": "bytes"}
    fields = [{**f, "type": ["null", plain[f["name"]]]} if f["name"] in plain else f for f in schema["fields"]]
    fields[-1] = {**fields[-1], "type": ["null", {"type": "array", "items": ["null", "bytes"]}]}
    raw = parse_schema({**schema, "fields": fields})
    bad: dict[str, dict[str, Any]] = {
        "late": {"day": 4_000_000},
        "early": {"day": -2_000_000},
        "moment": {"moment": 1 << 62},
        "text": {"text": b"a\xff"},
        "texts": {"texts": [None, b"\xfe"]},
        "good": {"day": 0, "moment": 0, "text": "好".encode(), "texts": ["好".encode()]},
    }
    encoder, producer = Encoder(road.dataset), KafkaProducer(bootstrap_servers=road.bus.access.servers, acks="all")
    for name, values in bad.items():
        row = {
            "id": name,
            "district_code": "440106",
            "seq": 1,
            "amount": 1,
            **dict.fromkeys((*plain, "texts")),
            **values,
        }
        out = BytesIO()
        schemaless_writer(out, raw, row)
        value = MAGIC + schema_fingerprint(schema) + out.getvalue()
        producer.send(road.dataset.topic("440106"), value, encoder.key({"id": name}))
    producer.close()
    road.sync()
    found = {r["record"]["id"]: [x["rule"] for x in r["reasons"]] for r in quarantined_records(road.bus, road.name)}
    assert found == {key: ["unreadable"] for key in ("late", "early", "moment", "text", "texts")}
    assert [row["id"] for row in road.query("SELECT * FROM t")] == ["good"]


def test_a_lake_that_cannot_be_written_quarantines_nothing_and_the_next_pass_takes_the_records(
    road: Road,
) -> None:
    road.publish({"id": "a", "seq": 1})
    in_the_way = Path(road.lake.bronze(road.dataset).address) / "_quarantined=false"
    in_the_way.touch()
    with pytest.raises(UnavailableError, match="nothing was skipped"):
        road.ingest()
    in_the_way.unlink()
    assert road.sync().ingested == {road.dataset.id: 1}
    assert road.query("SELECT id FROM t") == [{"id": "a"}]
