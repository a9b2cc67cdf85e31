"""What the bus should hold, kept in plain Python beside it, and the comparison of the two at the end."""

from __future__ import annotations

import csv
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

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
    """One version of one key; `tag` is in no other row."""

    key: str
    seq: int
    tag: str
    amount: int


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
        """What tells it from other events."""
        return (self.key, self.row.tag if self.row else None, None if self.row else self.seq)


@dataclass
class Delivery:
    """A file as a district publishes it."""

    dataset: str
    district: str
    mode: str  # append, delete or snapshot
    path: Path
    rows: list[Row]  # with the rejected ones left out
    rejected: int
    columns: int  # that had been added to the contract; a file that lacks one is refused whole


@dataclass
class Tally:
    """What the comparison found; `notes` says where."""

    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, kind: str, count: int, note: str) -> None:
        """Count something, if it is something."""
        if count:
            setattr(self, kind, getattr(self, kind) + count)
            self.notes.append(f"{kind} {count}: {note}")


@dataclass
class Model:
    """What each outbox accepted, in order, and what it then believes the city to hold."""

    events: dict[tuple[str, str], list[Event]] = field(default_factory=lambda: defaultdict(list))
    known: dict[tuple[str, str], dict[str, tuple[Any, int]]] = field(default_factory=lambda: defaultdict(dict))
    columns: dict[str, int] = field(default_factory=Counter)  # columns added to each contract
    clock: int = 100

    def contract(self, name: str, patch: int = 0) -> str:
        """The contract's text; `patch` changes nothing but the text."""
        added = "".join(f"      - {{name: extra_{i}, logicalType: integer}}\n" for i in range(self.columns[name]))
        sequence = "  - {property: suibus.sequence, value: seq}\n" if name == ORDERED else ""
        version = f"1.{self.columns[name]}.{patch}"
        return CONTRACT.format(name=name, version=version, columns=added, sequence=sequence)

    def make(self, folder: Path, number: int, dataset: str, district: str, mode: str, dice: random.Random) -> Delivery:
        """A new file of random rows, not accepted yet."""
        known = {k: content[1] for k, (content, _) in self.known[dataset, district].items()}
        rows: list[Row] = []
        if mode == "snapshot":
            for key, row in sorted(known.items()):
                fate = dice.random()
                if fate < 0.7:
                    rows.append(row)
                elif fate < 0.85:
                    rows.append(self._row(key, district, dice, f"{number}-{len(rows)}", old=0))
            fresh = [k for k in self._keys(dataset, district) if k not in known]
            for key in dice.sample(fresh, min(len(fresh), 12)):
                rows.append(self._row(key, district, dice, f"{number}-{len(rows)}", old=0))
            dice.shuffle(rows)
        else:
            for _ in range(dice.randint(25, 90)):
                key = dice.choice(self._keys(dataset, district))
                rows.append(self._row(key, district, dice, f"{number}-{len(rows)}", old=0.25))
        path = folder / f"{number}-{mode}.csv"
        rejected = 0
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            keys = ["id", "seq"] if dataset == ORDERED else ["id"]
            writer.writerow(keys if mode == "delete" else ["id", "district_code", "seq", "tag", "amount"])
            for row in rows:
                if mode == "delete":
                    writer.writerow([row.key, row.seq][: len(keys)])
                    continue
                writer.writerow([row.key, district, row.seq, row.tag, row.amount])
                if dice.random() < (0.002 if mode == "snapshot" else 0.03):
                    writer.writerow([row.key, district, row.seq, row.tag, "many"])
                    rejected += 1
        return Delivery(dataset, district, mode, path, rows, rejected, self.columns[dataset])

    def _keys(self, dataset: str, district: str) -> list[str]:
        """Keys that all districts write, or, where nothing but time orders, each its own."""
        return [f"k{i}" if dataset == ORDERED else f"{district}-{i}" for i in range(60)]

    def _row(self, key: str, district: str, dice: random.Random, tag: str, old: float) -> Row:
        """A row whose sequence is new, or sometimes one of long ago; two districts never have the same."""
        self.clock += dice.randint(0, 2)
        base = dice.randint(1, self.clock) if dice.random() < old else self.clock
        amount = -1 if dice.random() < 0.05 else dice.randint(0, 10**6)
        return Row(key, base * len(DISTRICTS) + DISTRICTS.index(district), tag, amount)

    def accept(self, delivery: Delivery) -> None:
        """All of a delivery was accepted once."""
        where = (delivery.dataset, delivery.district)
        events, known = self.events[where], self.known[where]
        schema = self.columns[delivery.dataset]
        if delivery.mode == "snapshot":
            for row in delivery.rows:
                content = (schema, row)
                if row.key not in known or known[row.key][0] != content:
                    events.append(Event(row.key, row.seq, row))
                    known[row.key] = (content, row.seq)
            if not delivery.rejected:
                for key in sorted(set(known) - {row.key for row in delivery.rows}):
                    events.append(Event(key, self._seq(delivery, known.pop(key)[1]), None))
            return
        for row in delivery.rows:
            event = Event(row.key, self._seq(delivery, row.seq), None if delivery.mode == "delete" else row)
            events.append(event)
            if not known:
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
        """The last version of each key and the district it is from: by sequence, then as its district accepted them."""
        found: dict[str, tuple[Any, str, Event]] = {}
        for district in DISTRICTS:
            for number, event in enumerate(self.events[dataset, district]):
                if event.refused:
                    continue
                rank = (event.seq if dataset == ORDERED else 0, number)
                if event.key not in found or found[event.key][0] < rank:
                    found[event.key] = (rank, district, event)
        return {key: (district, event) for key, (_, district, event) in found.items()}


def compare(model: Model, lake: Mapping[str, Any]) -> Tally:
    """What the lake lost, doubled or has wrong; `lake` is what `worker.read_lake` read, tables as lists of dicts."""
    tally = Tally()
    for dataset in (ORDERED, UNORDERED):
        for district in DISTRICTS:
            _compare_bronze(tally, model.events[dataset, district], dataset, district, lake[dataset]["bronze"])
            accepted = lake["accepted"].get(f"{dataset}/{district}", 0)
            tally.add(
                "wrong",
                abs(accepted - len(model.events[dataset, district])),
                f"{dataset}/{district} outbox's own count",
            )
        places = Counter((r["_topic"], r["_partition"], r["_offset"]) for r in lake[dataset]["bronze"])
        tally.add("doubled", sum(places.values()) - len(places), f"{dataset} offsets in bronze")
        silver = model.silver(dataset)
        live = {k: (d, e.row) for k, (d, e) in silver.items() if e.row}
        _compare_table(
            tally,
            f"{dataset} as a department queries it",
            {k: (d, r.seq, r.tag, r.amount) for k, (d, r) in live.items()},
            ((r["id"], (r["district_code"], r["seq"], r["tag"], r["amount"])) for r in lake[dataset]["shared"]),
        )
        _compare_table(
            tally,
            f"{dataset} tombstones",
            {k: (d, e.seq if dataset == ORDERED else None) for k, (d, e) in silver.items() if not e.row},
            (
                (r["id"], (r["_district"], r["_sequence"] if dataset == ORDERED else None))
                for r in lake[dataset]["silver"]
                if r["_deleted"]
            ),
        )
        refused = {
            f"{r['_topic']}:{r['_partition']}:{r['_offset']}" for r in lake[dataset]["bronze"] if r["_quarantined"]
        }
        told = Counter(receipt for receipt in lake["receipts"] if f".{dataset}.v" in receipt)
        tally.add("lost", len(refused - set(told)), f"{dataset} receipts")
        tally.add("doubled", told.total() - len(told), f"{dataset} receipts")
        tally.add("wrong", len(set(told) - refused), f"{dataset} receipts of records that are not quarantined")
        _compare_account(tally, model, dataset, lake[dataset]["account"], len(live))
        _compare_releases(tally, dataset, lake[dataset]["releases"], len(live))
    return tally


def _compare_bronze(
    tally: Tally, events: list[Event], dataset: str, district: str, bronze: list[dict[str, Any]]
) -> None:
    mine = sorted(
        (r for r in bronze if r["_district"] == district), key=lambda r: (r["_topic"], r["_partition"], r["_offset"])
    )
    found = []
    for r in mine:
        row = None if r["_deleted"] else Row(r["id"], r["seq"], r["tag"], r["amount"])
        seq = row.seq if row else r["_sequence"] if dataset == ORDERED else None
        found.append((Event(r["id"], seq, row), r["_quarantined"]))
    expected_names = Counter(_named(e, dataset) for e in events)
    found_names = Counter(_named(e, dataset) for e, _ in found)
    where = f"{dataset}/{district} in bronze"
    lost, doubled = expected_names - found_names, found_names - expected_names
    tally.add("lost", lost.total(), f"{where}, such as {next(iter(lost), None)}")
    tally.add("doubled", doubled.total(), f"{where}, such as {next(iter(doubled), None)}")
    contents = {_named(e, dataset): (e.row, e.refused) for e in events}
    altered = [e for e, q in found if contents.get(_named(e, dataset), (e.row, q)) != (e.row, q)]
    tally.add("wrong", len(altered), f"{where}: another content or fate, such as {altered[:1]}")
    if not lost and not doubled:
        order, arrived = defaultdict(list), defaultdict(list)
        for event in events:
            order[event.key].append(_named(event, dataset))
        for event, _ in found:
            arrived[event.key].append(_named(event, dataset))
        tally.add("wrong", sum(order[k] != arrived[k] for k in order), f"{where}: order of a key's records")


def _named(event: Event, dataset: str) -> tuple[Any, ...]:
    return event.name if dataset == ORDERED or event.row else event.name[:2]


def _compare_table(tally: Tally, where: str, expected: Mapping[str, Any], found: Iterable[tuple[str, Any]]) -> None:
    rows: dict[str, list[Any]] = defaultdict(list)
    for key, value in found:
        rows[key].append(value)
    lost = sorted(set(expected) - set(rows))
    tally.add("lost", len(lost), f"{where}, such as {lost[:1]}")
    tally.add("doubled", sum(len(v) - 1 for v in rows.values()), where)
    wrong = [(k, expected.get(k), v[0]) for k, v in sorted(rows.items()) if expected.get(k) != v[0]]
    tally.add("wrong", len(wrong), f"{where}, such as key, expected, found {wrong[:1]}")


FATES = ("inserted", "updated", "deleted", "unchanged", "superseded", "duplicate", "quarantined")


def _compare_account(tally: Tally, model: Model, dataset: str, account: list[dict[str, Any]], live: int) -> None:
    for row in account:
        off = abs(row["received"] - sum(row[f] for f in FATES))
        tally.add(
            "wrong", off, f"{dataset}/{row['district']} account of bronze {row['bronze_from']}-{row['bronze_to']}"
        )
    for district in DISTRICTS:
        mine = [r for r in account if r["district"] == district]
        events = model.events[dataset, district]
        for name, expected in (("received", len(events)), ("quarantined", sum(e.refused for e in events))):
            off = abs(sum(r[name] for r in mine) - expected)
            tally.add("wrong", off, f"{dataset}/{district} account: {name}, {expected} expected")
    rows = sum(r["inserted"] - r["deleted"] for r in account)
    tally.add("wrong", abs(rows - live), f"{dataset} account: inserted - deleted is {rows}, rows are {live}")


def _compare_releases(tally: Tally, dataset: str, releases: list[dict[str, Any]], live: int) -> None:
    numbers = sorted(r["release"] for r in releases)
    tally.add("doubled", len(numbers) - len(set(numbers)), f"{dataset} release numbers")
    tally.add("lost", len(set(range(1, max(numbers, default=0) + 1)) - set(numbers)), f"{dataset} release numbers")
    held = [(r["release"], r["failed"]) for r in releases if r["status"] != "released"]
    tally.add("wrong", len(held), f"{dataset} releases held: {held[:1]}")
    last = max(releases, key=lambda r: r["release"], default={"rows": None})
    tally.add("wrong", int(last["rows"] != live), f"{dataset} last release names {last['rows']} rows, expected {live}")
