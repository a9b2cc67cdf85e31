"""The type of a property: its logicalType and physicalType as one of the kinds that Suibus keeps exactly."""

from __future__ import annotations

import re
from typing import get_args

from open_data_contract_standard.model import SchemaProperty

from schemas.dataset import Kind
from schemas.odcs.problems import Pointer, Problems

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


def column_type(prop: SchemaProperty, at: Pointer, problems: Problems) -> tuple[Kind, tuple[int, ...]] | None:
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
    """`column_type` for a property with a physicalType, which must be one of the kinds that its logicalType allows."""
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
