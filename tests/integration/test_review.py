"""Guarantees that a review found untested: column names, nested columns, senders, the demo's folder, printing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from infra.demo.rounds import make_anew
from infra.output import write_rows
from infra.settings import Settings
from pipelines.share import query
from producers.outbox import Entry, Outbox
from producers.sender import _Sender
from schemas.errors import InputError, StateError
from tests.integration.conftest import Road

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
    from infra.topics import ensure_topics
    from producers.publisher import Publisher
    from schemas.contract import parse_contract
    from schemas.dataset import districts

    others = "".join(f"      - {{name: {n}, logicalType: string}}\n" for n in ("c", "count", "value", "lost", "events"))
    dataset = parse_contract(
        f"apiVersion: v3.1.0\nkind: DataContract\nid: t\nversion: 7.0.0\nstatus: active\nschema:\n  - name: {road.name}\n"
        f"    properties:\n      - {{name: {key}, logicalType: string, primaryKey: true, required: true}}\n{others}"
    )
    road.bus.store.register(dataset)
    ensure_topics(road.bus.bootstrap, [dataset.topic(code) for code in districts()])
    with Publisher(dataset, "440106", road.bus.outbox("440106"), road.bus.bootstrap) as publisher:
        for value in ("a", "b", "b"):
            publisher.publish({key: value, "count": value})
    road.dataset = dataset
    road.sync()
    sums = road.account()["440106"]
    assert (sums["received"], sums["inserted"], sums["superseded"]) == (3, 2, 1)


def test_whoever_sends_an_outbox_sends_under_its_one_transactional_id(tmp_path: Path) -> None:
    with Outbox(tmp_path / "outbox.sqlite") as outbox:
        outbox.accept("gz.up.440106.t.v1", [Entry(b"k", b"v")])
        first = _Sender(outbox, "127.0.0.1:1", 1, {}, None).transactional_id
        outbox.accept("gz.up.440103.t.v1", [Entry(b"k", b"v")])
    with Outbox(tmp_path / "outbox.sqlite") as outbox:
        assert _Sender(outbox, "127.0.0.1:2", 9, {}, None).transactional_id == first
        assert first == f"suibus.440106.{outbox.uuid}"


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
