"""Hostile and broken bytes: each record ends as an accepted one, its values unchanged, or in quarantine with its reason.

A seeded mutator breaks good records of several contracts in every way that is named below; what Spark makes of them is
held against a reader of Avro, of keys and of headers that is written here in plain Python, and against fastavro.
CASES and SEED set how many, and which.
"""

from __future__ import annotations

import json
import math
import os
import random
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fastavro import parse_schema
from kafka import KafkaProducer

from infra.bus.bus import Bus
from infra.kafka.broker import Broker
from infra.settings import Settings
from pipelines.ingest.decode import change_log
from schemas.contract import load_contract, parse_contract
from schemas.dataset import Dataset, Field
from schemas.errors import InputError
from schemas.store import ContractStore
from schemas.wire.avro import FRAME, LARGEST, MAGIC, avro_schema, decode, schema_fingerprint
from schemas.wire.encoder import Encoder, sequence_text
from tests.integration.conftest import Road

CASES = int(os.environ.get("CASES", "10000"))
SEED = int(os.environ.get("SEED", "4"))
EVERY_TYPE = Path(__file__).parents[1] / "contracts" / "every_type.yaml"
ADDED = "      - {name: added_later, businessName: 后来增加, logicalType: string}\n"
MOMENT = 1_772_366_400_000_000  # of March 2026
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CONTRACT = """\
apiVersion: v3.1.0
kind: DataContract
id: test.{name}
version: 1.0.0
status: active
schema:
  - name: {name}
    properties:
{columns}
customProperties:
  - {{property: suibus.sharing, value: none}}
{facts}
"""
REGISTER = CONTRACT.format(
    name="register",
    columns="""\
      - {name: id, logicalType: string, primaryKey: true, required: true}
      - {name: district_code, logicalType: string, required: true}
      - {name: seq, logicalType: integer, required: true}
      - name: amount
        logicalType: integer
        physicalType: int
        quality:
          - {name: not_negative, type: sql, query: "SELECT COUNT(*) FROM ${object} WHERE amount < 0", mustBe: 0}
          - {name: doubled, type: sql, query: "SELECT COUNT(*) FROM ${object} WHERE amount + amount < 10", mustBe: 0}
          - {name: doubled_again, type: sql, query: "SELECT COUNT(*) FROM ${object} WHERE amount + amount = 1", mustBe: 0}
      - name: share
        logicalType: number
        logicalTypeOptions: {maximum: 100}
      - {name: name, logicalType: string, logicalTypeOptions: {maxLength: 6}}""",
    facts="""\
  - {property: suibus.sequence, value: seq}
  - {property: suibus.district, value: district_code}""",
)
MOMENTS = CONTRACT.format(
    name="moments",
    columns="""\
      - {name: at, logicalType: timestamp, primaryKey: true, required: true, primaryKeyPosition: 1}
      - {name: n, logicalType: integer, physicalType: int, primaryKey: true, required: true, primaryKeyPosition: 2}
      - {name: m, logicalType: integer, primaryKey: true, required: true, primaryKeyPosition: 3}
      - {name: open, logicalType: boolean}
      - {name: price, logicalType: number, physicalType: "decimal(4,2)"}
      - {name: prices, logicalType: array, items: {logicalType: number, physicalType: "decimal(38,6)"}}
      - {name: tags, logicalType: array, items: {logicalType: boolean}}""",
    facts="",
)
DATED = CONTRACT.format(
    name="dated",
    columns="""\
      - {name: id, logicalType: string, primaryKey: true, required: true}
      - {name: day, logicalType: date, required: true}
      - {name: days, logicalType: array, items: {logicalType: date}}""",
    facts="  - {property: suibus.sequence, value: day}",
)
TEXTUAL = DATED.replace("dated", "textual").replace("name: day, logicalType: date", "name: day, logicalType: string")


def rule_of_register(row: Mapping[str, Any]) -> bool:
    """Whether a row of the register breaks one of its rules; one that cannot be evaluated counts as broken."""
    amount, share, name = row["amount"], row["share"], row["name"]
    doubled = amount is not None and not 10 <= 2 * amount < 2**31  # an int and an int are an int in SQL
    return (
        (amount is not None and amount < 0)
        or doubled
        or (share is not None and share > 100)
        or (name is not None and len(name) > 6)
    )


@dataclass
class World:
    """One contract: its versions, its store, and what its rules refuse, in Python."""

    versions: list[Dataset]
    store: ContractStore
    breaks: Callable[[Mapping[str, Any]], bool] = lambda _: False
    writers: dict[bytes, Dataset] = field(default_factory=dict)
    encoders: dict[str, Encoder] = field(default_factory=dict)  # by version
    schemas: dict[bytes, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for version in self.versions:
            self.store.register(version)
            schema = avro_schema(version)
            print_ = schema_fingerprint(schema)
            self.writers[print_], self.schemas[print_] = version, parse_schema(schema)
            self.encoders[version.version] = Encoder(version)

    @property
    def dataset(self) -> Dataset:
        return self.versions[-1]

    @property
    def encoder(self) -> Encoder:
        return self.encoders[self.dataset.version]


@dataclass
class Case:
    """One record as it stands in Kafka, and what was done to it."""

    did: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]] | None = None
    timestamp: int = MOMENT  # microseconds
    district: str = "440106"


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> list[World]:
    def world(*texts: str, breaks: Callable[[Mapping[str, Any]], bool] = lambda _: False) -> World:
        made = [parse_contract(text, "hostile.yaml") for text in texts]
        return World(made, ContractStore(tmp_path_factory.mktemp("contracts")), breaks)

    text = load_contract(EVERY_TYPE).text
    old = text.replace(ADDED, "").replace("version: 1.1.0", "version: 1.0.0")
    return [
        world(old, text, breaks=lambda row: row["an_enum"] not in ("存续", "注销")),
        world(REGISTER, breaks=rule_of_register),
        world(MOMENTS),
        world(DATED),
        world(TEXTUAL),
    ]


# ---- what a record is, in plain Python: None for one that must not be accepted


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
    row |= {f.name: _value(f, body) for f in world.writers[value[2:FRAME]].fields}
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
    number &= 2 ** (64 if most == 10 else 32) - 1  # readers pass over the bits of a last byte that are too many
    return (number >> 1) ^ -(number & 1)


def _bytes(body: BytesIO, count: int) -> bytes:
    found = body.read(count) if 0 <= count <= LARGEST else b""
    if len(found) != count:
        raise RefusedError
    return found


def _value(column: Field, body: BytesIO) -> Any:
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
            return {member.name: _value(member, body) for member in column.fields}


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
            return  # Java cannot negate it, and takes it for an empty block
        so_far += abs(count)
        if so_far > LARGEST:
            raise RefusedError
        for _ in range(abs(count)):
            yield _value(column.item, body)


def not_finite(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(not_finite, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and not math.isfinite(value)


def same(a: Any, b: Any) -> bool:
    """Equal in value, in type, and to the last bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return struct.pack("<d", a) == struct.pack("<d", b)
    if isinstance(a, Decimal):
        return a.as_tuple() == b.as_tuple()
    return bool(a == b)


# ---- good records, and everything that is done to them

TEXTS = ["", "x", "穗", "😀𠮷", "NA", "null", 'a"b\\c', "line\nline\ttab", "\x00\x1f\x7f\u2028", "\\u0041", "e\u0301"]
LONGS = [0, 1, -1, 63, 64, 2**31, -(2**63), 2**63 - 1]


def good_value(column: Field, dice: random.Random) -> Any:
    if not column.required and dice.random() < 0.3:
        return None
    match column.kind:
        case "string":
            return dice.choice(TEXTS)
        case "boolean":
            return dice.random() < 0.5
        case "int":
            return dice.choice([0, 5, 77, -1, 2**31 - 1, -(2**31), dice.randrange(1000)])
        case "long":
            return dice.choice([*LONGS, dice.randrange(1000)])
        case "float":
            return dice.choice([0.0, -0.0, 1.5, 1.401298464324817e-45, 3.4028234663852886e38])
        case "double":
            return dice.choice([0.0, -0.0, 0.1, 5e-324, -1.7976931348623157e308])
        case "decimal":
            most = 10**column.precision - 1
            number = dice.choice([0, 1, -1, most, -most, dice.randint(-most, most)])
            return Decimal((int(number < 0), tuple(map(int, str(abs(number)))), -column.scale))
        case "date":
            return dice.choice([date(1, 1, 1), date(1582, 10, 10), date(1969, 12, 31), date(2026, 3, 1), date.max])
        case "timestamp":
            moments = [
                datetime(1, 1, 1),
                datetime(1582, 10, 10),
                datetime(1969, 12, 31, 23, 59, 59, 999999),
                datetime.max,
            ]
            return dice.choice(moments).replace(tzinfo=UTC)
        case "bytes":
            return dice.choice([b"", b"\0", bytes(range(256)), MAGIC])
        case "array":
            assert column.item
            return [good_value(column.item, dice) for _ in range(dice.choice([0, 0, 1, 3]))]
        case "record":
            return {member.name: good_value(member, dice) for member in column.fields}


def good_row(dataset: Dataset, dice: random.Random) -> dict[str, Any]:
    row = {f.name: good_value(f, dice) for f in dataset.fields}
    row |= {f.name: dice.choice(f.allowed) for f in dataset.fields if f.allowed}
    if dataset.district:
        row |= {dataset.district: "440106"}
    if dataset.name == "register":
        row |= {"amount": dice.choice([None, 5, 77, 1000]), "share": dice.choice([None, 0.0, -0.0, 100.0])}
        row |= {"name": dice.choice([None, "", "穗市", "𠮷" * 6])}
    return row


def varint(number: int) -> bytes:
    number = (number << 1) ^ (number >> 63)
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out) + bytes([number])


CLAIMS = [varint(n) for n in (2**31 - 1, -(2**31), 2**31, 2**63 - 1, -(2**63) + 1, LARGEST, LARGEST + 1, -LARGEST)]
CLAIMS += [
    b"\xff" * 9 + b"\x7f",
    b"\xff" * 9 + b"\x01",
    b"\xff" * 12,
    b"\x80\x80\x00",
    b"\xff\xff\xff\xff\x1f",
    varint(-1) + varint(9),
]
BAD_TEXT = [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe7\xa9", b"\xed\xa0\xbd\xed\xb8\x80"]
BAD_KEYS = [
    None, b"", b"null", b"1", b'"a"', b"[]", b"{}", b"[" * 100_000, b'{"id":' * 50_000, b'{"a":1}', b"\xff\xfe", b"{" * 2_000,
    b'{"id":' + b"[" * 5_000 + b"]" * 5_000 + b"}", b"k" * 900_000, b'{"id":"' + b"\xed\xa0\x80" + b'"}', b"\0",
]  # fmt: skip
BAD_SEQUENCES: list[bytes | None] = [
    None, b"", b"\0", b"1e400", b"1e0", b"01", b"+1", b" 1", b"1 ", b"1.0", b"-0", b"0x1", "１２".encode(), "٣".encode(),
    b"9223372036854775808", b"-9223372036854775809", b"2147483648", b"99999999999999999999999", b"NaN", b"yesterday",
    b"\xff", b"1\0", b"1" * 500_000, b"2932897", b"-719163",
]  # fmt: skip


class Mutator:
    """Makes cases of one world; the same seed makes the same."""

    def __init__(self, world: World, seed: str) -> None:
        self.world, self.dice = world, random.Random(seed)
        self.earlier: list[Case] = []

    def case(self) -> Case:
        name = self.dice.choice([n for n in dir(self) if n.startswith("do_")])
        made: Case = getattr(self, name)(self.good())
        made.did = name.removeprefix("do_")
        return made

    def good(self) -> Case:
        version = self.dice.choice(self.world.versions)
        row = good_row(version, self.dice)
        encoder = self.world.encoders[version.version]
        made = Case("good", encoder.key(row), encoder.value(row), self.dice.choice([None, [], [("trace", b"\xff")]]))
        self.earlier.append(made)
        return made

    def tombstone(self, sequence: bytes | None = None) -> Case:
        dataset, row = self.world.dataset, good_row(self.world.dataset, self.dice)
        if sequence is None and dataset.sequence:
            sequence = sequence_text(row[dataset.sequence])
        headers: list[tuple[str, bytes | None]] = [("sequence", sequence)] if sequence is not None else []
        return Case("", self.world.encoder.key(row), None, headers)

    def do_nothing(self, case: Case) -> Case:
        return case

    def do_replay(self, _: Case) -> Case:
        return replace(self.dice.choice(self.earlier))

    def do_truncate(self, case: Case) -> Case:
        return replace(case, value=self.bytes(case)[: self.dice.randrange(len(self.bytes(case)))])

    def do_trail(self, case: Case) -> Case:
        more = self.dice.choice(
            [b"\0", b"\1", bytes(16), self.dice.randbytes(40), self.bytes(case), self.bytes(case)[FRAME:]]
        )
        return replace(case, value=self.bytes(case) + more)

    def do_flip(self, case: Case) -> Case:
        value = bytearray(self.bytes(case))
        for _ in range(self.dice.choice([1, 1, 1, 2, 3])):
            value[self.dice.randrange(len(value))] ^= 1 << self.dice.randrange(8)
        return replace(case, value=bytes(value))

    def do_overwrite(self, case: Case) -> Case:
        value = bytearray(self.bytes(case))
        at = self.dice.randrange(FRAME, len(value))
        value[at : at + self.dice.choice([0, 1, 1, 4])] = self.dice.choice(
            [*CLAIMS, *BAD_TEXT, b"\2", b"\x7f", b"\xff"]
        )
        return replace(case, value=bytes(value))

    def do_random_body(self, case: Case) -> Case:
        return replace(case, value=self.bytes(case)[:FRAME] + self.dice.randbytes(self.dice.randrange(80)))

    def do_frame(self, case: Case) -> Case:
        frames = [
            b"",
            b"\xc3",
            MAGIC,
            b"\x00\x00\x00\x00\x01",
            b"\x00\xff\xff\xff\xff",
            b"Obj\x01",
            b"{",
            MAGIC[::-1] + bytes(8),
        ]
        frames += [MAGIC + self.dice.randbytes(8), MAGIC + self.bytes(case)[2:FRAME][::-1]]
        return replace(case, value=self.dice.choice(frames) + self.dice.choice([b"", self.bytes(case)[FRAME:]]))

    def do_other_schema(self, case: Case) -> Case:
        """The body of the other version, or of a row of wider columns, under this fingerprint."""
        other = self.dice.choice(list(self.world.writers))
        return replace(case, value=MAGIC + other + self.bytes(case)[FRAME:])

    def do_column(self, _: Case) -> Case:
        """A row with one column of bytes that its type has no value for, or that no rule lets pass."""
        dataset = self.world.dataset
        row = good_row(dataset, self.dice)
        encoder, column = self.world.encoder, self.dice.choice(dataset.fields)
        body, head = BytesIO(encoder.value(row)[FRAME:]), BytesIO()
        for f in dataset.fields:
            start = body.tell()
            _value(f, body)
            head.write(self.broken(f) if f is column else body.getvalue()[start : body.tell()])
        return Case("", encoder.key(row), encoder.value(row)[:FRAME] + head.getvalue())

    def broken(self, column: Field) -> bytes:
        dice = self.dice
        texts = [*BAD_TEXT, b"x" * 100, b"x" * 900_000]
        blob = dice.choice(
            [*texts, b"\x7f" * 17, b"\x00" * 30 + b"\x01", b"\xff" * 9, b"", b"\x7f" * 9, b"\x7f\xff", b"\x7f" * 4]
        )
        sized = varint(len(blob)) + blob
        given = {
            "boolean": dice.choice([b"\2", b"\xff", b"\x80", b"\0"]),
            "float": struct.pack("<f", dice.choice([math.nan, math.inf, -math.inf, -0.0])),
            "double": struct.pack("<d", dice.choice([math.nan, math.inf, -math.inf, -0.0, 1e300])),
            "array": dice.choice([*CLAIMS, b"\0", varint(-1) + varint(1)]) + dice.choice([b"", b"\0" * 3, b"\1\0"]),
            "record": dice.randbytes(4),
        }.get(column.kind, b"")
        if column.kind in ("int", "long", "date", "timestamp"):
            given = dice.choice(
                [varint(n) for n in (*LONGS, -(2**31) - 1, -719_163, 2_932_897, 2_932_896, 10**17)] + CLAIMS
            )
        branch = b"" if column.required else dice.choice([b"\2", b"\2", b"\0", b"\4", b"\1", b"\x82\0"])
        return branch + (given or dice.choice([sized, *CLAIMS]))

    def do_key(self, case: Case) -> Case:
        """Another spelling of the right key, another key, or none."""
        assert case.key is not None
        parts = json.loads(case.key)
        name = self.dice.choice(list(parts))
        others = [
            json.dumps(parts).encode(), json.dumps(parts, separators=(",", ":")).encode(), case.key + b" ", b"\n" + case.key,
            json.dumps(dict(reversed(parts.items())), separators=(",", ":"), ensure_ascii=False).encode(),
            json.dumps(parts | {"x": 1}, separators=(",", ":"), ensure_ascii=False).encode(),
            json.dumps(parts | {name: None}, separators=(",", ":"), ensure_ascii=False).encode(),
            json.dumps(parts | {name: str(parts[name])}, separators=(",", ":"), ensure_ascii=False).encode(),
            json.dumps(parts | {name: [parts[name]]}, separators=(",", ":"), ensure_ascii=False).encode(),
            case.key[:-1] + f',"{name}":{json.dumps(parts[name], ensure_ascii=False)}}}'.encode(), case.key[:-1],
            case.key.replace(b":", b":0", 1), case.key[:-1] + b".0}", case.key[:-1] + b"e0}", case.key.replace(b'":', b'": ', 1),
        ]  # fmt: skip
        key = self.dice.choice([*others, *BAD_KEYS])
        return replace(case, key=key) if self.dice.random() < 0.5 else replace(self.tombstone(), key=key)

    def do_delete(self, _: Case) -> Case:
        return self.tombstone()

    def do_delete_spelled(self, _: Case) -> Case:
        made = self.tombstone()
        return replace(self.do_key(made), value=None, headers=made.headers)

    def do_sequence(self, _: Case) -> Case:
        made = self.tombstone()
        sequence = self.dice.choice(BAD_SEQUENCES)
        other = dict(made.headers or []).get("sequence")
        made.headers = self.dice.choice(
            [
                [("sequence", sequence)],
                None,
                [],
                [("Sequence", b"1")],
                [("sequence", b"1"), ("sequence", b"2")],
                [("sequence", other), ("sequence", other)],
                [("x", b"1"), ("sequence", other)],
                [("sequence", sequence)],
                [*((str(i), b"x") for i in range(3_000)), ("sequence", other)],
            ]
        )
        return made

    def do_headers(self, case: Case) -> Case:
        wild: list[list[tuple[str, bytes | None]]] = [
            [("sequence", b"\xff\0"), ("sequence", None)], [("", None)], [("h" * 9_000, b"x" * 90_000)],
            [(str(i), None) for i in range(2_000)],
        ]  # fmt: skip
        return replace(case, headers=self.dice.choice(wild))

    def do_district(self, case: Case) -> Case:
        return replace(case, district=self.dice.choice(["440103", "440106"]))

    def do_timestamp(self, case: Case) -> Case:
        return replace(case, timestamp=self.dice.choice([-1_000, -(2**63), 2**63 - 1, -62_135_596_800_000_001, 0]))

    def do_rule(self, case: Case) -> Case:
        """A row that is well encoded and breaks a rule, or makes one overflow."""
        if self.world.dataset.name != "register":
            return case
        row = good_row(self.world.dataset, self.dice)
        row |= self.dice.choice(
            [{"amount": -5}, {"amount": 2**31 - 1}, {"amount": 2**30}, {"amount": -(2**31)}, {"share": 100.5}, {"share": math.nan},
             {"name": "1234567"}, {"amount": 4}, {"share": -math.inf}, {"name": "𠮷" * 7}]
        )  # fmt: skip
        encoder = self.world.encoder
        return Case("", encoder.key(row), encoder.value(row))

    def do_large(self, case: Case) -> Case:
        """At most, or more than, the bus takes; seldom, since each is a megabyte."""
        if self.dice.random() > 0.02:
            return case
        most = LARGEST - len(self.bytes(case)) - len(case.key or b"")
        return replace(case, value=self.bytes(case) + bytes(most + self.dice.choice([0, 1, 5_000_000])))

    def bytes(self, case: Case) -> bytes:
        return case.value or b""


# ---- through Spark

HEADERS = "array<struct<key:string,value:binary>>"
COLUMNS = f"key binary, value binary, topic string, partition int, offset long, timestamp timestamp, headers {HEADERS}"


def decoded(cases: list[Case], world: World, spark: Any) -> list[dict[str, Any]]:
    """What `change_log` makes of the cases, in their order."""
    rows = [
        {
            "key": c.key, "value": c.value, "topic": world.dataset.topic(c.district), "partition": 0, "offset": i,
            "timestamp": c.timestamp,
            "headers": None if c.headers is None else [{"key": k, "value": v} for k, v in c.headers],
        }
        for i, c in enumerate(cases)
    ]  # fmt: skip
    header = pa.struct([("key", pa.string()), ("value", pa.binary())])
    types = [pa.binary(), pa.binary(), pa.string(), pa.int32(), pa.int64(), pa.timestamp("us", "UTC"), pa.list_(header)]
    names = ["key", "value", "topic", "partition", "offset", "timestamp", "headers"]
    table = pa.Table.from_pylist(rows, schema=pa.schema(list(zip(names, types, strict=True))))
    found = change_log(spark.createDataFrame(table, COLUMNS), world.dataset, world.store).toArrow().to_pylist()
    return sorted(found, key=lambda row: row["_offset"])


def wrong(case: Case, found: dict[str, Any], world: World) -> str | None:
    """What is wrong with the end a case came to, if anything."""
    wanted = judge(case, world)
    if found["_quarantined"] != (wanted is None):
        return f"accepted: {wanted is None}, reasons: {found['_reasons']}"
    if wanted is None:
        if not found["_reasons"] or not all(r["rule"] and r["reason"] and r["reason_zh"] for r in found["_reasons"]):
            return f"no reason in both languages: {found['_reasons']}"
        return None if found["_value"] == case.value else "its bytes are not kept"
    if found["_reasons"] is not None:
        return f"accepted with {found['_reasons']}"
    for name, value in wanted.items():
        if not same(found[name], value):
            return f"{name} is {found[name]!r}, not {value!r}"
    if case.value is None:
        return None
    try:
        by_fastavro = decode(case.value, world.schemas, [*world.schemas.values()][-1])
    except InputError as error:
        known = (b"\x80\x80\x80\x80", b"\xff" * 9)  # a branch of 2³¹ is 0, a block of -2⁶³ empty
        return None if any(k in case.value for k in known) else f"fastavro refuses it: {error}"
    off = [name for name, value in by_fastavro.items() if not same(found[name], value)]
    return f"fastavro reads other values in {off}" if off else None


def test_every_record_is_accepted_unchanged_or_quarantined_with_its_reason(
    worlds: list[World], spark: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    counts: Counter[str] = Counter()
    accepted: Counter[str] = Counter()
    quarantined: Counter[str] = Counter()
    failures = []
    for number, world in enumerate(worlds):
        mutator = Mutator(world, f"{SEED}:{number}")
        cases = [mutator.case() for _ in range(CASES // len(worlds))]
        found = decoded(cases, world, spark)
        assert len(found) == len(cases)
        for case, row in zip(cases, found, strict=True):
            counts["quarantined" if row["_quarantined"] else "accepted"] += 1
            (quarantined if row["_quarantined"] else accepted)[case.did] += 1
            if problem := wrong(case, row, world):
                failures.append(f"{world.dataset.name} {case.did}: {problem}; {shown(case)}")
    with capsys.disabled():
        total = counts.total()
        print(
            f"\ncases {total} accepted {counts['accepted']} quarantined {counts['quarantined']} "
            f"wrong {len(failures)} (SEED={SEED})"
        )
    assert not failures, "\n".join(failures[:20])
    if CASES >= 5_000:  # a mutator that breaks nothing, or everything, tries nothing
        for name in ("nothing", "replay", "delete", "headers", "flip", "key", "delete_spelled", "column", "sequence"):
            assert accepted[name], name
        for name in (
            "truncate",
            "trail",
            "flip",
            "frame",
            "column",
            "key",
            "sequence",
            "district",
            "timestamp",
            "rule",
        ):
            assert quarantined[name], name


def test_records_on_a_real_broker_end_in_bronze_and_in_the_account_as_the_reader_here_says(
    worlds: list[World], tmp_path: Path, broker: Broker, spark: Any
) -> None:
    road = Road(Bus(Settings(home=tmp_path / "home", bootstrap_servers=broker.access.servers)), "hostile")
    world = replace(worlds[1], store=road.bus.store)
    road.dataset, road.name = world.dataset, world.dataset.name
    road.bus.kafka.ensure(world.dataset.topics)
    mutator = Mutator(world, f"{SEED}:broker")
    made = iter(mutator.case, None)
    # This client sends no header without a value, and nothing without both key and value; other clients do.
    sendable = (c for c in made if (c.key or c.value) and all(v is not None for _, v in c.headers or ()))
    cases = list(islice(sendable, min(300, CASES)))
    now = time.time_ns() // 1_000_000  # a broker refuses a time that is far ahead
    cases = [replace(case, timestamp=now * 1_000) for case in cases]
    producer = KafkaProducer(bootstrap_servers=broker.access.servers, acks="all", max_request_size=8_000_000)
    sent = [
        producer.send(
            world.dataset.topic(c.district),
            c.value,
            c.key,
            c.headers,
            timestamp_ms=now,
        )
        for c in cases
    ]
    producer.flush()
    places = [(record.topic, record.offset) for record in (future.get(timeout=30) for future in sent)]
    producer.close()
    assert road.merge() == len(cases)
    rows = road.lake.bronze(world.dataset).read().toArrow().to_pylist()
    found = {(row["_topic"], row["_offset"]): row for row in rows}
    assert len(rows) == len(found) == len(cases)
    problems = [
        f"{case.did}: {problem}; {shown(case)}"
        for case, place in zip(cases, places, strict=True)
        if (problem := wrong(case, found[place], world))
    ]
    assert not problems, "\n".join(problems)
    account = road.account().values()
    assert sum(row["received"] for row in account) == len(cases)
    assert sum(row["quarantined"] for row in account) == sum(judge(case, world) is None for case in cases)


def shown(case: Case) -> str:
    cut = replace(case, value=case.value and case.value[:200], key=case.key and case.key[:100])
    return repr(replace(cut, headers=cut.headers and cut.headers[:3]))[:600]
