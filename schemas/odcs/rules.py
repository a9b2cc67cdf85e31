"""A contract's `quality` entries as rules. An entry that cannot be executed is refused with its line.

`quality.row_rules` compiles the rules for ingest, `quality.gate_rules` for the gate.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import yaml
from open_data_contract_standard.model import DataQuality, SchemaProperty

from schemas.dataset import Field, Operator, Rule, Severity
from schemas.odcs.patterns import check_pattern
from schemas.odcs.problems import Pointer, Problems
from schemas.odcs.written_values import allowed_values

OBJECT = re.compile(r"\$?\{(?:object|table|model|schema)\}")  # stands for the dataset in the text of a query
PROPERTY = re.compile(r"\$?\{(?:property|column|field)\}")  # stands for the column that the rule belongs to

OPERATORS: tuple[Operator, ...] = get_args(Operator)
METRICS: dict[str, tuple[str, ...]] = {  # and the arguments of each
    "nullValues": (),
    "missingValues": ("missingValues",),
    "invalidValues": ("validValues", "pattern"),
    "duplicateValues": ("properties",),
    "rowCount": (),
}
SEVERITIES: dict[str, Severity] = {
    "critical": "critical", "error": "critical", "high": "critical",
    "warning": "warning", "warn": "warning", "medium": "warning", "info": "info", "low": "info",
}  # fmt: skip


def rules(
    properties: Sequence[SchemaProperty],
    quality: Sequence[DataQuality],
    fields: Mapping[str, Field],
    at: Pointer,
    problems: Problems,
) -> tuple[Rule, ...]:
    """The rules of all columns in their order, then those of the dataset; `at` points to the schema object."""
    entries: list[Rule] = []
    for i, prop in enumerate(properties):
        here = (*at, "properties", i)
        field = fields.get(prop.name or "")
        if field is None:
            continue
        if field.allowed:
            line, valid = problems.line((*here, "enum")), {"validValues": list(field.allowed)}
            entries.append(_must_be_0(f"{field.name}_allowed", field.name, "invalidValues", valid, line))
        if field.unique and not prop.primaryKey:
            line = problems.line((*here, "unique"))
            entries.append(_must_be_0(f"{field.name}_unique", field.name, "duplicateValues", {}, line))
        for j, entry in enumerate(prop.quality or []):
            entries.extend(_rule(entry, field, fields, (*here, "quality", j), problems))
    for j, entry in enumerate(quality):
        entries.extend(_rule(entry, None, fields, (*at, "quality", j), problems))
    uses: dict[str, int] = {}
    unique: list[Rule] = []
    for rule in entries:  # the second rule of a name gets the suffix _2, and so on
        uses[rule.name] = uses.get(rule.name, 0) + 1
        unique.append(rule if uses[rule.name] == 1 else replace(rule, name=f"{rule.name}_{uses[rule.name]}"))
    return tuple(unique)


def _must_be_0(name: str, column: str, metric: str, arguments: Mapping[str, Any], line: int) -> Rule:
    return Rule(name, "library", column, metric, arguments, "mustBe", 0, line=line)


def _rule(
    entry: DataQuality, column: Field | None, fields: Mapping[str, Field], at: Pointer, problems: Problems
) -> list[Rule]:
    """The executable rule of one quality entry; empty for an entry of type `text`, which is a note, and for a refused one."""
    kind = entry.type or "library"
    if kind == "text":
        return []
    severity = SEVERITIES.get((entry.severity or "critical").lower())
    if severity is None:
        problems.add(
            (*at, "severity"),
            f"found {entry.severity!r}, expected one of {', '.join(SEVERITIES)}",
            f"实际为 {entry.severity!r}，应为 {'、'.join(SEVERITIES)} 之一",
        )
        return []
    name = column.name if column else None
    base = Rule(
        name=entry.name or entry.id or "_".join(filter(None, (name, entry.metric or kind))),
        type="library",
        column=name,
        metric=entry.metric,
        severity=severity,
        description=(entry.description or "").strip(),
        line=problems.line(at),
    )
    if kind == "custom":
        return _custom_rule(entry, base, fields, at, problems)
    compared = _with_comparison(entry, base, at, problems)
    if compared is None:
        return []
    if kind == "sql":
        return _sql_rule(entry, compared, at, problems)
    return _library_rule(entry, compared, column, fields, at, problems)


def _with_comparison(entry: DataQuality, base: Rule, at: Pointer, problems: Problems) -> Rule | None:
    """The rule with its operator, threshold and unit added; None if they are refused."""
    operators = [o for o in OPERATORS if getattr(entry, o) is not None]
    if len(operators) != 1:
        problems.add(
            at,
            f"found {len(operators)} operators, expected exactly one of {', '.join(OPERATORS)}",
            f"有 {len(operators)} 个比较运算，应恰好一个：{'、'.join(OPERATORS)}",
        )
        return None
    (operator,) = operators
    threshold, unit = getattr(entry, operator), entry.unit or "rows"
    numbers = threshold if isinstance(threshold, list) else [threshold]
    if not all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in numbers):
        en, zh = ("two numbers", "两个数字") if operator.endswith("Between") else ("a number", "数字")
        problems.add((*at, operator), f"found {threshold!r}, expected {en}", f"实际为 {threshold!r}，应为{zh}")
        return None
    if numbers != sorted(numbers):
        problems.add(
            (*at, operator),
            f"found {threshold!r}, expected the smaller number first",
            f"实际为 {threshold!r}，应先写较小的数",
        )
        return None
    if unit not in ("rows", "percent") or (unit == "percent" and entry.metric == "rowCount"):
        accepted = "rows" if entry.metric == "rowCount" else "rows or percent"
        problems.add((*at, "unit"), f"found {unit!r}, expected {accepted}", f"实际为 {unit!r}，应为 {accepted}")
        return None
    return replace(base, operator=operator, threshold=threshold, unit="percent" if unit == "percent" else "rows")


def _sql_rule(entry: DataQuality, base: Rule, at: Pointer, problems: Problems) -> list[Rule]:
    at = (*at, "query")
    query = (entry.query or "").strip().rstrip(";").rstrip()
    others = re.findall(r"\$\{[^}]*\}", PROPERTY.sub("", OBJECT.sub("", query)))
    if not OBJECT.search(query):
        problems.add(
            at,
            f"found {query[:80]!r}, expected ${{object}} where it names the dataset: it is run on each candidate version",
            f"实际为 {query[:80]!r}，其中应以 ${{object}} 表示数据集：查询将在每个候选版本上执行",
        )
    elif others:
        problems.add(
            at,
            f"found {others[0]}, expected ${{object}} for the dataset or ${{property}} for the column",
            f"实际为 {others[0]}，应为 ${{object}}（数据集）或 ${{property}}（列）",
        )
    elif base.column is None and PROPERTY.search(query):
        problems.add(
            at,
            "found ${property} in a rule of the dataset, expected the column's own name, or the rule under its column",
            "数据集级规则中含有 ${property}，应写列名，或将规则写在该列下",
        )
    return [replace(base, type="sql", query=query)]


def _custom_rule(
    entry: DataQuality, base: Rule, fields: Mapping[str, Field], at: Pointer, problems: Problems
) -> list[Rule]:
    engine = re.sub(r"[^a-z]", "", (entry.engine or "").lower())
    if engine != "greatexpectations":
        problems.add(
            (*at, "engine"),
            f"found {entry.engine!r}, expected greatExpectations",
            f"实际为 {entry.engine!r}，应为 greatExpectations",
        )
        return []
    at = (*at, "implementation")
    body: Any = entry.implementation
    if isinstance(body, str):
        try:
            body = yaml.safe_load(body)
        except (yaml.YAMLError, ValueError):
            body = None
    kind = (body.get("type") or body.get("expectation_type")) if isinstance(body, dict) else None
    kwargs = (body.get("kwargs") or {}) if isinstance(body, dict) else None
    if not isinstance(kind, str) or not kind.startswith("expect_") or not isinstance(kwargs, dict):
        example = "{type: expect_column_values_to_be_between, kwargs: {column: …, min_value: 0}}"
        problems.add(
            at,
            f"found {str(entry.implementation)[:80]!r}, expected a mapping such as {example}",
            f"实际为 {str(entry.implementation)[:80]!r}，应为形如 {example} 的映射",
        )
        return []
    kwargs = dict(kwargs)
    if kind.startswith("expect_column_") and not kind.startswith("expect_column_pair_"):
        kwargs.setdefault("column", base.column)
    for name in ("column", "column_A", "column_B", "column_list"):
        if name in kwargs:
            _check_columns(kwargs[name], fields, at, problems)
    return [replace(base, type="greatExpectations", expectation={"type": kind, "kwargs": kwargs})]


def _library_rule(
    entry: DataQuality,
    base: Rule,
    column: Field | None,
    fields: Mapping[str, Field],
    at: Pointer,
    problems: Problems,
) -> list[Rule]:
    metric, arguments = entry.metric or "", dict(entry.arguments or {})
    if metric not in METRICS:
        problems.add(
            (*at, "metric"),
            f"found {metric!r}, expected one of {', '.join(METRICS)}",
            f"实际为 {metric!r}，应为 {'、'.join(METRICS)} 之一",
        )
        return []
    known, arguments_at = METRICS[metric], (*at, "arguments")
    for name in arguments.keys() - set(known):
        problems.add(
            (*arguments_at, name),
            f"found argument {name}, expected {' or '.join(known) or 'none'}",
            f"实际有参数 {name}，应为 {'、'.join(known) or '无参数'}",
        )
    if metric == "duplicateValues":
        if "properties" in arguments:
            _check_columns(arguments["properties"], fields, (*arguments_at, "properties"), problems)
        elif column is None:
            problems.add(
                at,
                "found duplicateValues at the schema object, expected arguments.properties: the columns that are unique together",
                "schema 对象上的 duplicateValues 应有 arguments.properties：组合后唯一的列",
            )
    elif metric != "rowCount":
        if column is None:
            problems.add(
                at,
                f"found {metric} at the schema object, expected it under a column",
                f"{metric} 写在 schema 对象上，应写在某一列下",
            )
            return []
        arguments = _typed_arguments(metric, arguments, column, at, problems)
    return [replace(base, arguments=arguments)]


def _typed_arguments(
    metric: str, arguments: dict[str, Any], column: Field, at: Pointer, problems: Problems
) -> dict[str, Any]:
    """The arguments, with their values converted to the column's type."""
    arguments_at = (*at, "arguments")
    if metric == "missingValues":
        empty = [None, ""] if column.kind == "string" else [None]
        missing = arguments.get("missingValues", empty)
        given = [v for v in missing if v is not None] if isinstance(missing, list) else missing
        typed = [] if missing == [None] else allowed_values(given, column, (*arguments_at, metric), problems)
        return {metric: [*([None] if isinstance(missing, list) and None in missing else []), *typed]}
    if metric == "invalidValues":
        if not arguments:
            problems.add(
                at,
                "found invalidValues without arguments, expected arguments.validValues or arguments.pattern",
                "invalidValues 缺少参数，应有 arguments.validValues 或 arguments.pattern",
            )
        if "validValues" in arguments:
            here = (*arguments_at, "validValues")
            arguments["validValues"] = allowed_values(arguments["validValues"], column, here, problems)
        if "pattern" in arguments:
            check_pattern(arguments["pattern"], (*arguments_at, "pattern"), problems)
            if column.kind != "string":
                problems.add(
                    (*arguments_at, "pattern"),
                    f"found a pattern for a {column.type_name}, expected one for a string only",
                    f"{column.type_name} 列上有 pattern，仅 string 列可用",
                )
    return arguments


def _check_columns(names: Any, fields: Mapping[str, Field], at: Pointer, problems: Problems) -> None:
    for name in names if isinstance(names, list) and names else [names]:
        if not isinstance(name, str) or name not in fields:
            problems.add(
                at,
                f"found {name!r}, expected a column: one of {', '.join(fields)}",
                f"实际为 {name!r}，应为列名：{'、'.join(fields)} 之一",
            )
