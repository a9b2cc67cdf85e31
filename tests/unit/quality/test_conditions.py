"""Which rules are read as a condition on one row, and how their values are written in SQL."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from quality.conditions import row_condition, sql_literal
from schemas.dataset import Rule


def sql(query: str, column: str | None = None, **changes: Any) -> Rule:
    return replace(Rule("r", "sql", column=column, query=query, operator="mustBe", threshold=0), **changes)


def library(metric: str, *, column: str | None = "x", **changes: Any) -> Rule:
    return replace(Rule("r", "library", column=column, metric=metric, operator="mustBe", threshold=0), **changes)


@pytest.mark.parametrize(
    ("rule", "made"),
    [
        (library("nullValues"), "`x` IS NULL"),
        (library("missingValues", arguments={"missingValues": [None, ""]}), "(`x` IS NULL OR coalesce(`x` IN (''), false))"),
        (library("missingValues", arguments={"missingValues": ["无"]}), "(coalesce(`x` IN ('无'), false))"),
        (library("missingValues", arguments={"missingValues": [None]}), "(`x` IS NULL)"),
        (library("invalidValues", arguments={"validValues": ["a", "b"]}), "(`x` NOT IN ('a', 'b'))"),
        (library("invalidValues", arguments={"pattern": r"^\d$"}), r"(NOT (`x` RLIKE '^\\d$'))"),
        (library("invalidValues", arguments={"validValues": ["a"], "pattern": "a"}),
         "(`x` NOT IN ('a') OR NOT (`x` RLIKE 'a'))"),
        (library("duplicateValues"), None),
        (library("rowCount", column=None), None),
    ],
)  # fmt: skip
def test_library_rule_of_a_column_is_a_condition(rule: Rule, made: str | None) -> None:
    assert row_condition(rule) == made


@pytest.mark.parametrize("name", ["${object}", "${table}", "{model}", "{schema}"])
def test_a_count_where_query_is_a_condition_whatever_the_datasets_name(name: str) -> None:
    assert row_condition(sql(f"select count(*)\nfrom {name} where x < 0")) == "(x < 0\n)"


@pytest.mark.parametrize("name", ["${property}", "${column}", "{field}"])
def test_placeholder_of_the_column_is_its_name(name: str) -> None:
    assert row_condition(sql(f"SELECT COUNT(1) FROM ${{object}} WHERE {name} < 0", "x")) == "(`x` < 0\n)"


def test_a_condition_that_ends_in_a_comment_keeps_its_closing_bracket() -> None:
    found = row_condition(sql("SELECT COUNT(*) FROM ${object} WHERE x < 0 -- never"))
    assert found is not None
    assert found.splitlines()[-1] == ")"


@pytest.mark.parametrize(
    "query",
    [
        "SELECT COUNT(*) FROM ${object}",
        "SELECT COUNT(DISTINCT x) FROM ${object} WHERE x < 0",
        "SELECT AVG(x) FROM ${object} WHERE x < 0",
        "SELECT COUNT(*) FROM ${object} WHERE x < 0 GROUP BY x",
        "SELECT COUNT(*) FROM ${object} WHERE x < (SELECT AVG(x) FROM ${object})",
        "SELECT COUNT(*) FROM ${object} WHERE count(*) OVER (PARTITION BY x) > 1",
        "SELECT COUNT(*) FROM ${object} WHERE x < 0 UNION SELECT 1",
        "SELECT COUNT(*) FROM ${object} a JOIN ${object} b WHERE a.x = b.x",
        "SELECT COUNT(*) FROM ${object} WHERE x < 0 HAVING count(*) > 1",
        "SELECT COUNT(*) FROM ${object} WHERE x < 0 LIMIT 1",
    ],
)
def test_a_query_that_needs_other_rows_is_no_condition(query: str) -> None:
    assert row_condition(sql(query)) is None


def test_a_keyword_inside_a_text_does_not_count() -> None:
    assert row_condition(sql("SELECT COUNT(*) FROM ${object} WHERE x = 'select over limit, it''s'")) is not None


@pytest.mark.parametrize(
    ("value", "literal"),
    [
        (None, "NULL"), (True, "true"), (7, "7"), (-(2**63), "-9223372036854775808"), (0.1, "0.1D"),
        (float("inf"), "double('inf')"), (Decimal("1E+2"), "100BD"), ("it's\\n\n", r"'it\'s\\n\n'"), (date(1, 1, 1), "DATE'0001-01-01'"),
    ],
)  # fmt: skip
def test_literal_is_the_same_value_in_spark_sql(value: Any, literal: str) -> None:
    assert sql_literal(value) == literal
