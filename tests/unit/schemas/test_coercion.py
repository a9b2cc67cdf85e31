"""A value is encoded exactly as the contract means it, or refused with its column and the remedy."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from io import BytesIO
from typing import Any

import pytest
from fastavro import parse_schema, schemaless_reader, schemaless_writer
from hypothesis import given
from hypothesis import strategies as st

from schemas.dataset import Dataset, Field, Limits
from schemas.row.coercer import Defect, RowCoercer, RowError
from schemas.row.strict_json import parse_json
from schemas.wire.avro import avro_schema


def dataset(*fields: Field, key: tuple[str, ...] = (), district: str | None = None) -> Dataset:
    return Dataset("t", "1.0.0", fields, key, None, district, "none", None, (), "", "", "t.yaml", "")


def one(field: Field, value: Any, text: bool = False, **options: Any) -> Any:
    return RowCoercer(dataset(field), text, **options).coerce({field.name: value})[field.name]


def refused(field: Field, value: Any, text: bool = False, **options: Any) -> Defect:
    with pytest.raises(RowError) as caught:
        one(field, value, text, **options)
    (defect,) = caught.value.defects
    assert defect.en
    assert any("\u4e00" <= c <= "\u9fff" for c in defect.zh)
    return defect


INT, LONG = Field("n", "int"), Field("n", "long")
FLOAT, DOUBLE = Field("n", "float"), Field("n", "double")
MONEY = Field("n", "decimal", precision=6, scale=2)
WHEN, DAY = Field("n", "timestamp"), Field("n", "date")
NAME, FLAG, BLOB = Field("n", "string"), Field("n", "boolean"), Field("n", "bytes")
LINES = Field(
    "lines",
    "array",
    item=Field(
        "item",
        "record",
        True,
        fields=(Field("sku", "string", True), Field("price", "decimal", precision=6, scale=2)),
    ),
)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        (INT, 3.7, "not a whole number"),
        (INT, Decimal("3.0"), "not a whole number"),
        (INT, True, "found boolean"),
        (INT, "3", "found text"),
        (INT, 2**31, "out of range for int"),
        (INT, -(2**31) - 1, "out of range for int"),
        (LONG, 2**63, "out of range for long"),
        (FLAG, 1, "found int"),
        (FLAG, "true", "found text"),
        (DOUBLE, float("nan"), "NaN"),
        (DOUBLE, float("-inf"), "infinity"),
        (DOUBLE, 10**400, "out of range"),
        (DOUBLE, Decimal("sNaN"), "NaN"),
        (FLOAT, 3.5e38, "32-bit"),
        (DOUBLE, True, "found boolean"),
        (MONEY, Decimal("1.234"), "finer than decimal(6,2)"),
        (MONEY, 1.234, "finer than decimal(6,2)"),
        (MONEY, Decimal("10000"), "too large for decimal(6,2)"),
        (MONEY, Decimal("1E+400000"), "too large"),
        (MONEY, Decimal("1E-400000"), "finer"),
        (MONEY, Decimal("NaN"), "NaN"),
        (MONEY, "1e9999999", "not a decimal number"),
        (MONEY, "١٢", "not a decimal number"),
        (DAY, datetime(2026, 3, 1, tzinfo=UTC), "found datetime"),
        (DAY, "2026-02-30", "no such day"),
        (DAY, "20260301", "not a date"),
        (DAY, "0000-01-01", "no such day"),
        (WHEN, datetime(2026, 3, 1), "without zone"),
        (WHEN, "2026-03-01T08:30:00", "without zone"),
        (WHEN, "2026-03-01T08:30:00.1234567Z", "finer than a microsecond"),
        (WHEN, "2026-03-01", "not a time"),
        (WHEN, "2026-03-01T25:00:00Z", "no such time"),
        (WHEN, "0001-01-01T00:00:00+08:00", "out of range"),
        (WHEN, 1700000000, "expected a time"),
        (BLOB, "not base64!", "base64"),
        (NAME, 5, "found int"),
        (NAME, "ab\udcffc", "byte 0xFF at character 3"),
        (NAME, "\ud800", "lone surrogate"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_and_never_changed(field: Field, value: Any, says: str) -> None:
    assert says in refused(field, value).en


@pytest.mark.parametrize(
    ("field", "value", "made"),
    [
        (INT, 2**31 - 1, 2**31 - 1),
        (DOUBLE, 3, 3.0),
        (FLOAT, 0.1, 0.10000000149011612),
        (MONEY, 12.3, Decimal("12.30")),
        (MONEY, Decimal("1E+3"), Decimal("1000.00")),
        (MONEY, Decimal("1.23000000000"), Decimal("1.23")),
        (MONEY, -0.0, Decimal("0.00")),
        (MONEY, "+.5", Decimal("0.50")),
        (DAY, "2026-03-01", date(2026, 3, 1)),
        (WHEN, "2026-03-01t08:30+0800", datetime(2026, 3, 1, 0, 30, tzinfo=UTC)),
        (WHEN, "2026-03-01 08:30:00.123456000Z", datetime(2026, 3, 1, 8, 30, 0, 123456, tzinfo=UTC)),
        (
            WHEN,
            datetime(2026, 3, 1, 8, tzinfo=timezone(timedelta(hours=8))),
            datetime(2026, 3, 1, tzinfo=UTC),
        ),
        (BLOB, "aGVsbG8=", b"hello"),
        (BLOB, memoryview(b"x"), b"x"),
        (NAME, "NA", "NA"),
        (NAME, "", ""),
        (NAME, "a\0b", "a\0b"),
        (NAME, "𠮷野", "𠮷野"),
    ],
)
def test_value_that_fits_keeps_its_meaning(field: Field, value: Any, made: Any) -> None:
    found = one(field, value)
    assert found == made
    assert type(found) is type(made)


@pytest.mark.parametrize(
    ("field", "cell", "made"),
    [
        (INT, "42", 42),
        (INT, "-0", 0),
        (FLAG, "TRUE", True),
        (FLAG, "False", False),
        (DOUBLE, "1e3", 1000.0),
        (MONEY, "12.3", Decimal("12.30")),
        (NAME, "NA", "NA"),
        (NAME, "null", "null"),
        (NAME, "", None),
        (INT, "", None),
        (LINES, '[{"sku":"a","price":1.10}]', [{"sku": "a", "price": Decimal("1.10")}]),
    ],
)
def test_csv_cell_is_read_by_the_contract_alone(field: Field, cell: str, made: Any) -> None:
    assert one(field, cell, text=True) == made


@pytest.mark.parametrize(
    ("field", "cell", "says"),
    [
        (INT, "3.7", "not a whole number"),
        (INT, " 3", "not a whole number"),
        (INT, "３", "not a whole number"),
        (INT, "9" * 5000, "not a whole number"),
        (INT, "1_000", "not a whole number"),
        (FLAG, "yes", "true or false"),
        (FLAG, "1", "true or false"),
        (DOUBLE, "nan", "not a number"),
        (DOUBLE, "inf", "not a number"),
        (DOUBLE, "1e999", "infinity"),
        (MONEY, "1,000", "not a decimal"),
        (LINES, "[1", "not JSON text"),
        (LINES, '[{"sku":"a","sku":"b"}]', "given twice"),
        (LINES, "[" * 100000, "nested too deeply"),
    ],
)
def test_csv_cell_that_does_not_fit_is_refused(field: Field, cell: str, says: str) -> None:
    assert says in refused(field, cell, text=True).en


def test_a_defect_inside_a_record_is_reported_with_its_path() -> None:
    good = {"sku": "a", "price": 1}
    assert refused(LINES, [good, good, {"sku": "b", "price": 1.234}]).column == "lines[2].price"
    assert refused(LINES, [good, {"price": 1}]).column == "lines[1].sku"
    assert refused(LINES, [None]).column == "lines[0]"
    defect = refused(LINES, [{**good, "pricee": 2}])
    assert (defect.column, defect.found) == ("lines[0].pricee", "2")
    assert "did you mean price" in defect.en


def test_all_defects_of_a_row_are_reported_together() -> None:
    fields = (Field("a", "int", True), Field("b", "string", True), Field("c", "date"))
    with pytest.raises(RowError) as caught:
        RowCoercer(dataset(*fields), False).coerce({"a": 1.5, "c": "x", "d": 1})
    assert [d.column for d in caught.value.defects] == ["a", "b", "c", "d"]


def test_sqlite_booleans_are_taken_from_sql_only() -> None:
    assert one(FLAG, 1, sql=True) is True
    assert one(FLAG, 0, sql=True) is False
    assert "found int" in refused(FLAG, 2, sql=True).en


def test_key_is_never_null_or_empty() -> None:
    data = dataset(Field("k", "string"), key=("k",))
    for row in ({"k": ""}, {"k": None}, {}):
        with pytest.raises(RowError):
            RowCoercer(data, False).coerce(row)


def test_row_of_another_district_is_refused() -> None:
    data = dataset(Field("k", "string"), Field("d", "string"), key=("k",), district="d")
    assert RowCoercer(data, True, "440106").coerce({"k": "1", "d": "440106"})["d"] == "440106"
    with pytest.raises(RowError) as caught:
        RowCoercer(data, True, "440106").coerce({"k": "1", "d": "440103"})
    assert "440103" in caught.value.defects[0].en


@pytest.mark.parametrize(
    ("kind", "limits", "good", "bad"),
    [
        ("string", Limits(max_length=3), "一二三", "一二三四"),
        ("string", Limits(min_length=2), "ab", "a"),
        ("string", Limits(pattern=r"^\d{2}$"), "12", "１２"),
        ("int", Limits(minimum=1, maximum=5), 5, 6),
        ("int", Limits(exclusive_minimum=1), 2, 1),
        ("int", Limits(exclusive_maximum=5), 4, 5),
        ("double", Limits(multiple_of=Decimal("0.1")), 0.3, 0.35),
        ("date", Limits(minimum=date(2020, 1, 1)), date(2020, 1, 1), date(2019, 12, 31)),
    ],
)
def test_limits_of_the_contract_hold(kind: Any, limits: Limits, good: Any, bad: Any) -> None:
    field = Field("n", kind, limits=limits)
    assert one(field, good) == good
    refused(field, bad)


def test_json_numbers_are_exact_and_json_beyond_the_standard_is_refused() -> None:
    assert parse_json('{"a": 0.1234567890123456789}') == {"a": Decimal("0.1234567890123456789")}
    for text in ('{"a": NaN}', "Infinity", '{"a":1,"a":2}', '{"a":1', "[" * 100000):
        with pytest.raises(ValueError, match=r"."):
            parse_json(text)


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "string": st.text(),
    "boolean": st.booleans(),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "double": st.floats(allow_nan=False, allow_infinity=False),
    "decimal": st.decimals(Decimal("-1e8"), Decimal("1e8"), places=4),
    "date": st.dates(),
    "timestamp": st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.just(timezone(timedelta(hours=8)))),
    "bytes": st.binary(),
}
FIELDS = tuple(Field(k, k, precision=20, scale=4) for k in VALUES)  # type: ignore[arg-type]
ALL = dataset(*FIELDS, LINES)
SCHEMA = parse_schema(avro_schema(ALL))


@given(st.fixed_dictionaries({k: st.none() | s for k, s in VALUES.items()}))
def test_an_accepted_value_survives_avro_unchanged(raw: dict[str, Any]) -> None:
    row = RowCoercer(ALL, False).coerce(raw)
    buffer = BytesIO()
    schemaless_writer(buffer, SCHEMA, row, strict=True)
    buffer.seek(0)
    assert schemaless_reader(buffer, SCHEMA, SCHEMA) == row
    assert {k: v for k, v in row.items() if k != "lines"} == raw


def sayable(error: RowError) -> None:
    assert all((d.column + d.en + d.zh + d.found).encode() for d in error.defects)


@given(st.dictionaries(st.sampled_from([*VALUES, "lines", "x"]), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(),
    lambda s: st.lists(s, max_size=3) | st.dictionaries(st.text(max_size=3), s, max_size=3),
)))  # fmt: skip
def test_any_value_is_either_accepted_or_refused_with_a_message(raw: dict[str, Any]) -> None:
    try:
        RowCoercer(ALL, False).coerce(raw)
    except RowError as error:
        sayable(error)


@given(st.fixed_dictionaries({k: st.text(st.characters()) for k in VALUES}))
def test_any_csv_text_is_either_accepted_or_refused_with_a_message(raw: dict[str, str]) -> None:
    try:
        RowCoercer(ALL, True).coerce(raw)
    except RowError as error:
        sayable(error)
