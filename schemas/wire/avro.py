"""The frame of a record's value on the bus: the Avro schema and its fingerprint.

The value is in Avro single-object encoding: C3 01, the little-endian CRC-64-AVRO fingerprint of the writer's schema, then
the record (Avro specification 1.12, "Single-object encoding"). If a Confluent-compatible registry is configured, the frame
is a zero byte and the registry's 4-byte schema id.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastavro.schema import fingerprint, to_parsing_canonical_form

from schemas.dataset import Dataset, Field

MAGIC = b"\xc3\x01"
FRAME = 10  # bytes before the record in single-object encoding
LARGEST = 1_000_000  # bytes of key and value together that the bus accepts
_PRIMITIVE: dict[str, Any] = {
    "date": {"type": "int", "logicalType": "date"},
    "timestamp": {"type": "long", "logicalType": "timestamp-micros"},
}


def avro_schema(dataset: Dataset) -> dict[str, Any]:
    """The Avro schema of one record, fields in the contract's order; a field that is not required defaults to null.

    A nested record is named after its field, in a namespace of the names that enclose it, so full names are unique.
    """
    return _record(dataset.name, dataset.fields, "gz")


def _record(name: str, fields: tuple[Field, ...], namespace: str) -> dict[str, Any]:
    members = [_member(f, f"{namespace}.{name}") for f in fields]
    return {"type": "record", "name": name, "namespace": namespace, "fields": members}


def _member(field: Field, namespace: str) -> dict[str, Any]:
    kind = _type(field, namespace)
    if field.required:
        return {"name": field.name, "type": kind}
    return {"name": field.name, "type": ["null", kind], "default": None}


def _type(field: Field, namespace: str) -> Any:
    if field.kind == "decimal":
        return {"type": "bytes", "logicalType": "decimal", "precision": field.precision, "scale": field.scale}
    if field.kind == "array" and field.item:
        item = _type(field.item, f"{namespace}.{field.name}")
        return {"type": "array", "items": item if field.item.required else ["null", item]}
    if field.kind == "record":
        return _record(field.name, field.fields, namespace)
    return _PRIMITIVE.get(field.kind, field.kind)


def schema_fingerprint(schema: Mapping[str, Any]) -> bytes:
    """The 8 little-endian bytes of the CRC-64-AVRO fingerprint of a schema's parsing canonical form.

    The canonical form omits logical types, so decimal(9,2) and decimal(9,4) have the same fingerprint. It is therefore
    looked up only within one dataset and major version, in which `schemas.compatibility` refuses such a change.
    """
    return bytes.fromhex(fingerprint(to_parsing_canonical_form(dict(schema)), "CRC-64-AVRO"))
