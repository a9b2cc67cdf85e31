"""A verdict from carried counts is the same as a verdict from all rows."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any

import pytest

from pipelines.release import carried_counts as carrying
from pipelines.release.release import shared_rows
from quality.gate import judge
from quality.gate_rules import gate_rules
from quality.verdict import Verdict
from tests.integration.conftest import Road

GRADE = (
    "      - {name: grade, logicalType: string, quality: "
    "[{name: grades_given, metric: nullValues, unit: percent, mustBeLessOrEqualTo: 40, severity: warning}]}\n"
)


def same(verdict: Verdict) -> dict[str, Any]:
    """A verdict without the parts that differ between two judgements of the same rows."""
    results = tuple(r for r in verdict.results if r.rule != "account_closes")
    return asdict(
        replace(verdict, results=results, carried=(), counted_at="", account_version=-1, judged_at="", seconds=0.0)
    )


def step(road: Road) -> Verdict:
    """One pass; returns its verdict, which must be the same as the verdict from all rows."""
    (released,) = road.sync().releases
    version = released.record.silver_version
    by_rows = judge(shared_rows(road.lake, road.dataset, version), road.dataset, version)
    assert same(released.verdict) == same(by_rows)
    return released.verdict


def test_counts_are_carried_from_verdict_to_verdict_by_what_merges_changed(road: Road) -> None:
    road.contract(columns=GRADE)
    road.publish(*({"id": f"k{i}", "seq": 1, "amount": i, "grade": "a"} for i in range(8)))
    assert step(road).carried == ()
    road.publish({"id": "k1", "seq": 2, "amount": None, "grade": None}, {"id": "n", "seq": 1, "grade": None})
    verdict = step(road)
    assert set(verdict.carried) == {rule.name for rule in gate_rules(road.dataset)}
    assert {r.rule: r.observed for r in verdict.results}["amounts_are_given"] == 1
    road.publish({"id": "k1", "seq": 3, "amount": 5, "grade": "b"}, {"id": "m", "seq": 1, "amount": None, "grade": "c"})
    road.publish({"id": "k2", "seq": 2, "grade": None}, {"id": "k3", "seq": 2, "grade": None}, district="440103")
    road.publish(delete=[{"id": "n", "seq": 2}, {"id": "k4", "seq": 2}])
    assert step(road).carried == verdict.carried
    road.publish(
        {"id": "n", "seq": 3, "amount": None, "grade": None}, {"id": "m", "seq": 2, "amount": None, "grade": "d"}
    )
    last = step(road)
    assert last.carried == verdict.carried
    assert last.counted_at < last.judged_at


def test_the_gate_counts_all_rows_after_another_contract_an_old_count_or_an_unknown_commit(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    road.publish({"id": "a", "seq": 1})
    step(road)
    road.contract(version="1.1.0", columns=GRADE)
    road.publish({"id": "b", "seq": 1})
    assert step(road).carried == ()
    road.publish({"id": "a", "seq": 2, "amount": 2})  # a row that was checked by the old rules
    assert step(road).carried == ()
    road.publish({"id": "a", "seq": 3, "amount": 3})
    assert step(road).carried
    monkeypatch.setattr(carrying, "COUNT_AGAIN", timedelta(0))
    road.publish({"id": "a", "seq": 4, "amount": 4})
    assert step(road).carried == ()


def test_a_rule_that_cannot_be_evaluated_for_a_row_is_counted_over_all_rows(road: Road) -> None:
    rule = (
        "      - {name: parts, logicalType: string, quality: [{name: first_part, type: sql, severity: warning, "
        "mustBe: 0, query: \"SELECT COUNT(*) FROM ${object} WHERE element_at(split(parts, '-'), length(parts)) = 'x'\"}]}\n"
    )
    road.contract(columns=rule)
    road.publish({"id": "a", "seq": 1, "parts": "a"})
    (released,) = road.sync().releases
    road.publish({"id": "b", "seq": 1, "parts": "x"})
    verdict = step(road)
    assert verdict.carried
    assert {r.rule: r.observed for r in verdict.results}["first_part"] == 1
    road.publish({"id": "c", "seq": 1, "parts": ""})  # there is no element 0
    (released,) = road.sync().releases
    assert released.verdict.carried == ()
    (failed,) = (r for r in released.verdict.results if r.rule == "first_part")
    assert failed.error
