"""Listings of releases, quarantined records and the account, as plain values that can be printed as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from infra.bus.bus import Bus
from infra.terminal.json_values import plain
from schemas.dataset import Dataset


def release_records(bus: Bus, name: str | None) -> list[dict[str, Any]]:
    """Every decision of the gate, newest first; `verdict` is the full verdict."""
    lake = bus.lake()
    frame = lake.releases().read().orderBy("decided_at", ascending=False)
    records = [plain(row.asDict(recursive=True)) for row in frame.collect()]
    names = {d.id: d.name for d in bus.store.datasets().values()}
    wanted = bus.contracts.in_force(name)
    listed = []
    for record in records:
        if record["dataset"] in wanted or name is None:
            record["verdict"] = json.loads(record["verdict"])
            listed.append(
                {
                    **record,
                    "dataset": names.get(record["dataset"], record["dataset"]),
                    "dataset_id": record["dataset"],
                }
            )
    return listed


def quarantined_records(bus: Bus, name: str | None) -> list[dict[str, Any]]:
    """Every quarantined record, as a list: see `each_quarantined`."""
    return list(each_quarantined(bus, name))


def each_quarantined(bus: Bus, name: str | None) -> Iterator[dict[str, Any]]:
    """Every quarantined record by dataset, oldest first: topic, partition, offset, bytes (base64), reasons, and the decoded record if any.

    The records are read one Spark partition at a time, since all of them may not fit in memory.
    """
    lake = bus.lake()
    for dataset in bus.contracts.in_force(name).values():
        rows = lake.bronze(dataset).read().where("_quarantined").orderBy("_timestamp", "_topic", "_offset")
        for row in rows.toLocalIterator():
            yield _quarantined(row.asDict(recursive=True), dataset)


def _quarantined(row: dict[str, Any], dataset: Dataset) -> dict[str, Any]:
    # A column that the contract has gained since the last pass is not in bronze yet.
    record = {f.name: row.get(f.name) for f in dataset.table_fields}
    decoded = record if any(v is not None for v in record.values()) else None
    shown = {
        "dataset": dataset.name,
        "district": row["_district"],
        "topic": row["_topic"],
        "partition": row["_partition"],
        "offset": row["_offset"],
        "timestamp": row["_timestamp"],
        "key": row["_key"],
        "reasons": row["_reasons"],
        "value": row["_value"],
        "record": decoded,
    }
    found: dict[str, Any] = plain(shown)
    return found


def account_records(bus: Bus, name: str | None) -> list[dict[str, Any]]:
    """The sums of the account by dataset and district, and whether they close."""
    from pipelines.merge.account import account_totals  # the light install has no Spark

    lake = bus.lake()
    names = {d.id: d.name for d in bus.store.datasets().values()}
    wanted = bus.contracts.in_force(name)
    rows = [row.asDict() for row in account_totals(lake.account().read()).collect()]
    return [
        {**row, "dataset": names.get(row["dataset"], row["dataset"])}
        for row in rows
        if name is None or row["dataset"] in wanted
    ]
