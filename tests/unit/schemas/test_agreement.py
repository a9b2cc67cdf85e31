"""A registry's schema is used for a record only if every value has the meaning that it has in the contract."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import pytest
from fastavro import parse_schema, schemaless_reader, schemaless_writer

from schemas.dataset import Dataset, Field
from schemas.errors import InputError
from schemas.wire.avro import avro_schema
from schemas.wire.registry_agreement import agreed_schema

FIELDS = (
    Field("id", "string", True),
    Field("n", "long", True),
    Field("ratio", "double"),
    Field("price", "decimal", precision=9, scale=2),
    Field("seen", "timestamp"),
    Field("born", "date"),
    Field("tags", "array", item=Field("item", "string")),
    Field("home", "record", fields=(Field("street", "string", True), Field("area", "int"))),
    Field("work", "record", fields=(Field("street", "string", True), Field("area", "int"))),
)
DATASET = Dataset("parks", "1.0.0", FIELDS, ("id",), None, None, "none", None, (), "", "", "p.yaml", "")
READER = avro_schema(DATASET)
PRICE = {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}


def schema(**types: Any) -> dict[str, Any]:
    """A writer's schema of the key and n, with the types of these columns changed or these columns added."""
    fields = {"id": "string", "n": "long"} | types
    listed = [{"name": name, "type": kind} for name, kind in fields.items() if kind is not None]
    return {"type": "record", "name": "Park", "namespace": "other", "doc": "theirs", "fields": listed}


def read(writer: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """The record, written with the writer's schema, as the reader decodes it with the agreed schema."""
    body = BytesIO()
    schemaless_writer(body, parse_schema(writer), record)
    body.seek(0)
    agreed = agreed_schema(json.dumps(writer), READER)
    found = schemaless_reader(body, parse_schema(agreed), parse_schema(READER))
    assert body.read() == b""
    return dict(found)  # type: ignore[arg-type]


def test_the_contracts_own_schema_agrees_with_itself() -> None:
    assert agreed_schema(json.dumps(READER), READER)["fields"][1] == {"name": "n", "type": {"type": "long"}}


def test_names_order_docs_and_promotions_of_another_writer_change_no_value() -> None:
    park = {"type": "record", "name": "Place", "fields": [{"name": "street", "type": {"type": "string"}}]}
    writer = schema(
        n="int",
        ratio=["float", "null"],
        price=PRICE,
        work=["null", park],
        home=["null", "Place"],
        tags={"type": "array", "items": {"type": "string", "avro.java.string": "String"}},
    )
    record = {"id": "a", "n": 7, "ratio": 0.5, "price": b"\x04\xd2", "work": {"street": "w"}, "home": None}
    found = read(writer, {**record, "tags": ["x"]})
    assert {name: str(value) for name, value in found.items()} == {
        "id": "a", "n": "7", "ratio": "0.5", "price": "12.34", "seen": "None", "born": "None", "tags": "['x']",
        "home": "None", "work": "{'street': 'w', 'area': None}",
    }  # fmt: skip
    for name in ("Place", "other.Place"):
        named = schema(work=["null", park], home=["null", name])
        assert read(named, {"id": "a", "n": 1, "home": {"street": "h"}})["home"] == {"street": "h", "area": None}


@pytest.mark.parametrize(
    ("writer", "says"),
    [
        (schema(price={**PRICE, "scale": 4}), "price is bytes decimal(9,4), expected bytes decimal(9,2)"),
        (schema(price={**PRICE, "precision": 12}), "price is bytes decimal(12,2), expected bytes decimal(9,2)"),
        (schema(price="bytes"), "price is bytes, expected bytes decimal(9,2)"),
        (schema(price={**PRICE, "type": "fixed", "name": "F", "size": 8}), "price is fixed decimal(9,2)"),
        (schema(seen={"type": "long", "logicalType": "timestamp-millis"}), "seen is long timestamp-millis"),
        (schema(seen={"type": "long", "logicalType": "local-timestamp-micros"}), "seen is long local-timestamp"),
        (schema(seen="long"), "seen is long, expected long timestamp-micros"),
        (schema(born="int"), "born is int, expected int date"),
        (schema(n={"type": "long", "logicalType": "timestamp-millis"}), "n is long timestamp-millis, expected long"),
        (schema(n="double"), "n is double, expected long"),
        (schema(ratio="long"), "ratio is long, expected double"),
        (schema(id="bytes"), "id is bytes, expected string"),
        (schema(id={"type": "enum", "name": "E", "symbols": ["a"]}), "id is enum, expected string"),
        (schema(n=["null", "long", "string"]), "n is a union of 3"),
        (schema(n=["long"]), "n is a union of 1"),
        (schema(n=["null", ["null", "long"]]), "n is a union of 2"),
        (schema(n="Unknown"), "n is no Avro type"),
        (schema(n={"type": {"type": "long"}}), "n is no Avro type"),
        (schema(tags={"type": "array", "items": "int"}), "tags[] is int, expected string"),
        (schema(tags={"type": "array"}), "tags[] is no Avro type"),
        (schema(home={"type": "record", "name": "H", "fields": []}), "field home.street is missing"),
        (schema(n=None), "field n is missing"),
        (schema(prise=PRICE), "field prise is not in the contract"),
        ({**schema(), "fields": schema()["fields"] * 2}, "field id appears twice"),
        ({**schema(), "fields": 7}, "field id is missing"),
        ({**schema(), "fields": [{"name": ["id"], "type": "string"}]}, "field ['id'] is not in the contract"),
        ({"type": "string"}, "the whole schema is string, expected record"),
        ({"$schema": "http://json-schema.org/draft-07/schema", "type": "object"}, "the whole schema is object"),
        (["null", "int"], "the whole schema is int"),
        (None, "the whole schema is no Avro type"),
    ],
)
def test_a_schema_that_would_read_as_another_value_is_refused(writer: Any, says: str) -> None:
    with pytest.raises(InputError) as refused:
        agreed_schema(json.dumps(writer), READER)
    assert says in refused.value.en
    assert refused.value.zh


@pytest.mark.parametrize("text", ['syntax = "proto3";', "", "[" * 100_000])
def test_a_schema_that_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="no Avro type"):
        agreed_schema(text, READER)
