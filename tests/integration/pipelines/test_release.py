"""Releases: what the gate decides, and that departments see released versions only."""

from __future__ import annotations

import json
from typing import Any

import pytest

from infra.operate.listings import release_records
from pipelines.share.query import query
from schemas.errors import InputError
from tests.integration.conftest import Road


def test_a_held_version_stays_invisible_and_the_corrected_one_is_released(road: Road) -> None:
    road.contract(least=2)
    road.publish({"id": "a", "seq": 1, "amount": 1}, {"id": "b", "seq": 1, "amount": 2})
    assert [r.status for r in road.sync().releases] == ["released"]
    road.publish(delete=[{"id": "b", "seq": 2}])
    assert [r.status for r in road.sync().releases] == ["held"]
    assert road.query("SELECT id FROM t ORDER BY id") == [{"id": "a"}, {"id": "b"}]
    road.publish({"id": "c", "seq": 1, "amount": 3})
    assert [r.status for r in road.sync().releases] == ["released"]
    assert road.query("SELECT id, amount FROM t ORDER BY id") == [{"id": "a", "amount": 1}, {"id": "c", "amount": 3}]
    records = release_records(road.bus, road.name)
    assert [(r["release"], r["status"], r["rows"], r["failed"]) for r in records] == [
        (3, "released", 2, []),
        (2, "held", 1, ["enough_rows"]),
        (1, "released", 2, []),
    ]


def test_a_failed_warning_does_not_hold_the_release_and_lists_samples_of_failing_rows_only(road: Road) -> None:
    road.publish({"id": "a", "seq": 1, "amount": None}, {"id": "b", "seq": 1, "amount": 1})
    (released,) = road.sync().releases
    assert released.status == "released"
    (record,) = release_records(road.bus, road.name)
    assert record["warnings"] == ["amounts_are_given"]
    results = {r["rule"]: r for r in record["verdict"]["results"]}
    assert results["amounts_are_given"]["observed"] == 1
    assert not results["amounts_are_given"]["success"]
    assert results["enough_rows"]["observed"] == 2
    assert results["enough_rows"]["samples"] == []
    assert results["amount_not_negative"]["success"]


def test_a_release_names_the_hash_of_its_verdict(road: Road) -> None:
    import hashlib

    road.publish({"id": "a", "seq": 1})
    (released,) = road.sync().releases
    (record,) = release_records(road.bus, road.name)
    text = json.dumps(record["verdict"], ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest() == record["verdict_sha256"] == released.verdict.sha256
    assert record["verdict"]["contract_sha256"] == road.dataset.hash == record["contract_sha256"]


def test_a_stricter_contract_is_applied_to_rows_that_are_already_merged(road: Road) -> None:
    road.publish({"id": "a", "seq": 1})
    assert [r.status for r in road.sync().releases] == ["released"]
    road.contract(version="1.1.0", least=5)
    assert [r.status for r in road.sync().releases] == ["held"]
    assert road.query("SELECT count(*) AS n FROM t") == [{"n": 1}]


def test_a_rule_the_gate_cannot_run_holds_the_release_and_says_why(road: Road) -> None:
    columns = (
        "      - name: extra\n        logicalType: string\n        quality:\n"
        "          - {name: typo, type: custom, engine: greatExpectations,"
        " implementation: {type: expect_column_values_to_be_purple, kwargs: {}}}\n"
    )
    road.contract(columns=columns)
    road.publish({"id": "a", "seq": 1})
    (held,) = road.sync().releases
    assert held.status == "held"
    (failure,) = held.verdict.failures
    assert failure.rule == "typo"
    assert failure.error


def test_a_dataset_that_is_not_shared_is_hidden_from_departments(road: Road) -> None:
    road.contract(sharing="none")
    road.publish({"id": "a", "seq": 1})
    road.sync()
    assert road.query("SELECT id FROM t") == [{"id": "a"}]  # as the city
    with pytest.raises(InputError, match="cannot be found") as refusal:
        road.query("SELECT id FROM t", department="税务局")
    assert road.name not in refusal.value.en.partition("Released datasets")[2]


def test_a_query_names_what_is_released_and_what_is_not(road: Road) -> None:
    with pytest.raises(InputError) as refusal:
        query("SELECT * FROM nothing_of_the_kind", road.lake, road.bus.store)
    assert "Not yet released" in refusal.value.en
    assert road.name in refusal.value.en
    assert "尚未发布" in refusal.value.zh


def test_silver_bronze_and_quarantine_cannot_be_named_by_a_query(road: Road) -> None:
    road.publish({"id": "a", "seq": 1})
    road.sync()
    assert list(road.query("SELECT * FROM t")[0]) == ["id", "seq", "district_code", "amount"]
    for name in ("silver", "bronze", "releases", "account", f"{road.name}_quarantine"):
        with pytest.raises(InputError):
            road.query(f"SELECT * FROM {name}")


def test_a_new_major_does_not_hide_the_old_one_before_it_is_released(road: Road) -> None:
    old = road.dataset
    road.publish({"id": "a", "seq": 1, "amount": 1})
    road.sync()
    new = road.contract(version="2.0.0", columns="      - {name: grade, logicalType: integer, required: true}\n")
    assert (old.id, new.id) == (f"{road.name}.v1", f"{road.name}.v2")
    assert road.query("SELECT id, amount FROM t") == [{"id": "a", "amount": 1}]
    road.publish({"id": "b", "seq": 1, "grade": 3})
    road.sync()
    assert road.query("SELECT id, grade FROM t") == [{"id": "b", "grade": 3}]


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
