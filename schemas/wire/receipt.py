"""A receipt: the city's message to a district about one record that it refused.

    topic   gz.down.<district>.receipts.v1
    key     <topic>:<partition>:<offset> of the refused record: the receipt's id
    value   UTF-8 JSON: one object with the members of `Receipt`

After a crash the city may send a receipt twice; the reader keeps one for each id. A reader ignores members that it does
not know, so that a newer version of the city may add some.
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
LARGEST = 900_000  # bytes of a receipt; below the default of the broker's message.max.bytes
_LARGEST_READ = 4 << 20  # bytes; a longer value is refused unread
# Characters of a text, tried in turn until the receipt is small enough.
_TEXT_LIMITS = (LONGEST, 8_000, 2_000, 500, 100, 20)
_FEWEST_REASONS = 20  # kept, without the record, if the receipt is too large even with the shortest texts


@dataclass(frozen=True)
class Reason:
    """One rule that the record broke. `column` and `found`, its value, are None for a rule on several columns."""

    rule: str
    column: str | None
    found: str | None
    reason: str
    reason_zh: str


@dataclass(frozen=True)
class Receipt:
    """One refused record. `record` has every value as the text of a CSV cell, so that it can be corrected and published."""

    dataset: str
    dataset_id: str  # <dataset>.vN
    contract_version: str  # of the contract that the record was checked against
    topic: str
    partition: int
    offset: int
    key: str | None  # of the Kafka record
    timestamp_ms: int  # of the Kafka record, since 1970 in UTC
    deleted: bool  # the record was a deletion
    reasons: tuple[Reason, ...]
    record: Mapping[str, str | None] | None  # the columns; None where the bytes could not be decoded
    refused_at: str  # ISO 8601 in UTC
    shortened: tuple[str, ...] = ()  # columns whose value was cut; _key, _reasons and _record if those were

    @property
    def id(self) -> str:
        """``<topic>:<partition>:<offset>``."""
        return f"{self.topic}:{self.partition}:{self.offset}"

    @property
    def short_id(self) -> str:
        """The id without the topic prefix of the district, as it is shown and written there: ``parking_lot.v1:0:2``."""
        return f"{parse_topic(self.topic)[1]}:{self.partition}:{self.offset}"

    @property
    def district(self) -> str:
        """The district that published the record."""
        return parse_topic(self.topic)[0]

    def to_json(self) -> bytes:
        """The value of the Kafka record, at most `LARGEST` bytes: long texts are cut, and `shortened` names them."""
        for longest in _TEXT_LIMITS:
            value = _json_bytes(self._cut(longest, len(self.reasons), self.record))
            if len(value) <= LARGEST:
                return value
        return _json_bytes(self._cut(_TEXT_LIMITS[-1], _FEWEST_REASONS, None))

    def _cut(self, longest: int, reasons: int, record: Mapping[str, str | None] | None) -> dict[str, Any]:
        shortened = set(self.shortened)

        def cut(text: str | None, name: str, most: int = longest) -> str | None:
            if text is None or len(text) <= most:
                return text
            shortened.add(name)
            return text[:most]

        members = asdict(self)
        members["key"] = cut(self.key, "_key", 10 * longest)
        members["reasons"] = [{n: cut(t, "_reasons") for n, t in asdict(r).items()} for r in self.reasons[:reasons]]
        members["record"] = record and {name: cut(text, name) for name, text in record.items()}
        if reasons < len(self.reasons):
            shortened.add("_reasons")
        if record is None and self.record is not None:
            shortened.add("_record")
        members["shortened"] = sorted(shortened)
        return members

    @staticmethod
    def from_json(value: bytes | None) -> Receipt:
        """The receipt in the value of a Kafka record; InputError, and no other error, if the value is not a receipt."""
        if value is None or len(value) > _LARGEST_READ:
            size = 0 if value is None else len(value)
            _refuse(
                f"found {size} bytes, expected 1 to {_LARGEST_READ}", f"实际 {size} 字节，应为 1 至 {_LARGEST_READ}"
            )
        try:
            members = parse_json(value.decode())
        except ValueError as error:
            _refuse(f"not JSON ({first_line(error)})", f"不是 JSON（{first_line(error)}）")
        if not isinstance(members, dict):
            _refuse("not a JSON object", "不是 JSON 对象")
        record = members.get("record")
        if record is not None and not isinstance(record, dict):
            _refuse_member("record")
        deleted = members.get("deleted")
        if not isinstance(deleted, bool):
            _refuse_member("deleted")
        return Receipt(
            dataset=_text(members, "dataset"),
            dataset_id=_text(members, "dataset_id"),
            contract_version=_text(members, "contract_version"),
            topic=_text(members, "topic"),
            partition=_number(members, "partition", 0),
            offset=_number(members, "offset", 0),
            key=_text_or_none(members, "key"),
            timestamp_ms=_number(members, "timestamp_ms", -(2**63)),
            deleted=deleted,
            reasons=tuple(_reason(r) for r in _list(members, "reasons")),
            record=None if record is None else {_utf8(name): _text_or_none(record, name) for name in record},
            refused_at=_text(members, "refused_at"),
            shortened=tuple(_utf8(name) for name in _list(members, "shortened")),
        )


def parse_receipt_id(text: str, district: str) -> tuple[str, int, int] | None:
    """Topic, partition and offset of a receipt's id, given in full or as `short_id`; None if the text is not an id."""
    topic, *numbers = text.strip().rsplit(":", 2)
    if len(numbers) != 2 or not all(n.isascii() and n.isdigit() and len(n) < 19 for n in numbers):
        return None
    topic = topic if topic.startswith(UP_PREFIX) else f"{UP_PREFIX}{district}.{topic}"
    return topic, int(numbers[0]), int(numbers[1])


def _json_bytes(members: Mapping[str, Any]) -> bytes:
    return json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _refuse(en: str, zh: str) -> NoReturn:
    raise InputError(f"Not a receipt: {en}.", f"不是回执：{zh}。")


def _refuse_member(name: str) -> NoReturn:
    _refuse(f"its {name} is missing or has a wrong type", f"缺少 {name} 或其类型有误")


def _utf8(value: object) -> str:
    """The text itself; InputError if it is not text, or has a lone surrogate, which UTF-8 cannot encode."""
    if not isinstance(value, str) or any("\ud800" <= c <= "\udfff" for c in value):
        _refuse("found a value that is not UTF-8 text, expected text", "含有不是 UTF-8 文本的值，应为文本")
    return value


def _text(members: Mapping[str, Any], name: str) -> str:
    if name not in members:
        _refuse_member(name)
    return _utf8(members[name])


def _text_or_none(members: Mapping[str, Any], name: str) -> str | None:
    return None if members.get(name) is None else _utf8(members[name])


def _number(members: Mapping[str, Any], name: str, low: int) -> int:
    value = members.get(name)
    if type(value) is not int or not low <= value < 2**63:
        _refuse_member(name)
    return value


def _list(members: Mapping[str, Any], name: str) -> list[Any]:
    value = members.get(name)
    if not isinstance(value, list):
        _refuse_member(name)
    return value


def _reason(value: object) -> Reason:
    if not isinstance(value, dict):
        _refuse_member("reasons")
    return Reason(
        _text(value, "rule"),
        _text_or_none(value, "column"),
        _text_or_none(value, "found"),
        _text(value, "reason"),
        _text(value, "reason_zh"),
    )
