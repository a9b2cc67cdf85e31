"""A contract's properties as columns: names, types and limits that fastavro, Kafka and Spark keep exactly.

A type or limit that Suibus cannot enforce for every row is refused, never ignored.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, get_args

from open_data_contract_standard.model import SchemaProperty

from schemas.dataset import Field, Kind, Limits
from schemas.odcs.patterns import check_pattern
from schemas.odcs.problems import Pointer, Problems

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
MOST_LEVELS = 8  # of nested records and arrays

PHYSICAL: dict[str, Kind] = {
    **dict.fromkeys(("string", "text", "varchar", "char", "character varying", "character", "nvarchar", "nchar",
                     "varchar2", "nvarchar2", "clob", "tinytext", "mediumtext", "longtext"), "string"),
    **dict.fromkeys(("boolean", "bool"), "boolean"),
    **dict.fromkeys(("int", "integer", "int4", "int32", "mediumint", "smallint", "tinyint", "i32"), "int"),
    **dict.fromkeys(("long", "bigint", "int64", "i64"), "long"),
    **dict.fromkeys(("float", "real", "float4", "float32"), "float"),
    **dict.fromkeys(("double", "double precision", "float8", "float64"), "double"),
    **dict.fromkeys(("decimal", "numeric", "number"), "decimal"),
    "date": "date",
    **dict.fromkeys(("timestamp", "timestamptz", "timestamp_tz", "timestamp_ltz", "timestamp_micros", "datetime",
                     "datetimeoffset"), "timestamp"),
    **dict.fromkeys(("bytes", "binary", "varbinary", "bytea", "blob"), "bytes"),
    **dict.fromkeys(("array", "list"), "array"),
    **dict.fromkeys(("record", "struct", "object", "row"), "record"),
}  # fmt: skip
_PHYSICAL_TYPE = re.compile(
    r"(?P<word>[a-z][a-z0-9_ ]*?) ?"
    r"(?:\( ?(?:(?P<first>\d+)(?: (?:char|byte))? ?(?:, ?(?P<second>\d+) ?)?|max ?)\))?"
    r"(?P<zone> (?:with|without)(?: local)? time zone)? ?"
    r"(?:<.*>|(?P<array>\[\]))?"
)
LOGICAL: dict[str, tuple[Kind, ...]] = {  # the first kind applies without a physicalType or format
    "string": ("string", "bytes"),
    "boolean": ("boolean",),
    "integer": ("long", "int"),  # docs/decisions/0001-integers-are-long.md
    "number": ("double", "float", "decimal", "int", "long"),
    "date": ("date", "timestamp"),  # v3.0 had no logicalType timestamp
    "timestamp": ("timestamp",),
    "array": ("array",),
    "object": ("record",),
}
_FORMATS: dict[str, Kind] = {
    **dict.fromkeys(("i8", "i16", "i32", "u8", "u16"), "int"),
    **dict.fromkeys(("i64", "u32"), "long"),
    "f32": "float",
    "f64": "double",
    "byte": "bytes",
    "binary": "bytes",
}
_WHOLE: tuple[Kind, ...] = ("int", "long")
_FLOATING: tuple[Kind, ...] = ("float", "double")
_BOUNDS = {
    "minimum": "minimum", "maximum": "maximum",
    "exclusiveMinimum": "exclusive_minimum", "exclusiveMaximum": "exclusive_maximum", "multipleOf": "multiple_of",
}  # fmt: skip
_LENGTHS = {
    "minLength": "min_length", "maxLength": "max_length", "minItems": "min_length", "maxItems": "max_length",
}  # fmt: skip
_RANGE = tuple(_BOUNDS)[:4]
_OPTIONS: dict[Kind, tuple[str, ...]] = {
    "string": ("minLength", "maxLength", "pattern", "format"),
    "bytes": ("minLength", "maxLength", "format"),
    "boolean": (),
    **dict.fromkeys(_FLOATING, (*_RANGE, "format")),  # no multipleOf: 0.3 % 0.1 is not 0 in binary
    **dict.fromkeys((*_WHOLE, "decimal"), (*_BOUNDS, "format")),
    "date": (*_RANGE, "format"),
    "timestamp": (*_RANGE, "format", "timezone", "defaultTimezone"),
    "array": ("minItems", "maxItems"),
    "record": (),
}  # fmt: skip


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


def value_of(value: Any, field: Field) -> Any:
    """A value written in a contract, converted to the column's type; ValueError if the type does not have it."""
    kind = field.kind
    if (kind == "string" and isinstance(value, str)) or (kind == "boolean" and isinstance(value, bool)):
        return value
    if kind == "date" and isinstance(value, str):
        return date.fromisoformat(value)
    if kind == "timestamp" and isinstance(value, str):
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError(value)
        return moment.astimezone(UTC)
    if kind in _WHOLE and type(value) is int:
        return value
    if kind in (*_FLOATING, "decimal") and isinstance(value, int | float) and not isinstance(value, bool):
        return _number(value, kind)
    raise ValueError(value)


def _number(value: Any, kind: Kind) -> Any:
    """The number as a value of the kind: a float rounded to 32 bits, a double or decimal unchanged."""
    try:
        number = Decimal(str(value))
        if kind == "float":
            rounded: float = struct.unpack("<f", struct.pack("<f", float(number)))[0]
            number = Decimal(rounded)
        if not (number.is_finite() and math.isfinite(float(number))):
            raise ValueError(value)
        return float(number) if kind in _FLOATING else number
    except (InvalidOperation, OverflowError):
        raise ValueError(value) from None


def _column(prop: SchemaProperty, name: str, at: Pointer, problems: Problems, depth: int) -> Field | None:
    if depth > MOST_LEVELS:
        problems.add(
            at,
            f"nested deeper than {MOST_LEVELS} levels; reduce the nesting",
            f"嵌套超过 {MOST_LEVELS} 层；请减少嵌套层次",
        )
        return None
    resolved = _kind(prop, at, problems)
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
    return replace(field, limits=_limits(prop, field, arguments, at, problems))


def allowed_values(values: Any, field: Field, at: Pointer, problems: Problems) -> list[Any]:
    """The values of a list, converted to the column's type; a problem is added for each that the type does not have."""
    if not isinstance(values, list) or not values:
        problems.add(at, f"found {values!r}, expected a list of values", f"实际为 {values!r}，应为值的列表")
        return []
    typed = []
    for i, value in enumerate(values):
        try:
            typed.append(value_of(value, field))
        except ValueError:
            _not_of_type(value, field, (*at, i), problems)
    return typed


def _not_of_type(value: Any, field: Field, at: Pointer, problems: Problems) -> None:
    quote = field.kind == "string" and value is not None
    zoned = field.kind == "timestamp"
    problems.add(
        at,
        f"found {value!r}, expected a {field.type_name}"
        + (": put it in quotes" if quote else ", with its zone" if zoned else ""),
        f"实际为 {value!r}，应为 {field.type_name}" + ("：请加引号" if quote else "（须带时区）" if zoned else ""),
    )


def _kind(prop: SchemaProperty, at: Pointer, problems: Problems) -> tuple[Kind, tuple[int, ...]] | None:
    """The type, and the numbers in parentheses after it: length, or precision and scale; None if it is refused."""
    logical, physical = prop.logicalType, prop.physicalType
    allowed = LOGICAL.get(logical) if logical else get_args(Kind)
    if allowed is None or (logical is None and physical is None):
        problems.add(
            (*at, "logicalType"),
            f"found {logical or 'no type'}, expected one of {', '.join(LOGICAL)}",
            f"实际为 {logical or '未写类型'}，应为 {'、'.join(LOGICAL)} 之一",
        )
        return None
    options = prop.logicalTypeOptions or {}
    if physical:
        return _physical(physical, logical, allowed, at, problems)
    format_ = str(options.get("format"))
    if logical == "integer" and format_ in ("u64", "i128", "u128"):
        problems.add(
            (*at, "logicalTypeOptions", "format"),
            f"found {format_}, which does not fit 64 bits; use logicalType number with physicalType decimal(38,0)",
            f"实际为 {format_}，超出 64 位；请用 logicalType number 与 physicalType decimal(38,0)",
        )
    if logical == "date" and re.search("[HhKkms]", re.sub("'[^']*'", "", format_)) and "format" in options:
        problems.add(
            (*at, "logicalTypeOptions", "format"),
            f"found {format_!r}, a time of day in a date; use logicalType timestamp, or physicalType timestamp",
            f"实际为 {format_!r}，日期中含有时刻；请用 logicalType timestamp 或 physicalType timestamp",
        )
    wanted = _FORMATS.get(format_)
    return (wanted if wanted and wanted in allowed else allowed[0]), ()


def _physical(
    physical: str, logical: str | None, allowed: tuple[Kind, ...], at: Pointer, problems: Problems
) -> tuple[Kind, tuple[int, ...]] | None:
    """`_kind` for a property with a physicalType, which must be one of the kinds that its logicalType allows."""
    at = (*at, "physicalType")
    text = " ".join(physical.lower().split())
    match = _PHYSICAL_TYPE.fullmatch(text)
    word, zone = (match["word"], match["zone"] or "") if match else (text, "")
    if word in ("timestamp_ntz", "timestampntz", "datetime2") or "without" in zone:
        problems.add(
            at,
            f"found {physical!r}, a time without zone: it names no instant, and each host would read it as another one. "
            "Use timestamp, whose values carry their zone (such as +08:00)",
            f"实际为 {physical!r}，是不带时区的时间：它不指明确定的时刻，各主机会读作不同的时刻。请用 timestamp，其值须带时区（例如 +08:00）",
        )
        return None
    kind = "array" if match and match["array"] else PHYSICAL.get(word)
    if kind is None or kind not in allowed or (zone and kind != "timestamp"):
        accepted = sorted(w for w, k in PHYSICAL.items() if k in allowed)
        problems.add(
            at,
            f"found {physical!r} for logicalType {logical or 'not given'}, expected one of {', '.join(accepted)}",
            f"logicalType {logical or '（未写）'} 的 physicalType 实际为 {physical!r}，应为 {'、'.join(accepted)} 之一",
        )
        return None
    return kind, tuple(int(n) for n in (match["first"], match["second"]) if n) if match else ()


def _limits(prop: SchemaProperty, field: Field, arguments: tuple[int, ...], at: Pointer, problems: Problems) -> Limits:
    at = (*at, "logicalTypeOptions")
    options = {name: v for name, v in (prop.logicalTypeOptions or {}).items() if v is not None}
    limited: dict[str, Any] = {}
    if field.kind in ("string", "bytes") and arguments:
        limited["max_length"] = arguments[0]
    for option, value in options.items():
        here = (*at, option)
        if option not in _OPTIONS[field.kind] and value is not False:
            known = ", ".join(_OPTIONS[field.kind]) or "none"
            problems.add(
                here,
                f"found {option}, which is not supported for {field.type_name}; supported are: {known}",
                f"{field.type_name} 不支持 {option}；可用：{known}",
            )
        elif option == "timezone" and value is not True:
            problems.add(
                here,
                f"found {value!r}, a time without zone, which names no instant; expected true: values carry their zone",
                f"实际为 {value!r}，即不带时区的时间，不指明确定的时刻；应为 true：值须带时区",
            )
        elif option in _BOUNDS:
            try:
                if option == "multipleOf" and not value > 0:
                    raise ValueError(value)
                limited[_BOUNDS[option]] = _bound(value, field)
            except (ValueError, TypeError):
                _not_of_type(value, field, here, problems)
        elif option in _LENGTHS:
            if type(value) is not int or value < 0:
                problems.add(here, f"found {value!r}, expected a length", f"实际为 {value!r}，应为长度")
            else:
                shorter = (value, limited.get("max_length", value))
                limited[_LENGTHS[option]] = min(shorter) if option.startswith("max") else value
        elif option == "pattern":
            check_pattern(value, here, problems)
            limited["pattern"] = value
    limits = Limits(**limited)
    for low, high in (
        (limits.minimum, limits.maximum),
        (limits.exclusive_minimum, limits.exclusive_maximum),
        (limits.min_length, limits.max_length),
    ):
        if low is not None and high is not None and low > high:
            problems.add(
                at,
                f"the lower limit {low} is above the upper limit {high}: no row could pass",
                f"下限 {low} 大于上限 {high}：没有行能通过",
            )
    return limits


def _bound(value: Any, field: Field) -> Any:
    """A limit, converted to the column's type; a limit of a column of whole numbers may be a fraction."""
    if field.kind in _WHOLE and isinstance(value, float):
        number = _number(value, "decimal")
        return int(number) if number == int(number) else number
    return value_of(value, field)
