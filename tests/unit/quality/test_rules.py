"""Which rules quarantine a row, which hold a release, and what each is compiled to."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from quality.conditions import sql_literal
from quality.gate_rules import composing_rules, gate_rules, key_rule, rules_hash, suite
from quality.row_rules import row_rules
from schemas.contract import load_contract
from schemas.contract_folders import SHIPPED
from schemas.dataset import Dataset, Field, Kind, Limits, Rule

CONTRACTS = [*sorted(SHIPPED.glob("*.yaml")), *sorted((Path(__file__).parents[2] / "contracts").glob("*.yaml"))]


def dataset(*fields: Field, rules: tuple[Rule, ...] = ()) -> Dataset:
    fields = (Field("id", "string", True), *fields)
    return Dataset("t", "1.0.0", fields, ("id",), None, None, "none", None, rules, "", "", "t.yaml", "")


def sql(query: str, column: str | None = None, **changes: Any) -> Rule:
    return replace(Rule("r", "sql", column=column, query=query, operator="mustBe", threshold=0), **changes)


def library(metric: str, *, column: str | None = "x", **changes: Any) -> Rule:
    return replace(Rule("r", "library", column=column, metric=metric, operator="mustBe", threshold=0), **changes)


def row_names(*rules: Rule, field: Field | None = None) -> list[str]:
    return [r.name for r in row_rules(dataset(field or Field("x", "string"), rules=rules))]


# ---- which rules are row rules


@pytest.mark.parametrize(
    ("change", "row"),
    [
        ({}, True), ({"operator": "mustBeLessOrEqualTo"}, True), ({"operator": "mustBeLessThan", "threshold": 1}, True),
        ({"unit": "percent"}, True), ({"threshold": 1}, False), ({"operator": "mustBeLessThan", "threshold": 5}, False),
        ({"operator": "mustBeLessThan", "threshold": 1, "unit": "percent"}, False), ({"operator": "mustNotBe"}, False),
        ({"operator": "mustBeGreaterOrEqualTo"}, False), ({"severity": "warning"}, False), ({"severity": "info"}, False),
    ],
)  # fmt: skip
def test_row_rule_allows_none_and_is_critical(change: dict[str, Any], row: bool) -> None:
    rule = library("nullValues", **change)
    assert row_names(rule) == (["r"] if row else [])
    assert "r" in [r.name for r in gate_rules(dataset(Field("x", "string"), rules=(rule,)))]


def test_every_row_rule_is_judged_again_at_the_gate() -> None:
    for path in CONTRACTS:
        made = load_contract(path)
        gate = [r.name for r in gate_rules(made)]
        assert {r.name for r in row_rules(made)} <= set(gate)
        assert len(gate) == len(set(gate))


def test_a_rule_of_the_contract_replaces_the_derived_rule_of_the_same_name() -> None:
    mine = library("rowCount", column=None, name="x_minimum", operator="mustBeGreaterThan")
    made = dataset(Field("x", "int", limits=Limits(minimum=0)), rules=(mine,))
    assert [r.name for r in row_rules(made)] == ["x_minimum_derived"]
    assert [r.name for r in gate_rules(made)][-2:] == ["x_minimum_derived", "x_minimum"]


def test_reason_is_the_description_english_first() -> None:
    told = library("nullValues", description="It is given. 必须填写。")
    plain = library("nullValues", name="given")
    reasons = [(r.en, r.zh) for r in row_rules(dataset(Field("x", "string"), rules=(told, plain)))]
    assert reasons == [("It is given.", "必须填写。"), ("x is missing", "缺少 x")]


# ---- limits


@pytest.mark.parametrize(
    ("kind", "limits", "broken"),
    [
        ("int", Limits(minimum=0), "`x` < 0"),
        ("int", Limits(maximum=Decimal("9.5")), "`x` > 9.5BD"),
        ("long", Limits(exclusive_minimum=0), "`x` <= 0"),
        ("long", Limits(exclusive_maximum=9), "`x` >= 9"),
        ("int", Limits(multiple_of=5), "`x` % 5 <> 0"),
        ("decimal", Limits(minimum=Decimal("0.10")), "`x` < 0.10BD"),
        ("date", Limits(maximum=date(2030, 1, 1)), "`x` > DATE'2030-01-01'"),
        ("timestamp", Limits(minimum=datetime(2020, 1, 1, tzinfo=UTC)), "`x` < TIMESTAMP'2020-01-01 00:00:00+00:00'"),
        ("string", Limits(min_length=2), "char_length(`x`) < 2"),
        ("bytes", Limits(max_length=2), "char_length(`x`) > 2"),
        ("array", Limits(max_length=2), "size(`x`) > 2"),
        ("string", Limits(pattern="^a'$"), r"NOT (`x` RLIKE '^a\'$')"),
    ],
)
def test_limit_is_a_row_rule(kind: Kind, limits: Limits, broken: str) -> None:
    (rule,) = row_rules(dataset(Field("x", kind, limits=limits, item=None)))
    assert rule.broken == broken
    assert rule.column == "x"


@pytest.mark.parametrize("kind", ["float", "double"])
def test_floating_number_must_be_finite(kind: Kind) -> None:
    assert row_names(field=Field("x", kind)) == ["x_finite"]


def test_limit_inside_a_record_or_array_is_a_row_rule() -> None:
    price = Field("price", "decimal", precision=5, scale=2, limits=Limits(minimum=Decimal(0)))
    code = Field("item", "string", limits=Limits(max_length=3))
    line = Field("item", "record", fields=(price, Field("codes", "array", item=code)))
    made = {r.name: r.broken for r in row_rules(dataset(Field("lines", "array", item=line), replace(price, name="p")))}
    assert made == {
        "lines[].price_minimum": "exists(`lines`, item0 -> item0.`price` < 0BD)",
        "lines[].codes[]_max_length": "exists(`lines`, item0 -> exists(item0.`codes`, item1 -> char_length(item1) > 3))",
        "p_minimum": "`p` < 0BD",
    }


# ---- the gate


def gate(rule: Rule, *fields: Field) -> Any:
    return next(r for r in gate_rules(dataset(*(fields or (Field("x", "string"),)), rules=(rule,))) if r.name == "r")


def test_key_is_judged_unique_and_required_columns_given() -> None:
    made = {r.name: r.expectation for r in gate_rules(dataset())}
    assert made == {
        "key_is_unique": "expect_column_values_to_be_unique",
        "id_is_given": "expect_column_values_to_not_be_null",
    }


def test_compound_key_is_judged_as_one() -> None:
    t = replace(dataset(Field("x", "int", True)), key=("id", "x"))
    unique = gate_rules(t)[0]
    assert unique.expectation == "expect_compound_columns_to_be_unique"
    assert unique.kwargs == {"column_list": ["id", "x"]}


@pytest.mark.parametrize(
    ("rule", "expectation"),
    [
        (library("nullValues"), "expect_column_values_to_not_be_null"),
        (library("invalidValues", arguments={"validValues": ["a"]}), "expect_column_values_to_be_in_set"),
        (library("invalidValues", arguments={"pattern": "a"}), "expect_column_values_to_match_regex"),
        (library("missingValues", arguments={"missingValues": ["a"]}), "expect_column_values_to_not_be_in_set"),
        (library("missingValues", arguments={"missingValues": [None, "a"]}), "expect_aggregate_value"),
        (library("duplicateValues"), "expect_column_values_to_be_unique"),
        (library("duplicateValues", arguments={"properties": ["id", "x"]}), "expect_compound_columns_to_be_unique"),
        (library("rowCount", column=None, threshold=5), "expect_table_row_count_to_equal"),
        (library("rowCount", column=None, operator="mustBeBetween", threshold=[1, 2]),
         "expect_table_row_count_to_be_between"),
        (library("rowCount", column=None, operator="mustBeGreaterThan"), "expect_aggregate_value"),
        (library("nullValues", threshold=5), "expect_aggregate_value"),
        (library("duplicateValues", threshold=5), "expect_query_value"),
        (sql("SELECT COUNT(*) FROM ${object} WHERE x < 0"), "expect_aggregate_value"),
        (sql("SELECT AVG(x) FROM ${object}"), "expect_aggregate_value"),
        (sql("SELECT AVG(x) FROM ${object} WHERE x > 0"), "expect_query_value"),
    ],
)  # fmt: skip
def test_a_rule_uses_great_expectations_own_expectation_where_there_is_one(rule: Rule, expectation: str) -> None:
    assert gate(rule).expectation == expectation


@pytest.mark.parametrize(
    ("kind", "value"),
    [("date", date(2020, 1, 1)), ("decimal", Decimal("0.1")), ("timestamp", datetime(2020, 1, 1, tzinfo=UTC))],
)
def test_value_that_json_cannot_hold_is_judged_by_its_sql(kind: Kind, value: Any) -> None:
    made = gate(library("invalidValues", arguments={"validValues": [value]}), Field("x", kind))
    assert made.expectation == "expect_aggregate_value"
    assert sql_literal(value) in made.kwargs["aggregate"]


@pytest.mark.parametrize(
    ("rule", "aggregate"),
    [
        (library("rowCount", column=None, operator="mustBeGreaterThan"), "count(*)"),
        (library("nullValues", threshold=5), "count_if(`x` IS NULL)"),
        (library("nullValues", threshold=5, unit="percent"),
         "coalesce(100.0D * count_if(`x` IS NULL) / nullif(count(*), 0), 0.0D)"),
        (sql("SELECT COUNT(*) FROM ${object} WHERE x = '{1}'", operator="mustBeLessThan", threshold=5),
         "count_if((x = '{1}'\n))"),
        (sql("SELECT AVG(${property}) FROM ${object}", "x"), "AVG(`x`)"),
        (sql("SELECT count_if(x IN ('a;', '(b', 'from')) FROM ${object}"), "count_if(x IN ('a;', '(b', 'from'))"),
    ],
)  # fmt: skip
def test_measure_is_an_aggregate_that_shares_one_scan(rule: Rule, aggregate: str) -> None:
    assert gate(rule).kwargs["aggregate"] == aggregate


@pytest.mark.parametrize(
    ("rule", "query"),
    [
        (library("duplicateValues", threshold=5), "SELECT count(*) - count(DISTINCT struct(`x`)) FROM {batch}"),
        (sql("SELECT AVG(${property}) FROM ${object} WHERE x RLIKE '{2}'", "x"),
         "SELECT AVG(`x`) FROM {batch} WHERE x RLIKE '{{2}}'"),
        *((sql(f"SELECT {what} FROM ${{object}}"), f"SELECT {what} FROM {{batch}}") for what in (
            "x", "count(DISTINCT x)", "count(*), max(x)", "max(x) - min(x)", "count(*) AS n", "max(x) -- all",
            "sum(x) OVER ()", "max((SELECT 1))", "upper(x)",
        )),
    ],
)  # fmt: skip
def test_a_measure_that_is_no_plain_aggregate_is_a_query_of_its_own(rule: Rule, query: str) -> None:
    assert gate(rule).kwargs["query"] == query


def test_an_expectation_of_the_contract_is_used_unchanged() -> None:
    body = {"type": "expect_column_values_to_be_between", "kwargs": {"column": "x", "min_value": 0}}
    made = gate(Rule("r", "greatExpectations", column="x", expectation=body, severity="warning"))
    assert made.config() | {"meta": None} == {**body, "severity": "warning", "meta": None}


@pytest.mark.parametrize("path", CONTRACTS, ids=lambda p: p.stem)
def test_suite_is_json_as_great_expectations_keeps_it(path: Path) -> None:
    made = suite(load_contract(path))
    assert json.loads(json.dumps(made)) == made
    assert made["name"] == load_contract(path).id
    assert all(e["type"] and isinstance(e["kwargs"], dict) for e in made["expectations"])


# ---- rules that compose


def composing(*rules: Rule) -> list[tuple[str, str]]:
    return [made for made in composing_rules(dataset(Field("x", "string"), rules=rules)) if made[0] != "id_is_given"]


@pytest.mark.parametrize(
    ("rule", "made"),
    [
        (library("nullValues", threshold=5, unit="percent", severity="info"), "`x` IS NULL"),
        (library("invalidValues", arguments={"pattern": "now"}), "(NOT (`x` RLIKE 'now'))"),
        (sql("SELECT COUNT(*) FROM ${object} WHERE x > 1", operator="mustBeGreaterThan"), "(x > 1\n)"),
        (sql("SELECT count_if(x > 1) FROM ${object}"), "(x > 1\n)"),
    ],
)
def test_a_rule_that_counts_rows_composes_whatever_its_limit(rule: Rule, made: str) -> None:
    assert composing(rule) == [("r", made)]


@pytest.mark.parametrize(
    "rule",
    [
        library("rowCount", column=None, threshold=5),
        library("duplicateValues"),
        library("duplicateValues", threshold=5, unit="percent"),
        sql("SELECT COUNT(*) FROM ${object}"),
        sql("SELECT AVG(x) FROM ${object}"),
        sql("SELECT count(x) FROM ${object}"),
        sql("SELECT COUNT(*) FROM ${object} WHERE x > (SELECT 1)"),
        *(sql(f"SELECT {what}") for what in (
            "COUNT(*) FROM ${object} WHERE x > current_date", "COUNT(*) FROM ${object} WHERE x > now()",
            "COUNT(*) FROM ${object} WHERE x > DATE'today'", "count_if(x > timestamp_ltz 'now') FROM ${object}",
            "count_if(rand() < x) FROM ${object}", "COUNT(*) FROM ${object} WHERE x > unix_timestamp()",
        )),
    ],
)  # fmt: skip
def test_a_rule_that_depends_on_other_rows_or_the_date_does_not_compose(rule: Rule) -> None:
    assert composing(rule) == []


def test_the_hash_of_the_composing_rules_changes_only_with_what_their_counts_depend_on() -> None:
    rule = library("nullValues")
    base = dataset(Field("x", "string"), rules=(rule,))
    assert rules_hash(base) == rules_hash(replace(base, rules=(replace(rule, threshold=9, severity="info"),)))
    others = [
        replace(base, rules=(replace(rule, name="s"),)),
        replace(base, rules=(replace(rule, column="id"),)),
        dataset(Field("x", "int"), rules=(rule,)),
    ]
    assert len({rules_hash(made) for made in (base, *others)}) == 4


@pytest.mark.parametrize("path", CONTRACTS, ids=lambda p: p.stem)
def test_each_row_rule_composes_under_its_name(path: Path) -> None:
    made = load_contract(path)
    names = [name for name, _ in composing_rules(made)]
    assert {r.name for r in row_rules(made)} <= set(names)
    assert len(names) == len(set(names))
    assert key_rule(made) == gate_rules(made)[0].name


def test_limit_that_a_double_cannot_hold_is_judged_by_its_sql() -> None:
    for limit, kind in ((2**53 - 1, "expect_column_values_to_be_between"), (2**53, "expect_aggregate_value")):
        made = gate_rules(dataset(Field("x", "long", limits=Limits(maximum=limit))))
        assert made[-1].expectation == kind
