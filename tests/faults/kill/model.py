"""What districts publish and what the bus must then hold, in plain Python."""

from __future__ import annotations

import csv
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from producers.outbox import Mode

DISTRICTS = ("440103", "440104", "440106")
ORDERED, UNORDERED = "kill_ordered", "kill_unordered"  # one dataset with a sequence column, one without

CONTRACT = """\
apiVersion: v3.1.0
kind: DataContract
id: faults.{name}
version: {version}
status: active
schema:
  - name: {name}
    properties:
      - {{name: id, logicalType: string, primaryKey: true, required: true}}
      - {{name: district_code, logicalType: string, required: true}}
      - {{name: seq, logicalType: integer, required: true}}
      - {{name: tag, logicalType: string, required: true}}
      - name: amount
        logicalType: integer
        quality:
          - {{name: amount_not_negative, type: sql, query: "SELECT COUNT(*) FROM ${{object}} WHERE amount < 0", mustBe: 0}}
{columns}    quality:
      - {{name: some_rows, metric: rowCount, mustBeGreaterThan: 0}}
customProperties:
  - {{property: suibus.sharing, value: unconditional}}
{sequence}  - {{property: suibus.district, value: district_code}}
"""


class Row(NamedTuple):
    """One version of one key; `tag` is unique. `extra`: the values of the columns that were added to the contract."""

    key: str
    seq: int
    tag: str
    amount: int
    extra: tuple[int | None, ...] = ()

    def widened(self, columns: int) -> Row:
        """The row with `columns` added columns: null in those that were added after it."""
        return self._replace(extra=self.extra + (None,) * (columns - len(self.extra)))


class Event(NamedTuple):
    """One record that an outbox accepted: a row, or the deletion of a key."""

    key: str
    seq: int | None
    row: Row | None

    @property
    def refused(self) -> bool:
        """Whether the row rule quarantines it."""
        return self.row is not None and self.row.amount < 0

    @property
    def name(self) -> tuple[Any, ...]:
        """What distinguishes it from other events."""
        return (self.key, self.row.tag if self.row else None, None if self.row else self.seq)


@dataclass(frozen=True)
class Delivery:
    """A file as a district publishes it."""

    dataset: str
    district: str
    mode: Mode
    path: Path
    rows: list[Row]  # with the rejected ones left out
    rejected: int
    columns: int  # columns added to the contract before the file was made


@dataclass
class Model:
    """What each outbox accepted, in order (`events`), and its snapshot state: `known` of each topic that had a snapshot (`begun`)."""

    events: dict[tuple[str, str], list[Event]] = field(default_factory=lambda: defaultdict(list))
    known: dict[tuple[str, str], dict[str, tuple[Any, int]]] = field(default_factory=lambda: defaultdict(dict))
    begun: set[tuple[str, str]] = field(default_factory=set)
    columns: dict[str, int] = field(default_factory=Counter)  # columns added to each contract
    clock: int = 100

    def contract(self, name: str, patch: int = 0) -> str:
        """The contract's text; `patch` changes nothing but the text."""
        added = "".join(f"      - {{name: extra_{i}, logicalType: integer}}\n" for i in range(self.columns[name]))
        sequence = "  - {property: suibus.sequence, value: seq}\n" if name == ORDERED else ""
        version = f"1.{self.columns[name]}.{patch}"
        return CONTRACT.format(name=name, version=version, columns=added, sequence=sequence)

    def make(self, folder: Path, number: int, dataset: str, district: str, mode: Mode, dice: random.Random) -> Delivery:
        """Write a new file of random rows with every column that the contract has now. It is not accepted yet."""
        columns = self.columns[dataset]
        known = {k: content[1] for k, (content, _) in self.known[dataset, district].items()}
        rows: list[Row] = []
        if mode == "snapshot":
            for key, row in sorted(known.items()):
                fate = dice.random()
                if fate < 0.7:
                    rows.append(row.widened(columns))
                elif fate < 0.85:
                    rows.append(self._row(key, dataset, district, dice, f"{number}-{len(rows)}", old=0))
            fresh = [k for k in self._keys(dataset, district) if k not in known]
            for key in dice.sample(fresh, min(len(fresh), 12)):
                rows.append(self._row(key, dataset, district, dice, f"{number}-{len(rows)}", old=0))
            dice.shuffle(rows)
        else:
            for _ in range(dice.randint(25, 90)):
                key = dice.choice(self._keys(dataset, district))
                rows.append(self._row(key, dataset, district, dice, f"{number}-{len(rows)}", old=0.25))
        path = folder / f"{number}-{mode}.csv"
        rejected = 0
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            keys = ["id", "seq"] if dataset == ORDERED else ["id"]
            extra = [f"extra_{i}" for i in range(columns)]
            writer.writerow(keys if mode == "delete" else ["id", "district_code", "seq", "tag", "amount", *extra])
            for row in rows:
                if mode == "delete":
                    writer.writerow([row.key, row.seq][: len(keys)])
                    continue
                writer.writerow([row.key, district, row.seq, row.tag, row.amount, *row.extra])
                if dice.random() < (0.002 if mode == "snapshot" else 0.03):
                    writer.writerow([row.key, district, row.seq, row.tag, "many", *row.extra])
                    rejected += 1
        return Delivery(dataset, district, mode, path, rows, rejected, columns)

    def takes(self, delivery: Delivery) -> bool:
        """Whether the contract takes the file. A file that lacks a column is refused whole; a file of deletions needs only the keys."""
        return delivery.mode == "delete" or delivery.columns == self.columns[delivery.dataset]

    def _keys(self, dataset: str, district: str) -> list[str]:
        """The ordered dataset has keys that all districts write; in the unordered one each district has its own."""
        return [f"k{i}" if dataset == ORDERED else f"{district}-{i}" for i in range(60)]

    def _row(self, key: str, dataset: str, district: str, dice: random.Random, tag: str, old: float) -> Row:
        """A row with a new sequence, or sometimes an old one; two districts never have the same sequence."""
        self.clock += dice.randint(0, 2)
        base = dice.randint(1, self.clock) if dice.random() < old else self.clock
        amount = -1 if dice.random() < 0.05 else dice.randint(0, 10**6)
        extra = tuple(None if (self.clock + i) % 3 == 0 else self.clock + i for i in range(self.columns[dataset]))
        return Row(key, base * len(DISTRICTS) + DISTRICTS.index(district), tag, amount, extra)

    def accept(self, delivery: Delivery) -> None:
        """Note that all of a delivery was accepted once."""
        where = (delivery.dataset, delivery.district)
        events, known = self.events[where], self.known[where]
        schema = self.columns[delivery.dataset]
        if delivery.mode == "snapshot":
            self.begun.add(where)
            for row in delivery.rows:
                content = (schema, row)
                if row.key not in known or known[row.key][0] != content:
                    events.append(Event(row.key, row.seq, row))
                    # A deletion must not be older than the row that the city has.
                    known[row.key] = (content, max(row.seq, known[row.key][1]) if row.key in known else row.seq)
            if not delivery.rejected:
                for key in sorted(set(known) - {row.key for row in delivery.rows}):
                    events.append(Event(key, self._seq(delivery, known.pop(key)[1]), None))
            return
        for row in delivery.rows:
            event = Event(row.key, self._seq(delivery, row.seq), None if delivery.mode == "delete" else row)
            events.append(event)
            if where not in self.begun:
                continue
            if delivery.dataset == ORDERED and row.key in known and row.seq < known[row.key][1]:
                continue
            if event.row is None:
                known.pop(row.key, None)
            else:
                known[row.key] = ((schema, row), row.seq)

    @staticmethod
    def _seq(delivery: Delivery, seq: int) -> int | None:
        return None if delivery.dataset == UNORDERED and delivery.mode == "delete" else seq

    def silver(self, dataset: str) -> dict[str, tuple[str, Event]]:
        """The last version of each key and its district: by sequence, then in the order in which the district accepted them."""
        found: dict[str, tuple[Any, str, Event]] = {}
        for district in DISTRICTS:
            for number, event in enumerate(self.events[dataset, district]):
                if event.refused:
                    continue
                rank = (event.seq if dataset == ORDERED else 0, number)
                if event.key not in found or found[event.key][0] < rank:
                    found[event.key] = (rank, district, event)
        return {key: (district, event) for key, (_, district, event) in found.items()}
