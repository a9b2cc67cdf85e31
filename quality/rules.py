"""A contract's rules as data: row rules for the door, a Great Expectations suite for the gate.

A rule is a *row rule* when one row alone decides it, it allows no exception and it is critical: a library rule
on a column, a limit of `logicalTypeOptions`, or a sql rule of the form ``SELECT COUNT(*) FROM ${object} WHERE
<bad>`` that must be 0. Rows that break one go to quarantine. Every rule, row rules included, is judged again at
the gate, since a contract may have changed after its rows were merged.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal, TypeVar

from schemas.dataset import Dataset, Field, Rule, Severity
from schemas.odcs.rules import OBJECT, PROPERTY

SAMPLES = 20  # rows shown of each failed rule
_COUNT_WHERE = re.compile(
    rf"^\s*SELECT\s+COUNT\s*\(\s*(?:\*|1)\s*\)\s+FROM\s+{OBJECT.pattern}\s+WHERE\s+(.+)$",
    re.IGNORECASE | re.DOTALL,
)
_NOT_ONE_ROW = re.compile(
    r"\b(select|over|group\s+by|having|order\s+by|limit|union|intersect|except|join)\b", re.IGNORECASE
)
_ONE_VALUE = re.compile(rf"^\s*SELECT\s+(.+?)\s+FROM\s+{OBJECT.pattern}\s*$", re.IGNORECASE | re.DOTALL)
_ONE_AGGREGATE = re.compile(  # parentheses within go one deep
    r"\s*(count|count_if|sum|avg|min|max)\s*\((?!\s*distinct\b)([^();]|\([^();]*\))*\)\s*", re.IGNORECASE
)
ALL_ROWS = "true"
_TEXT = re.compile(r"'(?:[^'\\]|\\.|'')*'")
_COUNT_IF = re.compile(r"\s*count_if\s*\((.+)\)\s*", re.IGNORECASE | re.DOTALL)
_CHANGES = re.compile(  # what makes of the same row another thing at another time
    r"\b(current_\w+|now|curdate|local\w+|unix_timestamp|rand\w*|uuid|shuffle|monotonically_increasing_id|spark_partition_id"
    r"|input_file_\w+|session_user|user|(try_)?reflect|java_method)\b",
    re.IGNORECASE,
)
_TODAY = re.compile(r"\b(date|timestamp\w*)\s*'\s*[a-z]", re.IGNORECASE)  # DATE'today'


Operator = Literal[
    "mustBe", "mustNotBe", "mustBeGreaterThan", "mustBeGreaterOrEqualTo", "mustBeLessThan", "mustBeLessOrEqualTo",
    "mustBeBetween", "mustNotBeBetween",
]  # fmt: skip


def holds(value: float | None, operator: Operator, threshold: float | list[float]) -> bool:
    """Whether the value is as the ODCS operator demands; a missing value never is."""
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
    """A rule one row decides: `broken` is the Spark SQL condition that is true for a bad row."""

    name: str
    column: str | None
    broken: str
    en: str
    zh: str
    native: tuple[str, dict[str, Any]] | None = None  # Great Expectations' own name for it, where there is one


@dataclass(frozen=True)
class GateRule:
    """A rule the gate judges: a Great Expectations configuration, and the query that shows rows that fail it.

    In queries ``{batch}`` stands for the candidate and literal braces are doubled. A rule *composes* if its measure is the
    number, or the percentage, of rows for which `counts` is true, a condition that each row decides for itself at any
    time: what a merge brings and takes away then changes the last count by as much.
    """

    name: str
    severity: Severity
    column: str | None
    expectation: str
    kwargs: dict[str, Any]
    samples: str | None
    description: str
    counts: str | None = None  # "true": all rows; None: does not compose
    percent: bool = False

    def decide(self, count: int, rows: int) -> tuple[bool, Any]:
        """Whether so many rows of all that count are as the rule demands, and what was observed: as the suite has it."""
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
        """The expectation as it stands in a Great Expectations suite file."""
        meta = {"rule": self.name, "description": self.description}
        return {"type": self.expectation, "kwargs": self.kwargs, "severity": self.severity, "meta": meta}


Derived = TypeVar("Derived", RowRule, GateRule)


def row_rules(dataset: Dataset) -> tuple[RowRule, ...]:
    """The rules every arriving row is held against, in the contract's order."""
    limits = [_apart(rule, dataset) for field in dataset.table_fields for rule in _limit_rules(field)]
    named = [
        RowRule(rule.name, rule.column, broken, *_reason(rule))
        for rule in dataset.rules
        if rule.severity == "critical" and _allows_none(rule) and (broken := row_condition(rule, dataset))
    ]
    return (*limits, *named)


def gate_rules(dataset: Dataset) -> tuple[GateRule, ...]:
    """Everything the gate judges of a candidate version."""
    rules = [_apart(rule, dataset) for rule in _derived_rules(dataset)]
    rules += [_gate_rule(rule, dataset) for rule in dataset.rules]
    return tuple(rules)


def composing_rules(dataset: Dataset) -> tuple[tuple[str, str], ...]:
    """The gate's rules that compose, but for those that count all rows: name, and the condition true for a row that counts.

    A condition that is null does not count. The counts are taken under the settings that the gate judges under.
    """
    return tuple((r.name, r.counts) for r in gate_rules(dataset) if r.counts and r.counts != ALL_ROWS)


def rules_hash(dataset: Dataset) -> str:
    """SHA-256 of what counts of the composing rules depend on: names, conditions, the columns' types and the key."""
    columns = [(f.name, f.type_name) for f in dataset.table_fields]
    return hashlib.sha256(json.dumps([composing_rules(dataset), columns, dataset.key]).encode()).hexdigest()


def key_rule(dataset: Dataset) -> str:
    """The name of the rule that a key has one row: its count is of the rows whose key others have too."""
    return gate_rules(dataset)[0].name


def _apart(rule: Derived, dataset: Dataset) -> Derived:
    """A derived rule under a name of its own, where the contract has given its name to another."""
    taken = any(rule.name == other.name for other in dataset.rules)
    return replace(rule, name=f"{rule.name}_derived") if taken else rule


def suite(dataset: Dataset) -> dict[str, Any]:
    """The derived Great Expectations suite, as its own file format has it."""
    return {"name": dataset.id, "expectations": [rule.config() for rule in gate_rules(dataset)]}


def sql_literal(value: Any) -> str:
    """A Python value as a Spark SQL literal of the same value."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value!r}D" if math.isfinite(value) else f"double('{value}')"
    if isinstance(value, Decimal):
        return f"{value:f}BD"
    if isinstance(value, datetime):
        return f"TIMESTAMP'{value.isoformat(sep=' ')}'"
    if isinstance(value, date):
        return f"DATE'{value.isoformat()}'"
    text = str(value).replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{text}'"


def row_condition(rule: Rule, dataset: Dataset) -> str | None:
    """The condition that is true for a row that counts against the rule; None if one row cannot tell."""
    column = f"`{rule.column}`" if rule.column else ""
    if rule.type == "sql" and rule.query and (match := _COUNT_WHERE.match(rule.query)):
        condition = PROPERTY.sub(lambda _: column, match[1].strip())
        return None if _NOT_ONE_ROW.search(_TEXT.sub("''", condition)) else f"({condition}\n)"  # a comment may end it
    if rule.type != "library" or not rule.column:
        return None
    if rule.metric == "nullValues":
        return f"{column} IS NULL"
    if rule.metric == "missingValues":
        missing = rule.arguments["missingValues"]
        parts = [f"{column} IS NULL"] if None in missing else []
        if values := [v for v in missing if v is not None]:
            parts.append(f"coalesce({column} IN ({_list(values)}), false)")
        return f"({' OR '.join(parts)})"
    if rule.metric == "invalidValues":
        parts = []
        if valid := rule.arguments.get("validValues"):
            parts.append(f"{column} NOT IN ({_list(valid)})")
        if pattern := rule.arguments.get("pattern"):
            parts.append(f"NOT ({column} RLIKE {sql_literal(pattern)})")
        return f"({' OR '.join(parts)})"
    return None


def _list(values: list[Any]) -> str:
    return ", ".join(sql_literal(v) for v in values)


def _allows_none(rule: Rule) -> bool:
    limits = {"mustBe": 0, "mustBeLessOrEqualTo": 0} | ({"mustBeLessThan": 1} if rule.unit == "rows" else {})
    return rule.operator in limits and rule.threshold == limits[rule.operator]


def _reason(rule: Rule) -> tuple[str, str]:
    if rule.description:  # bilingual by convention: English first, Chinese from its first Chinese character on
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
    """The rules of a column's own type and limits, and of what it holds; a node checks them too, but can be passed by."""
    return _limits_of(field, field.name, f"`{field.name}`", field.name, lambda broken: broken)


def _limits_of(field: Field, column: str, value: str, place: str, somewhere: Callable[[str], str]) -> Iterator[RowRule]:
    """The rules of one value of a row: `value` is its SQL, `somewhere` says of a condition that it holds for any."""
    size = f"size({value})" if field.kind == "array" else f"char_length({value})"  # of bytes, their number
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
            f"{place}_finite",
            column,
            somewhere(f"(isnan({value}) OR abs({value}) = double('infinity'))"),
            f"{place} is not a finite number",
            f"{place} 不是有限数值",
        )
    for kind, limit, template, en, zh, expectation, kwargs in checks:
        if limit is None:
            continue
        whole = isinstance(limit, int) and abs(limit) < 2**53  # Great Expectations compares as a double
        exact = field.kind == "string" or (field.kind in ("int", "long") and whole)
        native = (expectation, {"column": column, **kwargs}) if expectation and exact and place == column else None
        yield RowRule(
            f"{place}_{kind}",
            column,
            somewhere(template.format(sql_literal(limit))),
            f"{place} is {en} {limit}",
            f"{place} {zh} {limit}",
            native,
        )
    for member in field.fields:
        yield from _limits_of(member, column, f"{value}.`{member.name}`", f"{place}.{member.name}", somewhere)
    if field.item:
        item = f"item{place.count('[]')}"
        yield from _limits_of(
            field.item, column, item, f"{place}[]", lambda broken: somewhere(f"exists({value}, {item} -> {broken})")
        )


def _derived_rules(dataset: Dataset) -> Iterator[GateRule]:
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
            says = f"Never: {rule.en}. 不得：{rule.zh}。"
            if rule.native:
                samples = _rows(dataset, rule.broken)
                yield GateRule(rule.name, "critical", rule.column, *rule.native, samples, says, rule.broken)
            else:
                yield _none_may(rule.name, "critical", rule.column, rule.broken, says, dataset)


def _repeats(columns: str) -> str:
    return f"SELECT {columns}, count(*) AS _rows FROM {{batch}} GROUP BY {columns} HAVING count(*) > 1 LIMIT {SAMPLES}"


def _rows(dataset: Dataset, condition: str) -> str:
    columns = ", ".join(f"`{f.name}`" for f in dataset.table_fields)
    return f"SELECT {columns} FROM {{batch}} WHERE {_braces(condition)} LIMIT {SAMPLES}"


def _braces(sql: str) -> str:
    return sql.replace("{", "{{").replace("}", "}}")


def _none_may(
    name: str, severity: Severity, column: str | None, broken: str, description: str, dataset: Dataset
) -> GateRule:
    kwargs = {"aggregate": f"count_if({broken})", "operator": "mustBe", "threshold": 0}
    samples = _rows(dataset, broken)
    return GateRule(name, severity, column, "expect_aggregate_value", kwargs, samples, description, _always(broken))


def _gate_rule(rule: Rule, dataset: Dataset) -> GateRule:
    """Great Expectations' own expectation where it has one for exactly this; a query and its value otherwise."""
    if rule.type == "greatExpectations" and rule.expectation:
        kind, kwargs = str(rule.expectation["type"]), dict(rule.expectation["kwargs"])
        return GateRule(rule.name, rule.severity, rule.column, kind, kwargs, None, rule.description)
    broken = row_condition(rule, dataset)
    counts = ALL_ROWS if rule.metric == "rowCount" else _always(broken)
    samples = _rows(dataset, broken) if broken else None
    native: tuple[str, dict[str, Any]] | None = None
    plain = rule.column is not None and dataset.field(rule.column).kind in ("string", "int", "long")  # JSON has them
    if _allows_none(rule):
        if rule.metric == "nullValues":
            native = ("expect_column_values_to_not_be_null", {"column": rule.column})
        elif rule.metric == "invalidValues" and set(rule.arguments) == {"validValues"} and plain:
            values = rule.arguments["validValues"]
            native = ("expect_column_values_to_be_in_set", {"column": rule.column, "value_set": list(values)})
        elif rule.metric == "invalidValues" and set(rule.arguments) == {"pattern"}:
            regex = rule.arguments["pattern"]
            native = ("expect_column_values_to_match_regex", {"column": rule.column, "regex": regex})
        elif rule.metric == "missingValues" and None not in rule.arguments["missingValues"] and plain:
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
            return _none_may(rule.name, rule.severity, rule.column, broken, rule.description, dataset)
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
        value = {"operator": rule.operator, "threshold": rule.threshold}
        if aggregate := _aggregate(rule, broken):  # judged in the one scan of all that are
            native = ("expect_aggregate_value", {"aggregate": aggregate, **value})
            counts = counts or _always(_counted(aggregate))
        else:
            native = ("expect_query_value", {"query": _value_query(rule), **value})
    percent = broken is not None and rule.unit == "percent" and native[0] == "expect_aggregate_value"
    return GateRule(rule.name, rule.severity, rule.column, *native, samples, rule.description, counts, percent)


def _always(condition: str | None) -> str | None:
    """The condition, if it says of the same row the same at any time."""
    if condition is None or _CHANGES.search(_TEXT.sub("''", condition)) or _TODAY.search(condition):
        return None
    return condition


def _counted(aggregate: str) -> str | None:
    """The condition of the rows that an aggregate counts; None if it does other than count rows."""
    bare = "".join(aggregate.split()).lower()
    if bare in ("count(*)", "count(1)"):
        return ALL_ROWS
    match = _COUNT_IF.fullmatch(aggregate)
    return f"({match[1]}\n)" if match else None


def _aggregate(rule: Rule, broken: str | None) -> str | None:
    """The aggregate whose value the rule compares, None where it takes a query of its own."""
    if rule.metric == "rowCount":
        return "count(*)"
    if broken:
        count = f"count_if({broken})"
        return _percent(count) if rule.unit == "percent" else count
    if rule.type == "sql" and rule.query and (match := _ONE_VALUE.match(rule.query)):
        expression = _with_column(match[1], rule)
        bare = _TEXT.sub("''", expression)
        if _ONE_AGGREGATE.fullmatch(bare) and not _NOT_ONE_ROW.search(bare):
            return expression
    return None


def _value_query(rule: Rule) -> str:
    """The query whose one value the rule compares, ``{batch}`` for the candidate."""
    if rule.type == "sql" and rule.query:
        parts = OBJECT.split(_with_column(rule.query, rule))
        return "{batch}".join(_braces(part) for part in parts)
    columns = [f"`{n}`" for n in rule.arguments.get("properties") or [rule.column]]
    count = f"count(*) - count(DISTINCT struct({', '.join(columns)}))"
    return f"SELECT {_percent(f'({count})') if rule.unit == 'percent' else count} FROM {{batch}}"


def _percent(count: str) -> str:
    """The share of all rows that a count is; none of none is 0."""
    return f"coalesce(100.0D * {count} / nullif(count(*), 0), 0.0D)"


def _with_column(sql: str, rule: Rule) -> str:
    """The text of a rule with its own column where ``${property}`` stands."""
    return PROPERTY.sub(lambda _: f"`{rule.column}`", sql)
