"""A receipt: what the city tells a district of one record that it refused.

    topic   gz.down.<district>.receipts.v1
    key     <topic>:<partition>:<offset> of the refused record: the receipt's id
    value   UTF-8 JSON, one flat object: the members of `Receipt`, as they are named there

The city may send a receipt twice, after a crash: the reader keeps one of each id. A reader ignores members that it does
not know, so that a newer city can add some.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from schemas.dataset import UP_PREFIX, parse_topic
from schemas.errors import InputError, first_line
from schemas.row.strict_json import parse_json

LONGEST = 32_000  # characters of one text in a receipt
LARGEST = 900_000  # bytes of a receipt: less than a broker takes with its default message.max.bytes
_MOST = 4 << 20  # bytes that a reader looks at
_STEPS = (LONGEST, 8_000, 2_000, 500, 100, 20)  # tried one after another until the receipt is small enough
_REASONS = 20  # what is left of the reasons where nothing else helps


@dataclass(frozen=True)
class Reason:
    """One rule that the record broke: the column it looks at and what was found there, where it is one column's."""

    rule: str
    column: str | None
    found: str | None
    reason: str
    reason_zh: str


@dataclass(frozen=True)
class Receipt:
    """One refused record. `record` has every text in the form that a CSV cell of a publish takes back."""

    dataset: str
    dataset_id: str  # <dataset>.vN
    contract_version: str  # of the contract it was held against
    topic: str
    partition: int
    offset: int
    key: str | None  # of the Kafka record
    timestamp_ms: int  # of the Kafka record, since 1970 in UTC
    deleted: bool  # the record was a deletion
    reasons: tuple[Reason, ...]
    record: Mapping[str, str | None] | None  # the columns; None where the bytes could not be decoded
    refused_at: str  # ISO 8601 in UTC
    shortened: tuple[str, ...] = ()  # columns of which only the beginning is here; _key, _reasons and _record likewise

    @property
    def id(self) -> str:
        """``<topic>:<partition>:<offset>``."""
        return f"{self.topic}:{self.partition}:{self.offset}"

    @property
    def short_id(self) -> str:
        """The id as a district's own people write it, without their own prefix: ``parking_lot.v1:0:2``."""
        return f"{parse_topic(self.topic)[1]}:{self.partition}:{self.offset}"

    @property
    def district(self) -> str:
        """The district that published the record."""
        return parse_topic(self.topic)[0]

    def to_json(self) -> bytes:
        """At most `LARGEST` bytes: long texts are cut, and `shortened` names what was."""
        for longest in _STEPS:
            made = _encoded(self._cut(longest, len(self.reasons), self.record))
            if len(made) <= LARGEST:
                return made
        return _encoded(self._cut(_STEPS[-1], _REASONS, None))

    def _cut(self, longest: int, reasons: int, record: Mapping[str, str | None] | None) -> dict[str, Any]:
        shortened = set(self.shortened)

        def cut(text: str | None, name: str, most: int = longest) -> str | None:
            if text is None or len(text) <= most:
                return text
            shortened.add(name)
            return text[:most]

        found = asdict(self)
        found["key"] = cut(self.key, "_key", 10 * longest)
        found["reasons"] = [{n: cut(t, "_reasons") for n, t in asdict(r).items()} for r in self.reasons[:reasons]]
        found["record"] = record and {name: cut(text, name) for name, text in record.items()}
        if reasons < len(self.reasons):
            shortened.add("_reasons")
        if record is None and self.record is not None:
            shortened.add("_record")
        found["shortened"] = sorted(shortened)
        return found

    @staticmethod
    def from_json(value: bytes | None) -> Receipt:
        """The receipt in a Kafka record's value; InputError, never anything else, if it is none."""
        if value is None or len(value) > _MOST:
            _refuse(f"{0 if value is None else len(value)} bytes")
        try:
            found = parse_json(value.decode())
        except ValueError as error:
            _refuse(first_line(error))
        if not isinstance(found, dict):
            _refuse(type(found).__name__)
        record = found.get("record")
        if record is not None and not isinstance(record, dict):
            _refuse("record")
        deleted = found.get("deleted")
        if not isinstance(deleted, bool):
            _refuse("deleted")
        return Receipt(
            dataset=_text(found, "dataset"),
            dataset_id=_text(found, "dataset_id"),
            contract_version=_text(found, "contract_version"),
            topic=_text(found, "topic"),
            partition=_number(found, "partition", 0),
            offset=_number(found, "offset", 0),
            key=_maybe(found, "key"),
            timestamp_ms=_number(found, "timestamp_ms", -(2**63)),
            deleted=deleted,
            reasons=tuple(_reason(r) for r in _list(found, "reasons")),
            record=None if record is None else {_sound(name): _maybe(record, name) for name in record},
            refused_at=_text(found, "refused_at"),
            shortened=tuple(_sound(name) for name in _list(found, "shortened")),
        )


def receipt_place(text: str, district: str) -> tuple[str, int, int] | None:
    """Topic, partition and offset of an id, whole or as `short_id` writes it for the district; None if it is no id."""
    topic, *numbers = text.strip().rsplit(":", 2)
    if len(numbers) != 2 or not all(n.isascii() and n.isdigit() and len(n) < 19 for n in numbers):
        return None
    topic = topic if topic.startswith(UP_PREFIX) else f"{UP_PREFIX}{district}.{topic}"
    return topic, int(numbers[0]), int(numbers[1])


def _encoded(found: Mapping[str, Any]) -> bytes:
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _refuse(what: str) -> NoReturn:
    raise InputError(f"Not a receipt: {what}.", f"不是回执：{what}。")


def _sound(value: object) -> str:
    """The text itself: not a number, and no half character that a file or database would not take."""
    if not isinstance(value, str) or any("\ud800" <= c <= "\udfff" for c in value):
        _refuse("a text is expected")
    return value


def _text(found: Mapping[str, Any], name: str) -> str:
    if name not in found:
        _refuse(f"{name} is missing")
    return _sound(found[name])


def _maybe(found: Mapping[str, Any], name: str) -> str | None:
    return None if found.get(name) is None else _sound(found[name])


def _number(found: Mapping[str, Any], name: str, low: int) -> int:
    value = found.get(name)
    if type(value) is not int or not low <= value < 2**63:
        _refuse(name)
    return value


def _list(found: Mapping[str, Any], name: str) -> list[Any]:
    value = found.get(name)
    if not isinstance(value, list):
        _refuse(name)
    return value


def _reason(value: object) -> Reason:
    if not isinstance(value, dict):
        _refuse("reasons")
    return Reason(
        _text(value, "rule"), _maybe(value, "column"), _maybe(value, "found"),
        _text(value, "reason"), _text(value, "reason_zh"),
    )  # fmt: skip
