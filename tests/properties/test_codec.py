"""For any row of any dataset: the decoded row is the coerced row, and only equal keys have equal bytes."""

from __future__ import annotations

import math
import struct
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from io import BytesIO
from typing import Any

from fastavro import parse_schema, schemaless_writer
from hypothesis import given
from hypothesis import strategies as st

from schemas.compatibility import compare
from schemas.dataset import Dataset, Field, Kind
from schemas.row.coercer import RowCoercer
from schemas.wire.avro import FRAME, avro_schema, schema_fingerprint
from schemas.wire.encoder import Encoder
from tests.avro_reader import decode

SCALARS: tuple[Kind, ...] = ("string", "boolean", "int", "long", "float", "double", "date", "timestamp", "bytes")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def names(count: int) -> list[str]:
    return [f"f{i}" for i in range(count)]


@cache  # making a strategy costs more than drawing from it
def fields(name: str, depth: int = 2, required: bool | None = None) -> st.SearchStrategy[Field]:
    """Any column that a contract may declare."""
    need = st.booleans() if required is None else st.just(required)
    plain = st.tuples(st.sampled_from(SCALARS), need).map(lambda f: Field(name, *f))
    scales = cache(lambda p: st.tuples(need, st.just(p), st.integers(0, p)))
    decimal = st.integers(1, 38).flatmap(scales).map(lambda f: Field(name, "decimal", *f))
    if not depth:
        return plain | decimal
    array = st.tuples(need, fields("item", depth - 1)).map(lambda f: Field(name, "array", f[0], item=f[1]))
    members = cache(lambda n: st.tuples(*(fields(m, depth - 1) for m in names(n))))
    record = st.tuples(need, st.integers(1, 3).flatmap(members)).map(lambda f: Field(name, "record", f[0], fields=f[1]))
    return plain | decimal | array | record


def dataset(*columns: Field) -> Dataset:
    key = Field("id", "string", True)
    return Dataset("t", "1.0.0", (key, *columns), ("id",), None, None, "none", None, (), "", "", "t.yaml", "")


DATASETS = (
    st.integers(0, 4)
    .flatmap(cache(lambda n: st.tuples(*(fields(name) for name in names(n)))))
    .map(lambda f: dataset(*f))
)


@cache
def values(field: Field) -> st.SearchStrategy[Any]:
    """Any value of a column, with null if it is nullable."""
    return _given(field) if field.required else st.none() | _given(field)


def _given(field: Field) -> st.SearchStrategy[Any]:
    match field.kind:
        case "string":
            return TEXT
        case "boolean":
            return st.booleans()
        case "int":
            return st.integers(-(2**31), 2**31 - 1)
        case "long":
            return st.integers(-(2**63), 2**63 - 1)
        case "float":
            return st.floats(allow_nan=False, allow_infinity=False, width=32)
        case "double":
            return st.floats(allow_nan=False, allow_infinity=False)
        case "decimal":
            most = 10**field.precision - 1
            return st.integers(-most, most).map(
                lambda n: Decimal((int(n < 0), tuple(map(int, str(abs(n)))), -field.scale))
            )
        case "date":
            return st.dates()
        case "timestamp":
            return st.datetimes(timezones=st.just(UTC))
        case "bytes":
            return st.binary(max_size=12)
        case "array":
            assert field.item
            return st.lists(values(field.item), max_size=3)
        case "record":
            return st.fixed_dictionaries({f.name: values(f) for f in field.fields})


def rows(made: Dataset) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({f.name: values(f) for f in made.fields}).filter(lambda row: row["id"] != "")


def same(a: Any, b: Any) -> bool:
    """Equal in value and in type; -0.0 is not 0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return struct.pack("<d", a) == struct.pack("<d", b) and math.isfinite(a)
    return bool(a == b)


def read(value: bytes, writer: Dataset, reader: Dataset) -> dict[str, Any]:
    schema = avro_schema(writer)
    return decode(value, {schema_fingerprint(schema): schema}, avro_schema(reader))


@given(st.data())
def test_decoded_row_is_the_row_that_was_encoded(data: st.DataObject) -> None:
    made = data.draw(DATASETS)
    row = data.draw(rows(made))
    coerced = RowCoercer(made, text=False).coerce(row)
    found = read(Encoder(made).value(coerced), made, made)
    assert same(found, coerced), (found, coerced)
    assert found == row


@given(st.data())
def test_the_encoders_bytes_are_those_of_fastavro(data: st.DataObject) -> None:
    made = data.draw(DATASETS)
    row = RowCoercer(made, text=False).coerce(data.draw(rows(made)))
    out = BytesIO()
    schemaless_writer(out, parse_schema(avro_schema(made)), row)
    assert Encoder(made).value(row)[FRAME:] == out.getvalue()


@given(st.data())
def test_row_of_an_older_version_reads_null_in_a_column_added_since(data: st.DataObject) -> None:
    old = data.draw(DATASETS)
    new = dataset(*old.fields[1:], data.draw(fields("added", required=False)))
    assert not any(c.breaking for c in compare(old, new))
    row = data.draw(rows(old))
    assert read(Encoder(old).value(row), old, new) == {**row, "added": None}


KEY_VALUES = {
    "string": TEXT.filter(bool),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "date": st.dates(date(1, 1, 1)),
    "timestamp": st.datetimes(datetime(1, 1, 1), timezones=st.just(UTC)),
}


@given(st.data())
def test_two_rows_have_the_same_key_only_if_their_key_columns_are_equal(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from(sorted(KEY_VALUES)), min_size=1, max_size=3))
    columns = tuple(Field(name, kind, True) for name, kind in zip(names(len(kinds)), kinds, strict=True))  # type: ignore[arg-type]
    made = Dataset("t", "1.0.0", columns, tuple(names(len(kinds))), None, None, "none", None, (), "", "", "t.yaml", "")
    key = st.tuples(*(KEY_VALUES[kind] for kind in kinds))
    a, b = data.draw(key), data.draw(key)
    encoder = Encoder(made)
    keys = [encoder.key(dict(zip(made.key, values, strict=True))) for values in (a, b)]
    assert (keys[0] == keys[1]) == (a == b)
