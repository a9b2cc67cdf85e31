"""SQL text over the decoded record: the raw value of a column, the key as a node writes it, and the sequence.

The decoded record has the envelope's columns, `_keys` (the parts of a delete's key), `_read` (the record from `strict_avro`) and
`_header` (a delete's sequence).
"""

from __future__ import annotations

import json

from pipelines.ingest.strict_avro import narrowed, outside_of_years, text
from schemas.dataset import Dataset


def raw_column(name: str, dataset: Dataset) -> str:
    """A column's raw value: from the record; the key columns of a delete come from its key."""
    read = f"_read.`{name}`"
    return f"CASE WHEN _deleted THEN {_from_key(name, dataset)} ELSE {read} END" if name in dataset.key else read


def _from_key(name: str, dataset: Dataset) -> str:
    part = f"_keys.`{name}`"
    return f"timestamp_micros({part})" if dataset.field(name).kind == "timestamp" else part


def canonical_key(dataset: Dataset) -> str:
    """The record's key exactly as `schemas.wire.encoder.Encoder.key` writes it; null if a part is missing.

    The same key written in another way would be in another partition, and the order of its changes would be lost.
    """
    parts: list[str] = []
    for name in dataset.key:
        part, kind = raw_column(name, dataset), dataset.field(name).kind
        value = _quoted(part) if kind == "string" else f"unix_micros({part})" if kind == "timestamp" else part
        parts += [text(f'{"," if parts else "{"}"{name}":'), f"CAST({value} AS string)"]
    return f"concat({', '.join(parts)}, '}}')"


_ESCAPED = {c: json.dumps(c)[1:-1] for c in ("\\", '"', *map(chr, range(32)))}


def _quoted(value: str) -> str:
    """A string as Python's json.dumps(…, ensure_ascii=False) writes it."""
    special = r'[\x00-\x1f"\\]'
    escapes = ", ".join(text(part) for pair in _ESCAPED.items() for part in pair)
    runs = f"regexp_extract_all({value}, {text(rf'{special}|[^{special[1:]}+')}, 0)"
    escaped = f"array_join(transform({runs}, run -> coalesce(try_element_at(map({escapes}), run), run)), '')"
    return f"""concat('"', CASE WHEN {value} RLIKE {text(special)} THEN {escaped} ELSE {value} END, '"')"""


def sequence_column(dataset: Dataset) -> str:
    """The value that orders the versions of a key.

    It is the sequence column, for a delete the header `sequence`. Without a sequence column it is the Kafka timestamp.
    """
    if dataset.sequence is None:
        return f"CASE WHEN NOT {outside_of_years('_timestamp')} THEN _timestamp END"
    field = dataset.field(dataset.sequence)
    number = "try_cast(_header AS bigint)"
    number = f"CASE WHEN CAST({number} AS string) = _header THEN {number} END"  # ' 1', '+1' and '1.0' are not accepted
    raw = {"string": "_header", "timestamp": f"timestamp_micros({number})"}.get(field.kind, number)
    return f"CASE WHEN _deleted THEN {narrowed(field, f'({raw})')} ELSE `{field.name}` END"
