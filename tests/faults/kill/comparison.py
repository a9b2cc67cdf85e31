"""Compares the bus with the model: what it lost, doubled or has wrong."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.faults.kill.model import DISTRICTS, ORDERED, UNORDERED, Event, Model, Row


@dataclass
class Tally:
    """What the comparison found; `notes` says where."""

    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, kind: str, count: int, note: str) -> None:
        """Count `count` cases of a kind, and note where; nothing for 0."""
        if count:
            setattr(self, kind, getattr(self, kind) + count)
            self.notes.append(f"{kind} {count}: {note}")


def compare(model: Model, lake: Mapping[str, Any]) -> Tally:
    """What the lake lost, doubled or has wrong; `lake` is the result of `read_lake`, with tables as lists of dicts."""
    tally = Tally()
    for dataset in (ORDERED, UNORDERED):
        columns = model.columns[dataset]
        for district in DISTRICTS:
            events = [e._replace(row=e.row and e.row.widened(columns)) for e in model.events[dataset, district]]
            _compare_bronze(tally, events, dataset, district, lake[dataset]["bronze"], columns)
            accepted = lake["accepted"].get(f"{dataset}/{district}", 0)
            tally.add(
                "wrong",
                abs(accepted - len(events)),
                f"{dataset}/{district} outbox's own count",
            )
        places = Counter((r["_topic"], r["_partition"], r["_offset"]) for r in lake[dataset]["bronze"])
        tally.add("doubled", sum(places.values()) - len(places), f"{dataset} offsets in bronze")
        silver = model.silver(dataset)
        live = {k: (d, e.row) for k, (d, e) in silver.items() if e.row}
        _compare_table(
            tally,
            f"{dataset} as a department queries it",
            {k: (d, r.widened(columns)) for k, (d, r) in live.items()},
            ((r["id"], (r["district_code"], _row(r, columns))) for r in lake[dataset]["shared"]),
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
    tally: Tally, events: list[Event], dataset: str, district: str, bronze: list[dict[str, Any]], columns: int
) -> None:
    mine = sorted(
        (r for r in bronze if r["_district"] == district), key=lambda r: (r["_topic"], r["_partition"], r["_offset"])
    )
    found = []
    for r in mine:
        row = None if r["_deleted"] else _row(r, columns)
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


def _row(found: Mapping[str, Any], columns: int) -> Row:
    extra = tuple(found.get(f"extra_{i}") for i in range(columns))
    return Row(found["id"], found["seq"], found["tag"], found["amount"], extra)


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
