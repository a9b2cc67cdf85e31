"""Guarantees that a review found untested: column names, nested columns, the demo's folder, printing."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fastavro import parse_schema, schemaless_writer
from kafka import KafkaProducer

from infra.bus.bus import Bus
from infra.cli import main
from infra.demo.rounds import make_anew
from infra.operate.listings import quarantined_records
from infra.settings import Settings
from infra.terminal.output import write_rows
from pipelines.share.query import query
from pipelines.sync import Inputs, sync
from schemas.contract import parse_contract
from schemas.errors import InputError, StateError, UnavailableError
from schemas.wire.avro import MAGIC, avro_schema, schema_fingerprint
from schemas.wire.encoder import Encoder
from tests.integration.conftest import CONTRACT, Road

RECORD = """\
      - name: address
        logicalType: object
        properties:
{members}      - name: visits
        logicalType: array
        items:
          logicalType: object
          properties:
{items}"""


def test_members_added_inside_records_and_arrays_widen_the_tables(road: Road) -> None:
    def columns(*names: str) -> str:
        members = "".join(f"          - {{name: {n}, logicalType: string}}\n" for n in names)
        items = "".join(f"            - {{name: {n}, logicalType: string}}\n" for n in names)
        return RECORD.format(members=members, items=items)

    road.contract(columns=columns("street"))
    road.publish({"id": "a", "seq": 1, "address": {"street": "x"}, "visits": [{"street": "v"}]})
    road.merge()
    road.contract(version="1.1.0", columns=columns("order", "street"))  # a word of SQL, before what was there
    new = {"order": "2", "street": "y"}
    road.publish({"id": "b", "seq": 1, "address": new, "visits": [new]})
    road.sync()
    rows = road.query("SELECT id, address.street, address.order, visits[0].street AS v, visits[0].order AS o FROM t")
    assert sorted(tuple(row.values()) for row in rows) == [("a", "x", None, "v", None), ("b", "y", "2", "y", "2")]


@pytest.mark.parametrize("key", ["copies", "order", "fate", "s"])
def test_a_key_may_be_called_as_anything_inside(road: Road, key: str) -> None:
    from infra.kafka.topics import Kafka
    from producers.publish.publisher import Publisher

    others = "".join(f"      - {{name: {n}, logicalType: string}}\n" for n in ("c", "count", "value", "lost", "events"))
    dataset = parse_contract(
        f"apiVersion: v3.1.0\nkind: DataContract\nid: t\nversion: 7.0.0\nstatus: active\nschema:\n  - name: {road.name}\n"
        f"    properties:\n      - {{name: {key}, logicalType: string, primaryKey: true, required: true}}\n{others}"
    )
    road.bus.store.register(dataset)
    Kafka(road.bus.access).ensure(dataset.topics)
    with Publisher(dataset, "440106", road.bus.outbox("440106"), road.bus.access.servers) as publisher:
        for value in ("a", "b", "b"):
            publisher.publish({key: value, "count": value})
    road.dataset = dataset
    road.sync()
    sums = road.account()["440106"]
    assert (sums["received"], sums["inserted"], sums["superseded"]) == (3, 2, 1)


def test_the_demo_never_deletes_a_state_that_is_not_a_demos(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    kept = tmp_path / "lake" / "silver"
    kept.mkdir(parents=True)
    with pytest.raises(StateError, match="no earlier demo made it"):
        make_anew(settings)
    assert kept.exists()


def test_the_demo_makes_its_own_state_anew_and_leaves_other_files(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    (tmp_path / "mine.txt").touch()
    make_anew(settings)
    (tmp_path / "lake").mkdir()
    make_anew(settings)
    assert (tmp_path / "mine.txt").exists()
    assert not (tmp_path / "lake").exists()


@pytest.mark.parametrize("format_", ["table", "csv", "json"])
@pytest.mark.parametrize("sql", ["SELECT 1 / 0", "SELECT cast('x' AS int)"])
def test_a_row_that_cannot_be_computed_is_told_in_a_sentence(
    road: Road, capsys: pytest.CaptureFixture[str], sql: str, format_: str
) -> None:
    with pytest.raises(InputError, match="cannot be computed"):
        write_rows(query(sql, road.lake, road.bus.store), format_)
    assert capsys.readouterr().out == ""


def test_what_no_format_can_show_is_told_and_never_dropped(road: Road, capsys: pytest.CaptureFixture[str]) -> None:
    def shown(sql: str, format_: str) -> str:
        write_rows(query(sql, road.lake, road.bus.store), format_)
        return capsys.readouterr().out

    with pytest.raises(InputError, match="two columns called a"):
        shown("SELECT 1 AS a, 2 AS a", "json")
    assert shown("SELECT 1 AS a, 2 AS a", "csv").split() == ["a,a", "1,2"]
    with pytest.raises(InputError, match="Cast it to string"):
        shown("SELECT date'12000-01-01'", "csv")
    assert "2020-01-01" in shown("SELECT map(date'2020-01-01', 1)", "table")
    empty: list[Any] = json.loads(shown("SELECT 1 AS a WHERE false", "json"))
    assert empty == []
    assert shown("SELECT 1 AS a WHERE false", "csv").split() == ["a"]


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


def test_a_lake_that_cannot_be_written_quarantines_nothing_and_the_records_stay_to_be_done(
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


def test_a_record_of_a_contract_put_in_force_during_the_pass_is_read_with_it(road: Road) -> None:
    old = road.dataset
    new = parse_contract(
        CONTRACT.format(
            name=road.name,
            version="1.1.0",
            least=1,
            sharing="none",
            columns="      - {name: note, logicalType: string}\n",
        )
    )
    road.dataset = new  # a node has it already
    road.publish({"id": "a", "seq": 1, "note": "新"})
    assert road.bus.store.datasets()[old.id].hash == old.hash
    info = sync(
        Inputs(road.lake, road.bus.store, road.bus.kafka), only=(), refresh=lambda: road.bus.store.register(new)
    )
    assert info.records[new.id].contract_sha256 == new.hash
    assert quarantined_records(road.bus, road.name) == []
    assert road.query("SELECT note FROM t") == [{"note": "新"}]


def test_a_contract_changed_while_a_pass_waits_is_put_in_force_before_its_records_are_read(
    road: Road, tmp_path: Path
) -> None:
    folder = tmp_path / "contracts"
    folder.mkdir()
    bus = Bus(road.bus.settings.model_copy(update={"contracts": str(folder)}))
    bus.contracts.folders = (folder,)
    (folder / "t.yaml").write_text(road.dataset.text, "utf-8")
    assert bus.adopt_contracts() == []
    columns = "      - {name: note, logicalType: string}\n"
    changed = CONTRACT.format(name=road.name, version="1.1.0", least=1, sharing="none", columns=columns)
    (folder / "t.yaml").write_text(changed, "utf-8")
    road.dataset = parse_contract(changed)
    road.publish({"id": "a", "seq": 1, "note": "新"})
    assert not bus.sync().failures
    assert road.query("SELECT note FROM t") == [{"note": "新"}]


def test_a_contract_that_changed_is_judged_again_by_whatever_pass_comes_next(road: Road) -> None:
    road.publish({"id": "a", "seq": 1})
    road.sync()
    road.contract(version="1.1.0", least=5)
    info = sync(Inputs(road.lake, road.bus.store, road.bus.kafka), only=("another.v1",))
    assert [r.status for r in info.releases] == ["held"]


def test_what_no_reader_reads_is_quarantined_with_its_bytes(road: Road) -> None:
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


def test_a_state_folder_that_is_none_is_told_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").touch()
    monkeypatch.setenv("SUIBUS_HOME", str(tmp_path / "home"))
    result = CliRunner().invoke(main, ["status"])
    assert result.exit_code == 2
    assert "SUIBUS_HOME names the state folder" in result.output
