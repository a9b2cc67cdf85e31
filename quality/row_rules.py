"""The rules of a contract that ingest checks each row against. Rows that break one go to quarantine.

A rule is a *row rule* if it is critical, allows no exception and can be decided for each row alone: a library rule on a
column, a limit of `logicalTypeOptions`, or a sql rule of the form ``SELECT COUNT(*) FROM ${object} WHERE <bad>`` that must
be 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from quality.conditions import row_condition, sql_literal
from schemas.dataset import Dataset, Field, Rule

LISTED = 20  # allowed values in the reason why a row breaks a rule


@dataclass(frozen=True)
class RowRule:
    """A rule that each row decides alone. `broken` is the Spark SQL condition that is true for a row that breaks it."""

    name: str
    column: str | None
    broken: str
    en: str
    zh: str
    native: tuple[str, dict[str, Any]] | None = None  # a built-in expectation of the same meaning, and its arguments


def row_rules(dataset: Dataset) -> tuple[RowRule, ...]:
    """The rules that ingest checks each row against: limits in table order, then rules in the contract's order."""
    limits = [
        replace(rule, name=unused_name(rule.name, dataset))
        for field in dataset.table_fields
        for rule in limit_rules(field)
    ]
    named = [
        RowRule(rule.name, rule.column, broken, *_reason(rule))
        for rule in dataset.rules
        if rule.severity == "critical" and allows_no_exception(rule) and (broken := row_condition(rule))
    ]
    return (*limits, *named)


def unused_name(name: str, dataset: Dataset) -> str:
    """The name of a derived rule, with ``_derived`` appended if a rule of the contract has the same name."""
    return f"{name}_derived" if any(name == rule.name for rule in dataset.rules) else name


def allows_no_exception(rule: Rule) -> bool:
    """Whether one row that breaks the rule is enough to fail it."""
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
        listed = [str(v) for v in valid[:LISTED]] + ["…"] * (len(valid) > LISTED)
        return (
            f"{rule.column} is not one of {', '.join(listed)}",
            f"{rule.column} 不在允许的取值之内：{'、'.join(listed)}",
        )
    if pattern := rule.arguments.get("pattern"):
        return f"{rule.column} is not of the pattern {pattern}", f"{rule.column} 不符合格式 {pattern}"
    if rule.metric in ("nullValues", "missingValues"):
        return f"{rule.column} is missing", f"缺少 {rule.column}"
    return f"rule {rule.name} is broken", f"不满足规则 {rule.name}"


def limit_rules(field: Field) -> Iterator[RowRule]:
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
