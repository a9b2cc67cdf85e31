"""Avro in Spark, read strictly: the value that the bytes hold, or none, never another.

Spark's `from_avro` ignores what follows the record, drops the bits of a number that its type has no room for (2³¹ in an
int is read as −2³¹, a decimal(9,2) of twenty digits as other digits) and takes any byte but 1 for false. So a record is
decoded with a mark behind it, and with types in which nothing is lost; `narrowed` then gives a column its own type, and
`unreadable` says of which values no reader could make one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import reduce
from operator import or_
from typing import Any

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.avro.functions import from_avro

from pipelines.tables import spark_type
from schemas.dataset import Field

MARK = 16  # bytes of the mark
_FLAG = "suibus.flag"  # a boolean's byte, as it is
_DIGITS = 63  # bytes of a decimal that is read; the longest needs 16, and Java takes minutes over a megabyte
_FIRST_DAY, _LAST_DAY = -719_162, 2_932_896  # 0001-01-01 and 9999-12-31 as days since 1970


def strict_avro(body: Column, writer: Mapping[str, Any], reader: Mapping[str, Any], mark: bytes) -> Column:
    """A struct of `record`, null if the bytes hold none, and `end`, which is `mark` exactly if nothing follows it.

    `mark` must be random: bytes behind the record that happen to be equal to it would pass. A record that is cut off
    and goes on into the mark finds no whole mark behind itself, so it is null.
    """
    return from_avro(
        F.concat(body, F.lit(bytearray(mark))),
        json.dumps(_marked(writer)),
        {"avroSchema": json.dumps(_marked(reader)), "mode": "PERMISSIVE"},
    )


def _marked(schema: Mapping[str, Any]) -> dict[str, Any]:
    flag: Iterator[Any] = iter([{"type": "fixed", "name": _FLAG, "size": 1}])
    end = {"type": "fixed", "name": "suibus.mark", "size": MARK}
    fields = [{"name": "record", "type": _wide(schema, flag)}, {"name": "end", "type": end}]
    return {"type": "record", "name": "suibus.marked", "fields": fields}


def _wide(schema: Any, flag: Iterator[Any]) -> Any:
    """The schema with a type of the same bytes in which no bit is lost; the first `flag` defines, the others refer."""
    if isinstance(schema, list):
        return [_wide(branch, flag) for branch in schema]
    kind = schema if isinstance(schema, str) else schema["type"]
    if kind == "record":
        return {**schema, "fields": [{**f, "type": _wide(f["type"], flag)} for f in schema["fields"]]}
    if kind == "array":
        return {**schema, "items": _wide(schema["items"], flag)}
    if kind == "boolean":
        return next(flag, _FLAG)
    if kind == "int":  # a date too
        return "long"
    if kind == "bytes" and not isinstance(schema, str) and schema.get("logicalType") == "decimal":
        return "bytes"
    return schema


def narrowed(field: Field, raw: Column) -> Column:
    """A column as its table holds it, from what `strict_avro` read; null where `unreadable`."""
    if field.kind == "boolean":
        return F.when(raw == F.lit(bytearray(b"\1")), True).when(raw == F.lit(bytearray(b"\0")), False)
    if field.kind == "date":
        return F.date_from_unix_date(raw.try_cast("int"))
    if field.kind == "array" and field.item and _is_wide(field.item):
        item = field.item
        return F.transform(raw, lambda value: narrowed(item, value))
    if field.kind == "record" and _is_wide(field):
        members = F.struct(*(narrowed(m, raw[m.name]).alias(m.name) for m in field.fields))
        return F.when(raw.isNotNull(), members)
    if field.kind == "decimal":
        return _decimal(field, raw)
    return raw.try_cast(spark_type(field)) if field.kind == "int" else raw


def _decimal(field: Field, raw: Column) -> Column:
    """The number of a decimal's bytes, null if it has more digits than the column: never some of its digits."""
    length = F.substring(F.lit(bytearray(range(0, 2 * _DIGITS + 1, 2))), F.length(raw) + 1, F.lit(1))
    schema = {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": field.scale}
    number = from_avro(F.concat(length, raw), json.dumps(schema), {"mode": "PERMISSIVE"})
    return F.when(F.length(raw) <= _DIGITS, number.try_cast(spark_type(field)))


def _is_wide(field: Field) -> bool:
    if field.item:
        return _is_wide(field.item)
    return field.kind in ("boolean", "date", "int", "decimal") or any(map(_is_wide, field.fields))


def unreadable(field: Field, raw: Column) -> Column | None:
    """True where a value, or one inside of it, is none of its type; None if the type has no such bytes.

    Text that is not UTF-8, days outside of years 1 to 9999 (which Python and SQL have no dates for), more digits than
    a decimal has, more bits than an int has, a boolean that is neither 0 nor 1.
    """
    if field.kind == "string":
        return ~F.is_valid_utf8(raw)
    if field.kind == "boolean":
        return ~raw.isin(bytearray(b"\0"), bytearray(b"\1"))
    if field.kind == "int":
        return ~raw.between(-(2**31), 2**31 - 1)
    if field.kind == "decimal":
        return raw.isNotNull() & _decimal(field, raw).isNull()
    if field.kind == "date":
        return ~raw.between(_FIRST_DAY, _LAST_DAY)
    if field.kind == "timestamp":
        return outside_of_years(raw)
    if field.kind == "array" and field.item:
        item = field.item
        return None if unreadable(item, raw) is None else F.exists(raw, lambda value: _surely(unreadable(item, value)))
    members = [unreadable(f, raw[f.name]) for f in field.fields]
    found = [_surely(m) for m in members if m is not None]
    return reduce(or_, found) if found else None


def outside_of_years(moment: Column) -> Column:
    """True for a timestamp outside of years 1 to 9999."""
    first, last = "TIMESTAMP'0001-01-01T00:00:00Z'", "TIMESTAMP'9999-12-31T23:59:59.999999Z'"
    return ~moment.between(F.expr(first), F.expr(last))


def _surely(condition: Column | None) -> Column:
    return F.lit(False) if condition is None else F.coalesce(condition, F.lit(False))
