"""A dataset as its contract declares it: names, types, keys and rules, as frozen data.

Everything else is derived from it: the Avro schema (`schemas.wire.avro`), topic names, the Spark schema and table
DDL (`pipelines.lake`), row rules and the Great Expectations suite (`quality`), and `schemas.contract_page`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any, Literal

from schemas.districts import districts

Kind = Literal[
    "string",
    "boolean",
    "int",
    "long",
    "float",
    "double",
    "decimal",
    "date",
    "timestamp",
    "bytes",
    "array",
    "record",
]
Sharing = Literal["unconditional", "conditional", "none"]
Severity = Literal["critical", "warning", "info"]
Operator = Literal[  # of the Open Data Contract Standard: how a measured value is compared with a threshold
    "mustBe", "mustNotBe", "mustBeGreaterThan", "mustBeGreaterOrEqualTo", "mustBeLessThan", "mustBeLessOrEqualTo",
    "mustBeBetween", "mustNotBeBetween",
]  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """The limits of a field from `logicalTypeOptions`; None where the contract sets none.

    Minimum, maximum and multiple are int, float, Decimal, date or aware datetime, according to the field's type. Lengths
    count characters of a string, bytes of bytes, items of an array. `pattern` matches anywhere in the text, as in ECMA-262;
    a pattern for the whole text needs ^ and $.
    """

    minimum: Any = None
    maximum: Any = None
    exclusive_minimum: Any = None
    exclusive_maximum: Any = None
    multiple_of: Any = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None


@dataclass(frozen=True)
class Field:
    """One column, record member or array item."""

    name: str
    kind: Kind
    required: bool = False
    precision: int = 0  # decimal only
    scale: int = 0  # decimal only
    item: Field | None = None  # array only
    fields: tuple[Field, ...] = ()  # record only
    limits: Limits = Limits()
    title: str = ""  # the Chinese name, from businessName
    description: str = ""
    unique: bool = False
    allowed: tuple[Any, ...] | None = None  # from ODCS `enum`; also a rule

    @property
    def type_name(self) -> str:
        """The type as messages show it: ``decimal(12,2)``, ``array<string>``, ``record<a:int>``."""
        if self.kind == "decimal":
            return f"decimal({self.precision},{self.scale})"
        if self.kind == "array" and self.item:
            return f"array<{self.item.type_name}>"
        if self.kind == "record":
            return f"record<{','.join(f'{f.name}:{f.type_name}' for f in self.fields)}>"
        return self.kind


@dataclass(frozen=True)
class Rule:
    """One entry of a contract's `quality`; `quality.row_rules` compiles it for ingest, `quality.gate_rules` for the gate.

    `operator` is that of ODCS (``mustBe`` …), `threshold` its number or pair of numbers. `query` is the SQL text, in which
    ``${object}`` and ``${property}`` are not replaced yet; `expectation` is the Great Expectations configuration. `line` is
    the line in the contract.
    """

    name: str
    type: Literal["library", "sql", "greatExpectations"]
    column: str | None = None
    metric: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    operator: Operator | None = None
    threshold: Any = None
    unit: Literal["rows", "percent"] = "rows"
    query: str | None = None
    expectation: Mapping[str, Any] | None = None
    severity: Severity = "critical"
    description: str = ""
    line: int = 0


@dataclass(frozen=True)
class Dataset:
    """One contract that was read and checked."""

    name: str
    version: str
    fields: tuple[Field, ...]  # in the contract's order
    key: tuple[str, ...]
    sequence: str | None  # the column that orders versions of a row; None: the record's Kafka timestamp does
    district: str | None  # the column that names the district, if there is one
    sharing: Sharing
    freshness: timedelta | None  # the greatest age of a release while changes wait
    rules: tuple[Rule, ...]
    title: str
    description: str
    path: str  # of the contract's file, for messages
    text: str = field(repr=False)  # the contract's YAML, unchanged

    @property
    def major(self) -> int:
        """The first number of the version; topics and tables have it in their names."""
        return int(self.version.split(".")[0])

    @property
    def id(self) -> str:
        """``<dataset>.v<major>``: the name of its tables, its folders and the end of its topics."""
        return f"{self.name}.v{self.major}"

    @property
    def hash(self) -> str:
        """SHA-256 of the contract's text, hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def topic(self, district: str) -> str:
        """The topic on which a district publishes this dataset."""
        return f"{UP_PREFIX}{district}.{self.id}"

    @cached_property
    def topics(self) -> tuple[str, ...]:
        """The topics of all districts for this dataset, in the order of district codes."""
        return tuple(self.topic(code) for code in districts())

    def field(self, name: str) -> Field:
        """The column of that name; KeyError if there is none."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Field]:
        return {f.name: f for f in self.fields}

    @cached_property
    def table_fields(self) -> tuple[Field, ...]:
        """Columns in table order: key, sequence and district first, since Delta keeps statistics of the first 32 columns."""
        first = [*self.key, *(c for c in (self.sequence, self.district) if c and c not in self.key)]
        rest = [f.name for f in self.fields if f.name not in first]
        return tuple(self.field(name) for name in dict.fromkeys([*first, *rest]))


UP_PREFIX = "gz.up."
DOWN_PREFIX = "gz.down."


def receipts_topic(district: str) -> str:
    """The topic on which a district gets a receipt for each of its records that was refused."""
    return f"{DOWN_PREFIX}{district}.receipts.v1"


def parse_topic(topic: str) -> tuple[str, str]:
    """The district code and the dataset id (``name.vN``) of an upward topic."""
    district, _, dataset_id = topic.removeprefix(UP_PREFIX).partition(".")
    return district, dataset_id
