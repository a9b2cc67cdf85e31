"""Avro in Spark, read strictly: the value that the bytes hold, or none, never another.

Spark's `from_avro` ignores what follows the record, drops the bits of a number that its type has no room for (2³¹ in an
int is read as −2³¹, a decimal(9,2) of twenty digits as other digits) and takes any byte but 1 for false. So a record is
decoded with a mark behind it, and with types in which nothing is lost; `narrowed` then gives a column its own type,
and null where no reader could make a value of it.

Expressions are SQL text here and in `pipelines.ingest.decode`: a wide contract has thousands of parts, and each that is made
from Python costs calls into the JVM, more in all than the batch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.lake.table_schemas import spark_type
from schemas.dataset import Field

END_MARK_BYTES = 16  # bytes of the mark
END = "_end"  # its field; columns of a contract do not begin with _
_FLAG = "suibus.flag"  # a boolean's byte, as it is
_DIGITS = 4_096  # bytes of a decimal that is read; the longest needs 16, and Java takes seconds over a megabyte
_FIRST_DAY, _LAST_DAY = -719_162, 2_932_896  # 0001-01-01 and 9999-12-31 as days since 1970
_UNREADABLE = ("string", "boolean", "int", "decimal", "date", "timestamp")


def strict_avro(body: str, writer: Mapping[str, Any], reader: Mapping[str, Any], end_mark: bytes) -> str:
    """The record as a struct, with `end_mark` behind its fields as END exactly if nothing else follows; END null if it is none.

    `end_mark` must be random: bytes behind the record that happen to be equal to it would pass. A record that is cut off
    and goes on into the mark finds no whole mark behind itself, so it is none.
    """

    def read(marked: str, decimals: bool) -> str:
        schema, expected = (text(json.dumps(_marked(s, decimals))) for s in (writer, reader))
        return f"from_avro({marked}, {schema}, map('avroSchema', {expected}, 'mode', 'PERMISSIVE'))"

    marked = f"concat({body}, X'{end_mark.hex()}')"
    if long := _has_long_decimal(reader, "r0", 1):
        rough = f"array({read(marked, decimals=False)})"  # one of one: decoded once, whatever is asked of it
        fit = f"length({body}) <= {_DIGITS} OR NOT exists({rough}, r0 -> {long})"
        marked = f"CASE WHEN {fit} THEN {marked} ELSE X'' END"  # no bytes hold no record
    return read(marked, decimals=True)


def text(value: str) -> str:
    """A string as a literal: nothing in it is an escape to the parser, nor a ${variable}."""
    return "'" + "".join(f"\\u{ord(c):04x}" if c in "\\'$" or c < " " else c for c in value) + "'"


def _has_long_decimal(schema: Any, raw: str, depth: int) -> str | None:
    """True where some decimal has more bytes than are read; None if the type has none. Its bytes are read as such here."""
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
    """Whether any of them holds."""
    return tree(conditions, "OR")


def tree(parts: list[str], operator: str) -> str:
    """All of them in a tree of few levels: code that is generated for a long chain is as deep as it is long."""
    if len(parts) <= 2:
        return f"({f' {operator} '.join(parts)})"
    middle = len(parts) // 2
    return f"({tree(parts[:middle], operator)} {operator} {tree(parts[middle:], operator)})"


def _marked(schema: Mapping[str, Any], decimals: bool) -> dict[str, Any]:
    """The schema with a field more. Not a record around it: Spark makes each inner one anew, at three times the cost of all."""
    flag: Iterator[Any] = iter([{"type": "fixed", "name": _FLAG, "size": 1}])
    wide = _wide(schema, flag, decimals)
    end = {"name": END, "type": {"type": "fixed", "name": "suibus.mark", "size": END_MARK_BYTES}}
    return {**wide, "fields": [*wide["fields"], end]}


def _wide(schema: Any, flag: Iterator[Any], decimals: bool) -> Any:
    """The schema with a type of the same bytes in which no bit is lost; the first `flag` defines, the others refer.

    A decimal has as many digits as Spark can hold, or with `decimals` false is its bytes.
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
    """A column as its table holds it, from what `strict_avro` read; null also where that, or a part of it, is none.

    None is text that is not UTF-8, a day outside of years 1 to 9999 (which Python and SQL have no dates for), more digits
    than a decimal has, more bits than an int has, a boolean that is neither 0 nor 1.
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
    """An array or a record whose parts are all readable; what needs no other type is left as it is."""
    if not _is_wide(field):
        return raw
    if field.item:
        return f"transform({raw}, r{depth} -> {narrowed(field.item, f'r{depth}', depth + 1)})"
    members = (f"'{m.name}', {narrowed(m, f'{raw}.`{m.name}`', depth)}" for m in field.fields)
    return f"CASE WHEN {raw} IS NOT NULL THEN named_struct({', '.join(members)}) END"


def _is_wide(field: Field) -> bool:
    if field.item:
        return _is_wide(field.item)
    return field.kind in ("boolean", "date", "int", "decimal") or any(map(_is_wide, field.fields))


def can_be_unreadable(field: Field) -> bool:
    """Whether there are bytes that are none of the column's type, though they decode."""
    inside = (*field.fields, *([field.item] if field.item else []))
    return field.kind in _UNREADABLE or any(map(can_be_unreadable, inside))


def _unreadable(field: Field, raw: str, depth: int) -> str:
    """True where a value, or one inside of it, is none of its type."""
    if field.item:
        return f"coalesce(exists({raw}, r{depth} -> {_unreadable(field.item, f'r{depth}', depth + 1)}), false)"
    if field.fields:
        members = (f for f in field.fields if can_be_unreadable(f))
        return either([_unreadable(m, f"{raw}.`{m.name}`", depth) for m in members])
    return f"({raw} IS NOT NULL AND {narrowed(field, raw, depth)} IS NULL)"


def outside_of_years(moment: str) -> str:
    """True for a timestamp outside of years 1 to 9999."""
    first, last = "TIMESTAMP'0001-01-01T00:00:00Z'", "TIMESTAMP'9999-12-31T23:59:59.999999Z'"
    return f"({moment} NOT BETWEEN {first} AND {last})"
