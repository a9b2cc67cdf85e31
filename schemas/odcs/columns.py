"""A contract's properties as columns: names, types and limits that fastavro, Kafka and Spark keep exactly."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from open_data_contract_standard.model import SchemaProperty

from schemas.dataset import Field
from schemas.odcs.column_types import column_type
from schemas.odcs.limits import limits_of
from schemas.odcs.problems import Pointer, Problems
from schemas.odcs.written_values import allowed_values

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
MOST_LEVELS = 8  # of nested records and arrays


def columns(properties: Sequence[SchemaProperty], at: Pointer, problems: Problems, depth: int = 0) -> tuple[Field, ...]:
    """The columns in the contract's order; one that is not supported is left out and added to the problems."""
    fields: list[Field] = []
    seen: set[str] = set()
    for i, prop in enumerate(properties):
        here = (*at, i)
        name = prop.name or ""
        check_name(name, (*here, "name"), problems)
        if name.lower() in seen:
            problems.add(
                (*here, "name"),
                f"found {name!r} a second time, expected different names (SQL ignores upper and lower case)",
                f"列名 {name!r} 重复，列名应各不相同（SQL 不区分大小写）",
            )
        seen.add(name.lower())
        if field := _column(prop, name, here, problems, depth):
            fields.append(field)
    return tuple(fields)


def check_name(name: str, at: Pointer, problems: Problems) -> None:
    """Add a problem for a name that topics, Avro or SQL would not accept."""
    if not NAME.fullmatch(name):
        problems.add(
            at,
            f"found {name!r}, expected a letter, then letters, digits or _ (at most 63): it names topics, Avro fields "
            "and SQL columns. Put the Chinese name into businessName.",
            f"实际为 {name!r}，应以英文字母开头，后接字母、数字或下划线（最多 63 个）：它将用于主题、Avro 字段和 SQL 列名。中文名请写入 businessName。",
        )


def _column(prop: SchemaProperty, name: str, at: Pointer, problems: Problems, depth: int) -> Field | None:
    if depth > MOST_LEVELS:
        problems.add(
            at,
            f"nested deeper than {MOST_LEVELS} levels; reduce the nesting",
            f"嵌套超过 {MOST_LEVELS} 层；请减少嵌套层次",
        )
        return None
    resolved = column_type(prop, at, problems)
    if resolved is None:
        return None
    kind, arguments = resolved
    field = Field(
        name=name,
        kind=kind,
        required=bool(prop.required) or bool(prop.primaryKey),
        title=prop.businessName or "",
        description=(prop.description or "").strip(),
        unique=bool(prop.unique),
    )
    if depth and (prop.quality or prop.enum or prop.unique or prop.primaryKey):
        problems.add(
            at,
            "found quality, enum, unique or primaryKey inside a record or array, where they are not supported; write a sql "
            "rule at the schema object",
            "记录或数组内部不支持 quality、enum、unique、primaryKey；请在 schema 对象上写 sql 规则",
        )
    for key, holder in (("items", "array"), ("properties", "record")):
        if getattr(prop, key) is not None and kind != holder:
            problems.add(
                (*at, key),
                f"found {key} in a {field.type_name}, expected it in a type {holder} only",
                f"{field.type_name} 中有 {key}，仅 {holder} 可有 {key}",
            )
    if kind == "decimal":
        precision, scale = (*arguments, 0)[:2] if arguments else (0, 0)
        if not 1 <= precision <= 38 or scale > precision:
            problems.add(
                (*at, "physicalType"),
                f"found {prop.physicalType!r}, expected decimal(precision,scale) with precision 1 to 38",
                f"实际为 {prop.physicalType!r}，应为 decimal(精度,小数位)，精度 1 至 38",
            )
        field = replace(field, precision=precision, scale=scale)
    elif kind == "array":
        if prop.items is None:
            problems.add(
                at,
                "found an array without items, expected items: the type of its elements",
                "数组缺少 items，应写明元素类型",
            )
            return None
        field = replace(field, item=_column(prop.items, "item", (*at, "items"), problems, depth + 1))
    elif kind == "record":
        members = columns(prop.properties or [], (*at, "properties"), problems, depth + 1)
        if not prop.properties:
            problems.add(
                at,
                "found a record without properties, expected properties: its members",
                "记录缺少 properties，应写明其成员",
            )
        field = replace(field, fields=members)
    if prop.enum and not depth:
        values = allowed_values([e.value for e in prop.enum], field, (*at, "enum"), problems)
        field = replace(field, allowed=tuple(values))
    return replace(field, limits=limits_of(prop, field, arguments, at, problems))
