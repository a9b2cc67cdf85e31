"""The bytes on the wire: those of the Avro specification, the same for the same row, and never read as another row."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import pytest

from schemas.contract import load_contract
from schemas.dataset import Dataset, Field, Kind
from schemas.wire.avro import FRAME, MAGIC, avro_schema, schema_fingerprint
from schemas.wire.encoder import Encoder, avro_number, sequence_text
from tests.avro_reader import decode

EVERY_TYPE = load_contract(Path(__file__).parents[2] / "contracts" / "every_type.yaml")
ID = Field("id", "string", True)


def dataset(*fields: Field, key: tuple[str, ...] = ("id",), name: str = "t") -> Dataset:
    return Dataset(name, "1.0.0", fields, key, None, None, "none", None, (), "", "", "t.yaml", "")


def writers(*datasets: Dataset) -> dict[bytes, Any]:
    return {schema_fingerprint(s): s for s in map(avro_schema, datasets)}


# ---- schema


def types_of(schema: dict[str, Any]) -> dict[str, Any]:
    return {f["name"]: f["type"] for f in schema["fields"]}


def test_schema_has_the_fields_in_the_contracts_order() -> None:
    assert list(types_of(avro_schema(EVERY_TYPE))) == [f.name for f in EVERY_TYPE.fields]


def test_only_nullable_fields_have_null_and_default_to_it() -> None:
    for made, field in zip(avro_schema(EVERY_TYPE)["fields"], EVERY_TYPE.fields, strict=True):
        nullable = isinstance(made["type"], list) and made["type"][0] == "null"
        assert nullable is not field.required
        assert made.get("default", "none") == ("none" if field.required else None)


@pytest.mark.parametrize(
    ("name", "avro"),
    [
        ("a_string", "string"), ("a_boolean", "boolean"), ("an_int", "int"), ("a_long", "long"), ("a_float", "float"),
        ("a_double", "double"), ("some_bytes", "bytes"), ("an_enum", "string"),
        ("day", {"type": "int", "logicalType": "date"}),
        ("a_timestamp", {"type": "long", "logicalType": "timestamp-micros"}),
        ("a_decimal", {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 10}),
        ("an_array", {"type": "array", "items": "string"}),
        ("maybe_array", ["null", {"type": "array", "items": ["null", "long"]}]),
    ],
)  # fmt: skip
def test_type_has_its_avro_type(name: str, avro: Any) -> None:
    assert types_of(avro_schema(EVERY_TYPE))[name] == avro


def record(name: str, *members: Field) -> Field:
    return Field(name, "record", True, fields=members)


@pytest.mark.parametrize(
    "fields",
    [
        (record("b", record("c_d", ID)), record("b_c", record("d", ID))),
        (Field("x", "array", True, item=record("item", ID)), record("x_item", ID)),
        (record("a", record("a", record("a", ID))), record("item", record("a", ID))),
        (record("string", ID), record("int", record("null", ID)), record("record", ID)),
    ],
    ids=["underscores", "items", "one name at each level", "names of primitive types"],
)
def test_nested_records_never_share_a_name(fields: tuple[Field, ...]) -> None:
    made = avro_schema(dataset(ID, *fields))
    fastavro.parse_schema(made)  # raises SchemaParseException for a name used twice
    names = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if node.get("type") == "record":
                names.append(f"{node['namespace']}.{node['name']}")
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(made)
    assert len(names) == len(set(names))


# ---- fingerprint


def test_fingerprint_is_that_of_the_specification() -> None:
    """CRC-64-AVRO of the canonical form `"int"` and `"null"`, as Avro's own schema-tests.txt lists them."""
    assert int.from_bytes(schema_fingerprint({"type": "null"}), "little", signed=True) == 7195948357588979594
    assert int.from_bytes(schema_fingerprint({"type": "int"}), "little", signed=True) == 8247732601305521295


def test_the_fingerprint_changes_with_an_added_field_and_not_with_titles() -> None:
    plain = dataset(ID)
    assert schema_fingerprint(avro_schema(plain)) != schema_fingerprint(avro_schema(dataset(ID, Field("x", "int"))))
    titled = dataset(Field("id", "string", True, title="编号", description="x"))
    assert schema_fingerprint(avro_schema(plain)) == schema_fingerprint(avro_schema(titled))


def test_fingerprint_of_the_every_type_contract_is_pinned() -> None:
    """Records on the wire carry it: if it changes, records already sent can no longer be read."""
    assert schema_fingerprint(avro_schema(EVERY_TYPE)).hex() == "4e5256d30d995045"


# ---- frame


def test_value_is_single_object_encoding_of_the_specification() -> None:
    t = dataset(ID)
    value = Encoder(t).value({"id": "ab"})
    assert value == MAGIC + schema_fingerprint(avro_schema(t)) + b"\x04ab"
    assert MAGIC == b"\xc3\x01"
    assert FRAME == 10


def test_value_with_a_registry_is_in_confluents_frame() -> None:
    assert Encoder(dataset(ID), registry_id=7).value({"id": "ab"}) == b"\0\0\0\0\x07\x04ab"


def test_decoded_record_is_resolved_to_the_readers_schema() -> None:
    old, new = dataset(ID), dataset(Field("x", "int"), ID)
    assert decode(Encoder(old).value({"id": "a"}), writers(old), avro_schema(new)) == {"x": None, "id": "a"}
    assert decode(Encoder(new).value({"id": "a", "x": 1}), writers(new), avro_schema(old)) == {"id": "a"}


# ---- key


def test_key_is_the_json_object_of_the_key_columns_in_their_order() -> None:
    t = dataset(Field("b", "long", True), Field("a", "string", True), Field("x", "int"), key=("a", "b"))
    assert Encoder(t).key({"x": 5, "b": 2, "a": "天河"}) == '{"a":"天河","b":2}'.encode()


def test_key_holds_dates_and_instants_as_avro_numbers() -> None:
    t = dataset(Field("d", "date", True), Field("t", "timestamp", True), key=("d", "t"))
    row = {"d": date(1969, 12, 31), "t": datetime(1970, 1, 1, 8, 0, 0, 5, tzinfo=timezone(timedelta(hours=8)))}
    assert json.loads(Encoder(t).key(row)) == {"d": -1, "t": 5}


def test_one_instant_in_two_zones_is_one_key() -> None:
    t = dataset(Field("t", "timestamp", True), key=("t",))
    utc = datetime(2026, 3, 1, tzinfo=UTC)
    assert Encoder(t).key({"t": utc}) == Encoder(t).key({"t": utc.astimezone(timezone(timedelta(hours=8)))})


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (date(1, 1, 1), -719162), (date(9999, 12, 31), 2932896), (datetime(1, 1, 1, tzinfo=UTC), -62135596800000000),
        (datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), 253402300799999999),
        (datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), -1), ("text", "text"), (5, 5),
    ],
)  # fmt: skip
def test_dates_and_instants_are_numbers_since_the_epoch(value: Any, number: Any) -> None:
    assert avro_number(value) == number
    assert sequence_text(value) == str(number).encode()


@pytest.mark.parametrize(("kind", "value"), [("decimal", Decimal("1.5")), ("string", "x"), ("bytes", b"\0")])
def test_round_trip_returns_the_very_type(kind: Kind, value: Any) -> None:
    t = dataset(ID, Field("x", kind, precision=5, scale=1))
    found = decode(Encoder(t).value({"id": "a", "x": value}), writers(t), avro_schema(t))["x"]
    assert found == value
    assert type(found) is type(value)
