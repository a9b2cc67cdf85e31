"""The contracts whose records are broken, each with its versions, its store, and its rules in plain Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastavro import parse_schema

from schemas.contract import load_contract, parse_contract
from schemas.dataset import Dataset
from schemas.store import ContractStore
from schemas.wire.avro import avro_schema, schema_fingerprint
from schemas.wire.encoder import Encoder

EVERY_TYPE = Path(__file__).parents[2] / "contracts" / "every_type.yaml"
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
    doubled = amount is not None and not 10 <= 2 * amount < 2**31  # in SQL int + int is an int
    return (
        (amount is not None and amount < 0)
        or doubled
        or (share is not None and share > 100)
        or (name is not None and len(name) > 6)
    )


@dataclass
class World:
    """One contract: its versions, its store, and its rules in plain Python."""

    versions: list[Dataset]
    store: ContractStore
    breaks: Callable[[Mapping[str, Any]], bool] = lambda _: False
    writers: dict[bytes, Dataset] = field(default_factory=dict)
    encoders: dict[str, Encoder] = field(default_factory=dict)  # by version
    schemas: dict[bytes, Any] = field(default_factory=dict)  # as fastavro has them

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


Headers = list[tuple[str, bytes | None]] | None


@dataclass
class Case:
    """One record as it is in Kafka, and the mutation that made it."""

    did: str
    key: bytes | None
    value: bytes | None
    headers: Headers = None
    timestamp: int = MOMENT  # microseconds
    district: str = "440106"


def make_worlds(folder: Path) -> list[World]:
    """Four contracts: every type in two versions, a register with rules and a district, keys of several columns, two kinds of sequence."""

    def world(*texts: str, breaks: Callable[[Mapping[str, Any]], bool] = lambda _: False) -> World:
        made = [parse_contract(text, "hostile.yaml") for text in texts]
        return World(made, ContractStore(folder / made[-1].name), breaks)

    text = load_contract(EVERY_TYPE).text
    old = text.replace(ADDED, "").replace("version: 1.1.0", "version: 1.0.0")
    return [
        world(old, text, breaks=lambda row: row["an_enum"] not in ("存续", "注销")),
        world(REGISTER, breaks=rule_of_register),
        world(MOMENTS),
        world(DATED),
        world(TEXTUAL),
    ]
