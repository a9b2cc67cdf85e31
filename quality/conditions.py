"""The SQL of a contract's rules: the condition of a row that breaks a rule, or the aggregate or query to compare.

The SQL in a contract is matched with regular expressions that recognize a few simple forms. The gate runs a query in any
other form on its own, which is slower and gives the same result.
"""

from __future__ import annotations

import math
import re
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from schemas.dataset import Rule
from schemas.odcs.rules import OBJECT, PROPERTY

ALL_ROWS = "true"  # the condition of a count of all rows

_COUNT_WHERE = re.compile(
    rf"^\s*SELECT\s+COUNT\s*\(\s*(?:\*|1)\s*\)\s+FROM\s+{OBJECT.pattern}\s+WHERE\s+(.+)$",
    re.IGNORECASE | re.DOTALL,
)
_ONE_VALUE = re.compile(rf"^\s*SELECT\s+(.+?)\s+FROM\s+{OBJECT.pattern}\s*$", re.IGNORECASE | re.DOTALL)
_ONE_AGGREGATE = re.compile(  # with at most one level of parentheses inside its own
    r"\s*(count|count_if|sum|avg|min|max)\s*\((?!\s*distinct\b)([^();]|\([^();]*\))*\)\s*", re.IGNORECASE
)
_COUNT_IF = re.compile(r"\s*count_if\s*\((.+)\)\s*", re.IGNORECASE | re.DOTALL)
_OTHER_ROWS = re.compile(  # SQL words that make an expression depend on other rows
    r"\b(select|over|group\s+by|having|order\s+by|limit|union|intersect|except|join)\b", re.IGNORECASE
)
_NOT_REPEATABLE = re.compile(  # functions that may return another value for the same row: by time, file, user or at random
    r"\b(current_\w+|now|curdate|local\w+|unix_timestamp|rand\w*|uuid|shuffle|monotonically_increasing_id|spark_partition_id"
    r"|input_file_\w+|session_user|user|(try_)?reflect|java_method)\b",
    re.IGNORECASE,
)
_TODAY = re.compile(r"\b(date|timestamp\w*)\s*'\s*[a-z]", re.IGNORECASE)  # DATE'today'
_TEXT = re.compile(r"'(?:[^'\\]|\\.|'')*'")


TRUE, FALSE, FAILED = b"1", b"0", b"?"  # the values of `tried`


def tried(condition: str) -> str:
    """A contract's condition as SQL that cannot fail the job: TRUE, FALSE (also for null), or FAILED if it cannot be evaluated.

    A `try_` function gives null if anything inside it fails. Put it in a CASE, or Spark may evaluate a part of the condition before
    and outside the function.
    """
    return f"coalesce(try_to_binary(CASE WHEN ({condition}) THEN '1' ELSE '0' END, 'utf-8'), X'{FAILED.hex()}')"


def row_condition(rule: Rule) -> str | None:
    """The condition that is true for a row that breaks the rule; None if it cannot be decided for each row alone."""
    column = f"`{rule.column}`" if rule.column else ""
    if rule.type == "sql" and rule.query and (match := _COUNT_WHERE.match(rule.query)):
        condition = PROPERTY.sub(lambda _: column, match[1].strip())
        # The line end closes a comment at the end of the condition.
        return None if _OTHER_ROWS.search(_without_text(condition)) else f"({condition}\n)"
    if rule.type != "library" or not rule.column:
        return None
    if rule.metric == "nullValues":
        return f"{column} IS NULL"
    if rule.metric == "missingValues":
        missing = rule.arguments["missingValues"]
        parts = [f"{column} IS NULL"] if None in missing else []
        if values := [v for v in missing if v is not None]:
            parts.append(f"coalesce({column} IN ({_literals(values)}), false)")
        return f"({' OR '.join(parts)})"
    if rule.metric == "invalidValues":
        parts = []
        if valid := rule.arguments.get("validValues"):
            parts.append(f"{column} NOT IN ({_literals(valid)})")
        if pattern := rule.arguments.get("pattern"):
            parts.append(f"NOT ({column} RLIKE {sql_literal(pattern)})")
        return f"({' OR '.join(parts)})"
    return None


def repeatable(condition: str | None) -> str | None:
    """The condition, if it always has the same value for the same row; None otherwise."""
    if condition is None or _NOT_REPEATABLE.search(_without_text(condition)) or _TODAY.search(condition):
        return None
    return condition


def rule_aggregate(rule: Rule, broken: str | None) -> str | None:
    """The aggregate whose value the rule compares; None if it needs a query. `broken` is the rule's `row_condition`."""
    if rule.metric == "rowCount":
        return "count(*)"
    if broken:
        count = f"count_if({broken})"
        return _percent(count) if rule.unit == "percent" else count
    if rule.type == "sql" and rule.query and (match := _ONE_VALUE.match(rule.query)):
        expression = _with_column(match[1], rule)
        bare = _without_text(expression)
        if _ONE_AGGREGATE.fullmatch(bare) and not _OTHER_ROWS.search(bare):
            return expression
    return None


def counted_condition(aggregate: str) -> str | None:
    """The condition of the rows that an aggregate counts; None if it does not count rows."""
    if "".join(aggregate.split()).lower() in ("count(*)", "count(1)"):
        return ALL_ROWS
    match = _COUNT_IF.fullmatch(aggregate)
    return f"({match[1]}\n)" if match else None


def rule_query(rule: Rule) -> str:
    """The query whose single value the rule compares, with ``{batch}`` for the candidate."""
    if rule.type == "sql" and rule.query:
        parts = OBJECT.split(_with_column(rule.query, rule))
        return "{batch}".join(double_braces(part) for part in parts)
    columns = [f"`{n}`" for n in rule.arguments.get("properties") or [rule.column]]
    count = f"count(*) - count(DISTINCT struct({', '.join(columns)}))"
    return f"SELECT {_percent(f'({count})') if rule.unit == 'percent' else count} FROM {{batch}}"


def double_braces(sql: str) -> str:
    """The text escaped for `str.format`."""
    return sql.replace("{", "{{").replace("}", "}}")


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


def _literals(values: list[Any]) -> str:
    return ", ".join(sql_literal(v) for v in values)


def _percent(count: str) -> str:
    """SQL for a count as a percentage of all rows; 0 if there are none."""
    return f"coalesce(100.0D * {count} / nullif(count(*), 0), 0.0D)"


def _with_column(sql: str, rule: Rule) -> str:
    """The SQL with the rule's column in place of ``${property}``."""
    return PROPERTY.sub(lambda _: f"`{rule.column}`", sql)


def _without_text(sql: str) -> str:
    """The SQL with the content of text literals removed, so that words inside them are not taken for SQL."""
    return _TEXT.sub("''", sql)
