"""Reads a record in plain Python, without the product's code: its Avro, its key and its headers."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from io import BytesIO
from typing import Any

from schemas.dataset import Dataset, Field
from schemas.wire.avro import FRAME, LARGEST, MAGIC
from schemas.wire.encoder import sequence_text
from tests.faults.hostile.worlds import EPOCH, Case, World


class RefusedError(Exception):
    """The bytes hold no record."""


def judge(case: Case, world: World) -> dict[str, Any] | None:
    dataset = world.dataset
    if len(case.key or b"") + len(case.value or b"") > LARGEST:
        return None
    try:
        moment = EPOCH + timedelta(microseconds=case.timestamp)
        row = _deleted(case, dataset) if case.value is None else _record(case.value, world)
    except (RefusedError, ValueError, OverflowError, RecursionError):
        return None
    if case.key != world.encoder.key(row):
        return None
    if case.value is None:
        return {name: row.get(name) for name in (f.name for f in dataset.fields)} | {
            "_sequence": _header(case, dataset)
        }
    if dataset.district and row[dataset.district] != case.district:
        return None
    if not_finite(row) or world.breaks(row):
        return None
    return row | {"_sequence": row[dataset.sequence] if dataset.sequence else moment}


def _deleted(case: Case, dataset: Dataset) -> dict[str, Any]:
    if case.key is None:
        raise RefusedError
    found = json.loads(case.key)
    if not isinstance(found, dict) or set(found) != set(dataset.key):
        raise RefusedError
    if dataset.sequence and _header(case, dataset) is None:
        raise RefusedError
    return {name: _from_number(found[name], dataset.field(name)) for name in dataset.key}


def _from_number(value: Any, column: Field) -> Any:
    if column.kind == "string":
        if not isinstance(value, str):
            raise RefusedError
        value.encode()
        return value
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise RefusedError
    if column.kind == "int" and not -(2**31) <= value < 2**31:
        raise RefusedError
    if column.kind == "date":
        return EPOCH.date() + timedelta(days=value)
    return EPOCH + timedelta(microseconds=value) if column.kind == "timestamp" else value


def _header(case: Case, dataset: Dataset) -> Any:
    if dataset.sequence is None:
        return EPOCH + timedelta(microseconds=case.timestamp)
    given = [value for name, value in case.headers or () if name == "sequence"]
    if len(given) != 1 or given[0] is None:
        return None
    column = dataset.field(dataset.sequence)
    try:
        text = given[0].decode()
        value = _from_number(text if column.kind == "string" else int(text), column)
        return value if sequence_text(value) == given[0] else None
    except (ValueError, OverflowError, RefusedError):
        return None


def _record(value: bytes, world: World) -> dict[str, Any]:
    if value[:2] != MAGIC or value[2:FRAME] not in world.writers:
        raise RefusedError
    body = BytesIO(value[FRAME:])
    row = {f.name: None for f in world.dataset.fields}
    row |= {f.name: read_value(f, body) for f in world.writers[value[2:FRAME]].fields}
    if body.read(1):
        raise RefusedError
    return row


def _long(body: BytesIO, most: int = 10) -> int:
    number = shift = 0
    while True:
        byte = _bytes(body, 1)[0]
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
        if shift == 7 * most:
            raise RefusedError
    number &= (1 << (64 if most == 10 else 32)) - 1  # readers ignore surplus bits of the last byte
    return (number >> 1) ^ -(number & 1)


def _bytes(body: BytesIO, count: int) -> bytes:
    found = body.read(count) if 0 <= count <= LARGEST else b""
    if len(found) != count:
        raise RefusedError
    return found


def read_value(column: Field, body: BytesIO) -> Any:
    if not column.required:
        branch = _long(body, 5)
        if branch not in (0, 1):
            raise RefusedError
        if branch == 0:
            return None
    match column.kind:
        case "string":
            return _bytes(body, _long(body)).decode()
        case "bytes":
            return _bytes(body, _long(body))
        case "boolean":
            return {b"\0": False, b"\1": True}[_flag(body)]
        case "int" | "long" | "date" | "timestamp":
            return _from_number(_long(body), column)
        case "float":
            return struct.unpack("<f", _bytes(body, 4))[0]
        case "double":
            return struct.unpack("<d", _bytes(body, 8))[0]
        case "decimal":
            digits = _bytes(body, _long(body))
            number = int.from_bytes(digits, "big", signed=True)
            if not 0 < len(digits) <= 4096 or abs(number) >= 10**column.precision:
                raise RefusedError
            return Decimal((int(number < 0), tuple(map(int, str(abs(number)))), -column.scale))
        case "array":
            return list(_items(column, body))
        case "record":
            return {member.name: read_value(member, body) for member in column.fields}


def _flag(body: BytesIO) -> bytes:
    byte = _bytes(body, 1)
    if byte not in b"\0\1":
        raise RefusedError
    return byte


def _items(column: Field, body: BytesIO) -> Iterator[Any]:
    assert column.item
    so_far = 0
    while count := _long(body):
        if count < 0:
            _long(body)
        if count == -(2**63) and not so_far:
            return  # Java cannot negate it, and reads it as an empty block
        so_far += abs(count)
        if so_far > LARGEST:
            raise RefusedError
        for _ in range(abs(count)):
            yield read_value(column.item, body)


def not_finite(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(not_finite, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and not math.isfinite(value)


def same(a: Any, b: Any) -> bool:
    """Equal in value, in type, and to the last bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return set(a) == set(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return struct.pack("<d", a) == struct.pack("<d", b)
    if isinstance(a, Decimal):
        return bool(a.as_tuple() == b.as_tuple())
    return bool(a == b)
