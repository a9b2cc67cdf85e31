"""The rules that the gate judges a candidate version by, also as a Great Expectations suite.

They are the contract's rules and those that follow from its key, types and limits. Row rules are judged again, since a
contract may have changed after its rows were merged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from quality.conditions import (
    ALL_ROWS,
    counted_condition,
    double_braces,
    repeatable,
    row_condition,
    rule_aggregate,
    rule_query,
)
from quality.operators import holds
from quality.row_rules import allows_no_exception, limit_rules, unused_name
from schemas.dataset import Dataset, Rule, Severity

SAMPLES = 20  # rows in the verdict for each failed rule


@dataclass(frozen=True)
class GateRule:
    """A rule that the gate judges: a Great Expectations configuration, and the query for sample rows that fail it.

    In queries ``{batch}`` stands for the candidate, and literal braces are doubled. A rule *composes* if it measures the
    number or the percentage of rows for which the condition `counts` is true, and the condition depends on nothing but the
    row. After a merge, the new count is then the old one plus that of the rows added, minus that of the rows removed.
    """

    name: str
    severity: Severity
    column: str | None
    expectation: str
    kwargs: dict[str, Any]
    samples: str | None
    description: str
    counts: str | None = None  # Spark SQL; "true": all rows; None: the rule does not compose
    percent: bool = False

    def decide(self, count: int, rows: int) -> tuple[bool, Any]:
        """Whether the rule holds if `count` of `rows` satisfy `counts`, and the observed value, both as Great Expectations has them."""
        value = (100.0 * count / rows if rows else 0.0) if self.percent else count
        match self.expectation:
            case "expect_aggregate_value":
                return holds(value, self.kwargs["operator"], self.kwargs["threshold"]), value
            case "expect_table_row_count_to_equal":
                return count == self.kwargs["value"], value
            case "expect_table_row_count_to_be_between":
                return self.kwargs["min_value"] <= count <= self.kwargs["max_value"], value
        return count == 0, value

    def config(self) -> dict[str, Any]:
        """The expectation in the format of a Great Expectations suite file."""
        meta = {"rule": self.name, "description": self.description}
        return {"type": self.expectation, "kwargs": self.kwargs, "severity": self.severity, "meta": meta}


def gate_rules(dataset: Dataset) -> tuple[GateRule, ...]:
    """All rules that a candidate version is judged by; the first is the rule that the key is unique."""
    rules = [replace(rule, name=unused_name(rule.name, dataset)) for rule in _derived_rules(dataset)]
    rules += [_gate_rule(rule, dataset) for rule in dataset.rules]
    return tuple(rules)


def composing_rules(dataset: Dataset) -> tuple[tuple[str, str], ...]:
    """Name and condition of the gate's rules that compose, without those that count all rows.

    A row for which the condition is null is not counted. Count under the Spark SQL settings of the gate.
    """
    return tuple((r.name, r.counts) for r in gate_rules(dataset) if r.counts and r.counts != ALL_ROWS)


def rules_hash(dataset: Dataset) -> str:
    """SHA-256 of everything that carried counts depend on: names and conditions of composing rules, column types, the key."""
    columns = [(f.name, f.type_name) for f in dataset.table_fields]
    return hashlib.sha256(json.dumps([composing_rules(dataset), columns, dataset.key]).encode()).hexdigest()


def key_rule(dataset: Dataset) -> str:
    """The name of the rule that the key is unique; its count is that of the rows whose key is not."""
    return gate_rules(dataset)[0].name


def suite(dataset: Dataset) -> dict[str, Any]:
    """The Great Expectations suite of a dataset, in the format of its suite files."""
    return {"name": dataset.id, "expectations": [rule.config() for rule in gate_rules(dataset)]}


def _derived_rules(dataset: Dataset) -> Iterator[GateRule]:
    """The gate's rules that follow from key, types and limits, not from the contract's `quality`."""
    key = list(dataset.key)
    columns = ", ".join(f"`{c}`" for c in key)
    unique: tuple[str, dict[str, Any]] = (
        ("expect_column_values_to_be_unique", {"column": key[0]})
        if len(key) == 1
        else ("expect_compound_columns_to_be_unique", {"column_list": key})
    )
    kind, kwargs = unique
    yield GateRule(
        "key_is_unique", "critical", key[0], kind, kwargs, _repeats(columns), "One row per key. 每个主键一行。"
    )
    for field in dataset.table_fields:
        if field.required:
            yield GateRule(
                f"{field.name}_is_given", "critical", field.name, "expect_column_values_to_not_be_null",
                {"column": field.name}, _rows(dataset, f"`{field.name}` IS NULL"), "Required. 必填。",
                f"`{field.name}` IS NULL",
            )  # fmt: skip
        for rule in limit_rules(field):
            description = f"Never: {rule.en}. 不得：{rule.zh}。"
            if rule.native:
                samples = _rows(dataset, rule.broken)
                yield GateRule(rule.name, "critical", rule.column, *rule.native, samples, description, rule.broken)
            else:
                yield _no_row_rule(rule.name, "critical", rule.column, rule.broken, description, dataset)


def _repeats(columns: str) -> str:
    """The query for values of the columns that more than one row has."""
    return f"SELECT {columns}, count(*) AS _rows FROM {{batch}} GROUP BY {columns} HAVING count(*) > 1 LIMIT {SAMPLES}"


def _rows(dataset: Dataset, condition: str) -> str:
    """The query for rows that satisfy a condition."""
    columns = ", ".join(f"`{f.name}`" for f in dataset.table_fields)
    return f"SELECT {columns} FROM {{batch}} WHERE {double_braces(condition)} LIMIT {SAMPLES}"


def _no_row_rule(
    name: str, severity: Severity, column: str | None, broken: str, description: str, dataset: Dataset
) -> GateRule:
    """The rule that `broken` is true for no row, as an aggregate."""
    kwargs = {"aggregate": f"count_if({broken})", "operator": "mustBe", "threshold": 0}
    samples = _rows(dataset, broken)
    return GateRule(name, severity, column, "expect_aggregate_value", kwargs, samples, description, repeatable(broken))


def _gate_rule(rule: Rule, dataset: Dataset) -> GateRule:
    """The gate's rule for one of the contract's: a built-in expectation of the same meaning, else an aggregate, else a query."""
    if rule.type == "greatExpectations" and rule.expectation:
        kind, kwargs = str(rule.expectation["type"]), dict(rule.expectation["kwargs"])
        return GateRule(rule.name, rule.severity, rule.column, kind, kwargs, None, rule.description)
    broken = row_condition(rule)
    counts = ALL_ROWS if rule.metric == "rowCount" else repeatable(broken)
    samples = _rows(dataset, broken) if broken else None
    native: tuple[str, dict[str, Any]] | None = None
    # Arguments are written as JSON, which keeps only these types exactly.
    in_json = rule.column is not None and dataset.field(rule.column).kind in ("string", "int", "long")
    if allows_no_exception(rule):
        if rule.metric == "nullValues":
            native = ("expect_column_values_to_not_be_null", {"column": rule.column})
        elif rule.metric == "invalidValues" and set(rule.arguments) == {"validValues"} and in_json:
            values = rule.arguments["validValues"]
            native = ("expect_column_values_to_be_in_set", {"column": rule.column, "value_set": list(values)})
        elif rule.metric == "invalidValues" and set(rule.arguments) == {"pattern"}:
            regex = rule.arguments["pattern"]
            native = ("expect_column_values_to_match_regex", {"column": rule.column, "regex": regex})
        elif rule.metric == "missingValues" and None not in rule.arguments["missingValues"] and in_json:
            values = rule.arguments["missingValues"]
            native = ("expect_column_values_to_not_be_in_set", {"column": rule.column, "value_set": list(values)})
        elif rule.metric == "duplicateValues":
            names = list(rule.arguments.get("properties") or [rule.column])
            samples = _repeats(", ".join(f"`{n}`" for n in names))
            native = (
                ("expect_compound_columns_to_be_unique", {"column_list": names})
                if len(names) > 1
                else ("expect_column_values_to_be_unique", {"column": names[0]})
            )
        elif broken:
            return _no_row_rule(rule.name, rule.severity, rule.column, broken, rule.description, dataset)
    if rule.metric == "rowCount" and rule.operator in ("mustBe", "mustBeBetween"):
        native = (
            ("expect_table_row_count_to_equal", {"value": rule.threshold})
            if rule.operator == "mustBe"
            else (
                "expect_table_row_count_to_be_between",
                {"min_value": rule.threshold[0], "max_value": rule.threshold[1]},
            )
        )
    if native is None:
        comparison = {"operator": rule.operator, "threshold": rule.threshold}
        if aggregate := rule_aggregate(rule, broken):  # shares one scan with all other aggregates
            native = ("expect_aggregate_value", {"aggregate": aggregate, **comparison})
            counts = counts or repeatable(counted_condition(aggregate))
        else:
            native = ("expect_query_value", {"query": rule_query(rule), **comparison})
    percent = broken is not None and rule.unit == "percent" and native[0] == "expect_aggregate_value"
    return GateRule(rule.name, rule.severity, rule.column, *native, samples, rule.description, counts, percent)
