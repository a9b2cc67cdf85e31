"""Good records, and the mutations that break them."""

from __future__ import annotations

import json
import math
import random
import struct
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from io import BytesIO
from typing import Any

from schemas.dataset import Dataset, Field
from schemas.wire.avro import FRAME, LARGEST, MAGIC
from schemas.wire.encoder import sequence_text
from tests.faults.hostile.reader import read_value
from tests.faults.hostile.worlds import Case, Headers, World

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
    """Makes cases of one world; the same seed makes the same cases."""

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
        traces: list[Headers] = [None, [], [("trace", b"\xff")]]
        made = Case("good", encoder.key(row), encoder.value(row), self.dice.choice(traces))
        self.earlier.append(made)
        return made

    def tombstone(self, sequence: bytes | None = None) -> Case:
        dataset, row = self.world.dataset, good_row(self.world.dataset, self.dice)
        if sequence is None and dataset.sequence:
            sequence = sequence_text(row[dataset.sequence])
        headers: Headers = [("sequence", sequence)] if sequence is not None else []
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
        """A row with one column whose bytes are no value of its type, or a value that breaks a rule."""
        dataset = self.world.dataset
        row = good_row(dataset, self.dice)
        encoder, column = self.world.encoder, self.dice.choice(dataset.fields)
        body, head = BytesIO(encoder.value(row)[FRAME:]), BytesIO()
        for f in dataset.fields:
            start = body.tell()
            read_value(f, body)
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
        """The right key written differently, another key, or none."""
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
        wild: list[Headers] = [
            [("sequence", sequence)], None, [], [("Sequence", b"1")], [("sequence", b"1"), ("sequence", b"2")],
            [("sequence", other), ("sequence", other)], [("x", b"1"), ("sequence", other)], [("sequence", sequence)],
            [*((str(i), b"x") for i in range(3_000)), ("sequence", other)],
        ]  # fmt: skip
        made.headers = self.dice.choice(wild)
        return made

    def do_headers(self, case: Case) -> Case:
        wild: list[Headers] = [
            [("sequence", b"\xff\0"), ("sequence", None)], [("", None)], [("h" * 9_000, b"x" * 90_000)],
            [(str(i), None) for i in range(2_000)],
        ]  # fmt: skip
        return replace(case, headers=self.dice.choice(wild))

    def do_district(self, case: Case) -> Case:
        return replace(case, district=self.dice.choice(["440103", "440106"]))

    def do_timestamp(self, case: Case) -> Case:
        return replace(case, timestamp=self.dice.choice([-1_000, -(2**63), 2**63 - 1, -62_135_596_800_000_001, 0]))

    def do_rule(self, case: Case) -> Case:
        """A correctly encoded row that breaks a rule, or makes one overflow."""
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
        """As large as the bus takes, or larger; seldom, because each is a megabyte."""
        if self.dice.random() > 0.02:
            return case
        most = LARGEST - len(self.bytes(case)) - len(case.key or b"")
        return replace(case, value=self.bytes(case) + bytes(most + self.dice.choice([0, 1, 5_000_000])))

    def bytes(self, case: Case) -> bytes:
        return case.value or b""
