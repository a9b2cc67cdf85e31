"""A contract's rules in executable form: row rules for ingest, and a Great Expectations suite for the gate.

A rule is a *row rule* if it is critical, allows no exception and can be decided for each row alone: a library rule on a
column, a limit of `logicalTypeOptions`, or a sql rule of the form ``SELECT COUNT(*) FROM ${object} WHERE <bad>`` that must
be 0. Rows that break a row rule go to quarantine. The gate judges all rules, row rules included, since a contract may have
changed after its rows were merged.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from quality.conditions import (
    ALL_ROWS,
    counted_condition,
    double_braces,
    repeatable,
    row_condition,
    rule_aggregate,
    rule_query,
    sql_literal,
)
from schemas.dataset import Dataset, Field, Rule, Severity

SAMPLES = 20  # rows in the verdict for each failed rule

Operator = Literal[
    "mustBe", "mustNotBe", "mustBeGreaterThan", "mustBeGreaterOrEqualTo", "mustBeLessThan", "mustBeLessOrEqualTo",
    "mustBeBetween", "mustNotBeBetween",
]  # fmt: skip


def holds(value: float | None, operator: Operator, threshold: float | list[float]) -> bool:
    """Whether a value satisfies the ODCS operator; None never does."""
    if value is None:
        return False
    low, high = threshold if isinstance(threshold, list) else (threshold, threshold)
    match operator:
        case "mustBe":
            return value == low
        case "mustNotBe":
            return value != low
        case "mustBeGreaterThan":
            return value > low
        case "mustBeGreaterOrEqualTo":
            return value >= low
        case "mustBeLessThan":
            return value < low
        case "mustBeLessOrEqualTo":
            return value <= low
        case "mustBeBetween":
            return low <= value <= high
        case "mustNotBeBetween":
            return not low <= value <= high


@dataclass(frozen=True)
class RowRule:
    """A rule that each row decides alone. `broken` is the Spark SQL condition that is true for a row that breaks it."""

    name: str
    column: str | None
    broken: str
    en: str
    zh: str
    native: tuple[str, dict[str, Any]] | None = None  # a built-in expectation of the same meaning, and its arguments


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


Derived = TypeVar("Derived", RowRule, GateRule)


def row_rules(dataset: Dataset) -> tuple[RowRule, ...]:
    """The rules that ingest checks each row against: limits in table order, then rules in the contract's order."""
    limits = [_with_unused_name(rule, dataset) for field in dataset.table_fields for rule in _limit_rules(field)]
    named = [
        RowRule(rule.name, rule.column, broken, *_reason(rule))
        for rule in dataset.rules
        if rule.severity == "critical" and _allows_no_exception(rule) and (broken := row_condition(rule))
    ]
    return (*limits, *named)


def gate_rules(dataset: Dataset) -> tuple[GateRule, ...]:
    """All rules that a candidate version is judged by; the first is the rule that the key is unique."""
    rules = [_with_unused_name(rule, dataset) for rule in _derived_rules(dataset)]
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


def _with_unused_name(rule: Derived, dataset: Dataset) -> Derived:
    """The derived rule, with ``_derived`` appended to its name if a rule of the contract has the same name."""
    taken = any(rule.name == other.name for other in dataset.rules)
    return replace(rule, name=f"{rule.name}_derived") if taken else rule


def suite(dataset: Dataset) -> dict[str, Any]:
    """The Great Expectations suite of a dataset, in the format of its suite files."""
    return {"name": dataset.id, "expectations": [rule.config() for rule in gate_rules(dataset)]}


def _allows_no_exception(rule: Rule) -> bool:
    limits = {"mustBe": 0, "mustBeLessOrEqualTo": 0} | ({"mustBeLessThan": 1} if rule.unit == "rows" else {})
    return rule.operator in limits and rule.threshold == limits[rule.operator]


def _reason(rule: Rule) -> tuple[str, str]:
    """Why a row breaks the rule, in English and Chinese, as a receipt says it."""
    if rule.description:  # by convention English comes first, and Chinese begins at the first Chinese character
        start = re.search(r"[\u3400-\u9fff]", rule.description)
        if start and start.start():
            return rule.description[: start.start()].strip(), rule.description[start.start() :].strip()
        return rule.description, rule.description
    if valid := rule.arguments.get("validValues"):
        listed = [str(v) for v in valid[:SAMPLES]] + ["…"] * (len(valid) > SAMPLES)
        return (
            f"{rule.column} is not one of {', '.join(listed)}",
            f"{rule.column} 不在允许的取值之内：{'、'.join(listed)}",
        )
    if pattern := rule.arguments.get("pattern"):
        return f"{rule.column} is not of the pattern {pattern}", f"{rule.column} 不符合格式 {pattern}"
    if rule.metric in ("nullValues", "missingValues"):
        return f"{rule.column} is missing", f"缺少 {rule.column}"
    return f"rule {rule.name} is broken", f"不满足规则 {rule.name}"


def _limit_rules(field: Field) -> Iterator[RowRule]:
    """The rules of a column's type and limits, and of its members and items. A node checks them too; other producers may not."""
    return _limits_of(field, field.name, f"`{field.name}`", field.name, lambda broken: broken)


def _limits_of(field: Field, column: str, value: str, name: str, for_any: Callable[[str], str]) -> Iterator[RowRule]:
    """The rules of one value in a row: `value` is its SQL, `name` its path, as in ``lines[].price``.

    `for_any` turns a condition on the value into one on the row, which is true if the condition is true for any item of the
    arrays that enclose the value.
    """
    size = f"size({value})" if field.kind == "array" else f"char_length({value})"  # for bytes it is their number
    limits = field.limits
    between, lengths = "expect_column_values_to_be_between", "expect_column_value_lengths_to_be_between"
    checks: list[tuple[str, Any, str, str, str, str, dict[str, Any]]] = [
        ("minimum", limits.minimum, f"{value} < {{}}", "below", "小于", between, {"min_value": limits.minimum}),
        ("maximum", limits.maximum, f"{value} > {{}}", "above", "大于", between, {"max_value": limits.maximum}),
        ("exclusive_minimum", limits.exclusive_minimum, f"{value} <= {{}}", "not above", "不大于", between,
         {"min_value": limits.exclusive_minimum, "strict_min": True}),
        ("exclusive_maximum", limits.exclusive_maximum, f"{value} >= {{}}", "not below", "不小于", between,
         {"max_value": limits.exclusive_maximum, "strict_max": True}),
        ("multiple_of", limits.multiple_of, f"{value} % {{}} <> 0", "not a multiple of", "不是其整数倍：", "", {}),
        ("min_length", limits.min_length, f"{size} < {{}}", "shorter than", "长度小于", lengths,
         {"min_value": limits.min_length}),
        ("max_length", limits.max_length, f"{size} > {{}}", "longer than", "长度大于", lengths,
         {"max_value": limits.max_length}),
        ("pattern", limits.pattern, f"NOT ({value} RLIKE {{}})", "not of the pattern", "不符合格式",
         "expect_column_values_to_match_regex", {"regex": limits.pattern}),
    ]  # fmt: skip
    if field.kind in ("float", "double"):
        yield RowRule(
            f"{name}_finite",
            column,
            for_any(f"(isnan({value}) OR abs({value}) = double('infinity'))"),
            f"{name} is not a finite number",
            f"{name} 不是有限数值",
        )
    for kind, limit, template, en, zh, expectation, kwargs in checks:
        if limit is None:
            continue
        whole = isinstance(limit, int) and abs(limit) < 2**53  # Great Expectations compares as a double
        exact = field.kind == "string" or (field.kind in ("int", "long") and whole)
        native = (expectation, {"column": column, **kwargs}) if expectation and exact and name == column else None
        yield RowRule(
            f"{name}_{kind}",
            column,
            for_any(template.format(sql_literal(limit))),
            f"{name} is {en} {limit}",
            f"{name} {zh} {limit}",
            native,
        )
    for member in field.fields:
        yield from _limits_of(member, column, f"{value}.`{member.name}`", f"{name}.{member.name}", for_any)
    if field.item:
        item = f"item{name.count('[]')}"
        yield from _limits_of(
            field.item, column, item, f"{name}[]", lambda broken: for_any(f"exists({value}, {item} -> {broken})")
        )


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
        "key_is_unique", "critical", key[0], kind, kwargs, _repeats(columns), "One row a key. 一个主键一行。"
    )
    for field in dataset.table_fields:
        if field.required:
            yield GateRule(
                f"{field.name}_is_given", "critical", field.name, "expect_column_values_to_not_be_null",
                {"column": field.name}, _rows(dataset, f"`{field.name}` IS NULL"), "Required. 必填。",
                f"`{field.name}` IS NULL",
            )  # fmt: skip
        for rule in _limit_rules(field):
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
    if _allows_no_exception(rule):
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
