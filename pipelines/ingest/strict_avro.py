"""Strict Avro decoding in Spark: exactly the value in the bytes, or null; never a different value.

Spark's `from_avro` ignores bytes after the record, drops the high bits of numbers that do not fit the type (2³¹ in an int is
read as −2³¹, a decimal(9,2) of twenty digits as other digits) and reads every byte except 1 as false. So here a random end mark is
appended to the record before decoding, and wider types are used in which no bit is lost. `narrowed` then casts a value to the
column's type, or gives null where it does not fit.

Expressions are SQL text, here and in `pipelines.ingest.decode`: a wide contract has thousands of expressions, and building each
from Python takes JVM calls that would cost more than the batch itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.lake.table_schemas import spark_type
from schemas.dataset import Field

END_MARK_BYTES = 16  # the length of the end mark
END = "_end"  # the field that holds the end mark; a contract's columns cannot begin with _
_FLAG = "suibus.flag"  # the name of the type as which a boolean is read: its one byte, unchanged
_DIGITS = 4_096  # the most bytes of a decimal that is decoded; 16 are enough for 38 digits, and Java takes seconds for a megabyte
_FIRST_DAY, _LAST_DAY = -719_162, 2_932_896  # 0001-01-01 and 9999-12-31 as days since 1970
_UNREADABLE = ("string", "boolean", "int", "decimal", "date", "timestamp")


def strict_avro(body: str, writer: Mapping[str, Any], reader: Mapping[str, Any], end_mark: bytes) -> str:
    """The decoded record as a struct: the reader schema's fields, then END.

    END equals `end_mark` if no other bytes follow the record, and is null if the bytes are not a record. A truncated record reads
    into the end mark, so the whole mark is not found after it. `end_mark` must be random: extra bytes equal to it would be accepted.
    """

    def read(with_mark: str, decimals: bool) -> str:
        schema, expected = (text(json.dumps(_with_end_mark(s, decimals))) for s in (writer, reader))
        return f"from_avro({with_mark}, {schema}, map('avroSchema', {expected}, 'mode', 'PERMISSIVE'))"

    with_mark = f"concat({body}, X'{end_mark.hex()}')"
    if long := _has_long_decimal(reader, "r0", 1):
        rough = f"array({read(with_mark, decimals=False)})"  # an array of one, so that Spark decodes it only once
        fit = f"length({body}) <= {_DIGITS} OR NOT exists({rough}, r0 -> {long})"
        with_mark = f"CASE WHEN {fit} THEN {with_mark} ELSE X'' END"  # empty bytes decode to no record
    return read(with_mark, decimals=True)


def text(value: str) -> str:
    """A string as a SQL literal, in which the parser finds neither an escape nor a ${variable}."""
    return "'" + "".join(f"\\u{ord(c):04x}" if c in "\\'$" or c < " " else c for c in value) + "'"


def _has_long_decimal(schema: Any, raw: str, depth: int) -> str | None:
    """SQL that is true if some decimal is longer than _DIGITS bytes; None if the type has no decimal. It expects decimals read as bytes."""
    if isinstance(schema, list):
        (schema,) = (branch for branch in schema if branch != "null")
    if isinstance(schema, str):
        return None
    if schema["type"] == "array":
        item = _has_long_decimal(schema["items"], f"r{depth}", depth + 1)
        return item and f"coalesce(exists({raw}, r{depth} -> {item}), false)"
    if schema["type"] == "record":
        members = (_has_long_decimal(f["type"], f"{raw}.`{f['name']}`", depth) for f in schema["fields"])
        return either(found) if (found := [m for m in members if m]) else None
    return f"coalesce(length({raw}) > {_DIGITS}, false)" if schema.get("logicalType") == "decimal" else None


def either(conditions: list[str]) -> str:
    """The conditions joined by OR."""
    return tree(conditions, "OR")


def tree(parts: list[str], operator: str) -> str:
    """The parts joined by an operator, as a balanced tree: the code that Spark generates for a long chain would nest too deeply."""
    if len(parts) <= 2:
        return f"({f' {operator} '.join(parts)})"
    middle = len(parts) // 2
    return f"({tree(parts[:middle], operator)} {operator} {tree(parts[middle:], operator)})"


def _with_end_mark(schema: Mapping[str, Any], decimals: bool) -> dict[str, Any]:
    """The schema, widened, with END as its last field. (A record around it would cost three times as much: Spark copies nested records.)"""
    flag: Iterator[Any] = iter([{"type": "fixed", "name": _FLAG, "size": 1}])
    wide = _wide(schema, flag, decimals)
    end = {"name": END, "type": {"type": "fixed", "name": "suibus.mark", "size": END_MARK_BYTES}}
    return {**wide, "fields": [*wide["fields"], end]}


def _wide(schema: Any, flag: Iterator[Any], decimals: bool) -> Any:
    """The schema with types that read the same bytes and lose no bit: int as long, boolean as one byte, decimal with 38 digits.

    With `decimals` False a decimal is read as bytes. `flag` yields the definition of the boolean's type once; after that the type is
    used by name, as Avro requires.
    """
    if isinstance(schema, list):
        return [_wide(branch, flag, decimals) for branch in schema]
    kind = schema if isinstance(schema, str) else schema["type"]
    if kind == "record":
        return {**schema, "fields": [{**f, "type": _wide(f["type"], flag, decimals)} for f in schema["fields"]]}
    if kind == "array":
        return {**schema, "items": _wide(schema["items"], flag, decimals)}
    if kind == "boolean":
        return next(flag, _FLAG)
    if kind == "int":  # a date too
        return "long"
    if kind == "bytes" and not isinstance(schema, str) and schema.get("logicalType") == "decimal":
        return {**schema, "precision": 38} if decimals else "bytes"
    return schema


def narrowed(field: Field, raw: str, depth: int = 0) -> str:
    """A value from `strict_avro` cast to the type of its column; null if it, or a part of it, does not fit.

    These do not fit: text that is not UTF-8, a date outside the years 1 to 9999 (Python and SQL have none), a decimal with too many
    digits, an int with too many bits, a boolean that is neither 0 nor 1.
    """
    if field.kind == "string":
        return f"CASE WHEN is_valid_utf8({raw}) THEN {raw} END"
    if field.kind == "boolean":
        return f"CASE {raw} WHEN X'01' THEN true WHEN X'00' THEN false END"
    if field.kind == "date":
        days = f"date_from_unix_date(try_cast({raw} AS int))"
        return f"CASE WHEN {raw} BETWEEN {_FIRST_DAY} AND {_LAST_DAY} THEN {days} END"
    if field.kind == "timestamp":
        return f"CASE WHEN NOT {outside_of_years(raw)} THEN {raw} END"
    if field.item or field.fields:
        made = _nested(field, raw, depth)
        return f"CASE WHEN NOT {_unreadable(field, raw, depth)} THEN {made} END" if can_be_unreadable(field) else made
    if field.kind in ("int", "decimal"):
        return f"try_cast({raw} AS {spark_type(field).simpleString()})"
    return raw


def _nested(field: Field, raw: str, depth: int) -> str:
    """An array or record with its members cast to their types; unchanged if none of them was read with a wider type."""
    if not _is_wide(field):
        return raw
    if field.item:
        return f"transform({raw}, r{depth} -> {narrowed(field.item, f'r{depth}', depth + 1)})"
    members = (f"'{m.name}', {narrowed(m, f'{raw}.`{m.name}`', depth)}" for m in field.fields)
    return f"CASE WHEN {raw} IS NOT NULL THEN named_struct({', '.join(members)}) END"


def _is_wide(field: Field) -> bool:
    """Whether the field, or a member of it, was read with a wider type."""
    if field.item:
        return _is_wide(field.item)
    return field.kind in ("boolean", "date", "int", "decimal") or any(map(_is_wide, field.fields))


def can_be_unreadable(field: Field) -> bool:
    """Whether some bytes decode and still do not fit the column's type."""
    inside = (*field.fields, *([field.item] if field.item else []))
    return field.kind in _UNREADABLE or any(map(can_be_unreadable, inside))


def _unreadable(field: Field, raw: str, depth: int) -> str:
    """SQL that is true if a value, or a member of it, does not fit its type."""
    if field.item:
        return f"coalesce(exists({raw}, r{depth} -> {_unreadable(field.item, f'r{depth}', depth + 1)}), false)"
    if field.fields:
        members = (f for f in field.fields if can_be_unreadable(f))
        return either([_unreadable(m, f"{raw}.`{m.name}`", depth) for m in members])
    return f"({raw} IS NOT NULL AND {narrowed(field, raw, depth)} IS NULL)"


def outside_of_years(moment: str) -> str:
    """SQL that is true for a timestamp outside the years 1 to 9999."""
    first, last = "TIMESTAMP'0001-01-01T00:00:00Z'", "TIMESTAMP'9999-12-31T23:59:59.999999Z'"
    return f"({moment} NOT BETWEEN {first} AND {last})"
