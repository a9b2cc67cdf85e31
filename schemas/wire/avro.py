"""How a row travels: its Avro schema, the bytes of its value and of its key.

The value is an Avro single-object encoding: C3 01, the little-endian CRC-64-AVRO fingerprint of the writer's
schema, the record (Avro specification 1.12, "Single-object encoding"). Where a Confluent-compatible registry is
configured the frame is 0 and the registry's 4-byte id instead. The key is the JSON object of the key columns, so
any Kafka tool shows it; dates are epoch days and timestamps epoch microseconds in it, as in Avro.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Context
from functools import cache
from io import BytesIO
from operator import itemgetter
from typing import Any

from fastavro import parse_schema, schemaless_reader
from fastavro.schema import fingerprint, to_parsing_canonical_form

from schemas.dataset import Dataset, Field
from schemas.errors import InputError

MAGIC = b"\xc3\x01"
FRAME = 10  # bytes of a single-object frame
LARGEST = 1_000_000  # bytes of key and value together that the bus takes
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = _EPOCH.toordinal()
_PRIMITIVE: dict[str, Any] = {
    "date": {"type": "int", "logicalType": "date"},
    "timestamp": {"type": "long", "logicalType": "timestamp-micros"},
}


def avro_schema(dataset: Dataset) -> dict[str, Any]:
    """The Avro schema of one record, fields in the contract's order; a nullable field defaults to null.

    A nested record is named after its field, in a namespace that is the way to it, so no two can share a name.
    """
    return _record(dataset.name, dataset.fields, "gz")


def _record(name: str, fields: tuple[Field, ...], namespace: str) -> dict[str, Any]:
    inside = f"{namespace}.{name}"
    members = [_member(f, inside) for f in fields]
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

    The canonical form leaves logical types out, so decimal(9,2) and decimal(9,4) share a fingerprint. It is
    therefore only looked up within one dataset and major version, where `schemas.compatibility` forbids the two.
    """
    return bytes.fromhex(fingerprint(to_parsing_canonical_form(dict(schema)), "CRC-64-AVRO"))


class Encoder:
    """Turns coerced rows of one dataset into Kafka keys and values; rows must come from `schemas.row.coercer`."""

    def __init__(self, dataset: Dataset, registry_id: int | None = None) -> None:
        self._write = _record_writer(dataset.fields)
        self._frame = (
            MAGIC + schema_fingerprint(avro_schema(dataset))
            if registry_id is None
            else b"\0" + registry_id.to_bytes(4, "big")
        )
        dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
        text: dict[str, Callable[[Any], str]] = {"int": str, "long": str} | dict.fromkeys(
            ("date", "timestamp"), lambda value: str(avro_number(value))
        )
        self._key = [(f"{dumps(name)}:", name, text.get(dataset.field(name).kind, dumps)) for name in dataset.key]

    def value(self, row: Mapping[str, Any]) -> bytes:
        """The framed bytes of one record."""
        return self._frame + self._write(row)

    def key(self, row: Mapping[str, Any]) -> bytes:
        """The key's bytes: the same for equal key columns, so one key stays in one partition."""
        return f"{{{','.join([before + text(row[name]) for before, name, text in self._key])}}}".encode()


# --- the bytes of one value -------------------------------------------------------------------------
#
# Avro's own binary encoding of what `schemas.row.coercer` makes, byte for byte as fastavro writes it, in less than half
# of its time: fastavro looks at every value again to find out which branch of a union it is, and makes a decimal digit by digit.

Write = Callable[[Any], bytes]


@cache
def _digits() -> tuple[list[bytes], list[bytes]]:
    """Of each number of 14 bits its two digits of 7 bits, low one first: where more follow, and (shortest) where none does."""
    more = [bytes((n & 127 | 128, n >> 7 | 128)) for n in range(1 << 14)]
    last = [bytes((n,)) if n < 128 else bytes((n & 127 | 128, n >> 7)) for n in range(1 << 14)]
    return more, last


def _long_writer() -> Write:
    more, last = _digits()

    def long(n: int) -> bytes:
        n = n << 1 if n >= 0 else ~(n << 1)
        if n < 1 << 14:
            return last[n]
        if n < 1 << 28:
            return more[n & 16383] + last[n >> 14]
        if n < 1 << 56:
            if n < 1 << 42:
                return more[n & 16383] + more[n >> 14 & 16383] + last[n >> 28]
            return more[n & 16383] + more[n >> 14 & 16383] + more[n >> 28 & 16383] + last[n >> 42]
        return more[n & 16383] + more[n >> 14 & 16383] + more[n >> 28 & 16383] + more[n >> 42 & 16383] + last[n >> 56]

    return long


def _text_writer() -> Write:
    long, last = _long_writer(), _digits()[1]

    def text(value: str) -> bytes:
        encoded = value.encode()
        size = len(encoded)
        return (last[size << 1] if size < 8192 else long(size)) + encoded

    return text


def _bytes_writer() -> Write:
    long = _long_writer()
    return lambda value: long(len(value)) + value


def _date_writer() -> Write:
    long = _long_writer()
    return lambda value: long(value.toordinal() - _EPOCH_DAY)


def _timestamp_writer() -> Write:
    long = _long_writer()

    def timestamp(value: datetime) -> bytes:
        since = value - _EPOCH
        return long((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds)

    return timestamp


def _decimal_writer(scale: int) -> Write:
    last, shift = _digits()[1], Context(prec=60).scaleb  # more than the 38 digits that a contract can have

    def decimal(value: Any) -> bytes:
        unscaled = int(shift(value, scale))
        size = unscaled.bit_length() + 8 >> 3
        return last[size << 1] + unscaled.to_bytes(size, "big", signed=True)

    return decimal


def _record_writer(fields: tuple[Field, ...]) -> Write:
    if not fields:
        return lambda _: b""
    names = [f.name for f in fields]
    # A second name, of the first column: itemgetter gives no tuple for one.
    values, columns = itemgetter(*names, names[0]), [_member_writer(f) for f in fields]

    def record(row: Mapping[str, Any]) -> bytes:
        # zip() ends with the columns.
        return b"".join(
            [null if v is None else there + write(v) for (there, null, write), v in zip(columns, values(row))]  # noqa: B905
        )

    return record


def _array_writer(item: Field) -> Write:
    long = _long_writer()
    there, null, write = _member_writer(item)

    def array(values: list[Any]) -> bytes:
        if not values:
            return b"\0"
        return b"".join([long(len(values)), *[null if v is None else there + write(v) for v in values], b"\0"])

    return array


def _member_writer(field: Field) -> tuple[bytes, Any, Write]:
    """What is before a value that is there, what a null is written as, and what writes the value."""
    # join() refuses the None: no null where none may be.
    return (b"", None, _writer(field)) if field.required else (b"\2", b"\0", _writer(field))


def _writer(field: Field) -> Write:
    if field.kind == "decimal":
        return _decimal_writer(field.scale)
    if field.kind == "array" and field.item:
        return _array_writer(field.item)
    if field.kind == "record":
        return _record_writer(field.fields)
    return _PRIMITIVE_WRITERS[field.kind]()


_PRIMITIVE_WRITERS: dict[str, Callable[[], Write]] = {
    "string": _text_writer,
    "bytes": _bytes_writer,
    "int": _long_writer,
    "long": _long_writer,
    "float": lambda: struct.Struct("<f").pack,
    "double": lambda: struct.Struct("<d").pack,
    "boolean": lambda: {False: b"\0", True: b"\1"}.__getitem__,
    "date": _date_writer,
    "timestamp": _timestamp_writer,
}


def avro_number(value: Any) -> Any:
    """A date as epoch days, an aware datetime as epoch microseconds, anything else as it is."""
    if isinstance(value, datetime):
        return (value - _EPOCH) // timedelta(microseconds=1)
    if isinstance(value, date):
        return (value - _EPOCH.date()).days
    return value


def sequence_text(value: Any) -> bytes:
    """A sequence as the text of a tombstone's `sequence` header: a decimal number, or the text itself."""
    return str(avro_number(value)).encode()


def decode(value: bytes, writers: Mapping[bytes, Mapping[str, Any]], reader: Mapping[str, Any]) -> dict[str, Any]:
    """The record in a single-object value, resolved to the reader's schema. InputError says what is wrong.

    `writers` maps fingerprints (8 bytes) to the schema that wrote them.
    """
    if value[:2] != MAGIC or len(value) < FRAME:
        raise InputError(
            f"Value begins {value[:2].hex()}, expected c301, Avro single-object encoding.",
            f"值以 {value[:2].hex()} 开头，应为 c301（Avro 单对象编码）。",
        )
    writer = writers.get(value[2:FRAME])
    if writer is None:
        raise InputError(
            f"Schema fingerprint {value[2:FRAME].hex()} is not registered for this dataset.",
            f"该数据集未登记模式指纹 {value[2:FRAME].hex()}。",
        )
    body = BytesIO(value[FRAME:])
    try:
        record = schemaless_reader(body, parse_schema(dict(writer)), parse_schema(dict(reader)))
    except Exception as error:  # fastavro raises many kinds on broken bytes
        raise InputError(f"The Avro record is broken: {error!r}.", f"Avro 记录已损坏：{error!r}。") from error
    if body.read(1):
        raise InputError("Bytes follow the Avro record.", "Avro 记录之后还有多余字节。")
    return record  # type: ignore[return-value]
