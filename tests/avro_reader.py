"""Read a value as fastavro does, to compare with what was encoded or with what the city read."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

from fastavro import parse_schema, schemaless_reader

from schemas.wire.avro import FRAME, MAGIC


def decode(value: bytes, writers: Mapping[bytes, Mapping[str, Any]], reader: Mapping[str, Any]) -> dict[str, Any]:
    """Decode a value in single-object encoding and resolve it to the reader's schema; ValueError if it is not one whole record.

    `writers` maps fingerprints (8 bytes) to writers' schemas.
    """
    if value[:2] != MAGIC or value[2:FRAME] not in writers:
        raise ValueError(f"the value begins with {value[:FRAME].hex()}")
    body = BytesIO(value[FRAME:])
    try:
        record = schemaless_reader(body, parse_schema(dict(writers[value[2:FRAME]])), parse_schema(dict(reader)))
    except Exception as error:  # fastavro raises many kinds on broken bytes
        raise ValueError(repr(error)) from error
    if body.read(1):
        raise ValueError("bytes follow the record")
    return record  # type: ignore[return-value]
