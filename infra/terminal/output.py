"""What the looking commands show: tables of the lake as plain rows, and query results as table, CSV or JSON."""

from __future__ import annotations

import base64
import csv
import json
import math
import sys
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from infra.bus.bus import Bus
from infra.terminal.console import datasets_in_force
from schemas.dataset import Dataset
from schemas.errors import InputError, first_line

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SHOWN = 200  # rows of a table on a terminal


def write_rows(frame: DataFrame, format_: str) -> None:
    """Print a result. CSV and JSON are streamed, a partition at a time; a table shows the first rows.

    InputError if a row cannot be computed, such as a division by zero: what was printed by then is not the whole.
    """
    from pyspark.errors import PySparkException

    write = {"json": _write_json, "csv": _write_csv}.get(format_, _write_table)
    try:
        write(frame)
    except PySparkException as error:
        reason = first_line(error)
        raise InputError(
            f"The query stopped at a row that cannot be computed: {reason}",
            f"查询遇到无法计算的行，已停止：{reason}",
        ) from error
    except ValueError as error:  # a date or moment that Python lacks
        raise InputError(
            f"The result holds a value that {format_} cannot show here ({error}). Cast it to string.",
            f"结果中有无法以 {format_} 显示的值（{error}）。请转换为 string。",
        ) from error


def _write_csv(frame: DataFrame) -> None:
    rows = frame.toLocalIterator()
    first = next(rows, None)  # before anything is printed, since most failures show with it
    writer = csv.writer(sys.stdout)
    writer.writerow(frame.columns)
    for row in chain([] if first is None else [first], rows):
        writer.writerow("" if v is None else _text(v) for v in row)


def _write_json(frame: DataFrame) -> None:
    """Spark writes each object: decimals as numbers with all their digits, moments in UTC with microseconds."""
    from pyspark.sql import functions as F

    if twice := sorted({name for name in frame.columns if frame.columns.count(name) > 1}):
        raise InputError(
            f"The result has two columns called {twice[0]}, and an object has room for one. Name one with AS.",
            f"结果中有两列同名 {twice[0]}，而 JSON 对象只能容纳一列。请用 AS 改名。",
        )
    options = {"ignoreNullFields": "false", "timestampFormat": "yyyy-MM-dd'T'HH:mm:ss[.SSSSSS]XXX"}
    rows = frame.select(F.to_json(F.struct("*"), options)).toLocalIterator()
    first = next(rows, None)
    click.echo("[" + (first[0] if first else ""), nl=False)
    for row in rows:
        click.echo(",\n " + row[0], nl=False)
    click.echo("]")


def _write_table(frame: DataFrame) -> None:
    from rich.console import Console
    from rich.table import Table

    rows = frame.limit(SHOWN + 1).collect()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for field in frame.schema.fields:
        number = field.dataType.typeName() in (
            "integer",
            "long",
            "double",
            "float",
            "decimal",
            "short",
            "byte",
        )
        table.add_column(field.name, justify="right" if number else "left")
    for row in rows[:SHOWN]:
        table.add_row(*("∅" if v is None else _text(v) for v in row))
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False)
    console.print(table)
    more = f"the first {SHOWN} rows; --format csv gives all 仅显示前 {SHOWN} 行，--format csv 可输出全部"
    console.print(f"({more})" if len(rows) > SHOWN else f"({len(rows)} rows 行)")


def plain(value: Any) -> Any:
    """A value as JSON has it: decimals and moments as text, bytes as base64, NaN and infinity as text."""
    if isinstance(value, dict):
        return {k if isinstance(k, str) else _text(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, datetime):
        return _moment(value)
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    if isinstance(value, date | Decimal) or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)
    return value


def _text(value: Any) -> str:
    found = plain(value)
    return json.dumps(found, ensure_ascii=False) if isinstance(found, dict | list) else str(found)


def _moment(value: datetime) -> str:
    """Spark hands out naive datetimes in this process's zone; people get UTC with its sign."""
    from datetime import UTC

    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def release_records(bus: Bus, name: str | None) -> list[dict[str, Any]]:
    """Every decision of the gate, newest first; `verdict` is the whole verdict."""
    lake = bus.lake()
    frame = lake.releases().read().orderBy("decided_at", ascending=False)
    found = [plain(row.asDict(recursive=True)) for row in frame.collect()]
    names = {d.id: d.name for d in bus.store.datasets().values()}
    wanted = datasets_in_force(bus, name)
    listed = []
    for record in found:
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
    """Every quarantined record, as `each_quarantined` gives them."""
    return list(each_quarantined(bus, name))


def each_quarantined(bus: Bus, name: str | None) -> Iterator[dict[str, Any]]:
    """Every quarantined record, oldest first: where it stood, its bytes (base64), its reasons, what could be read.

    They come from the lake a partition at a time: there may be more than memory holds.
    """
    lake = bus.lake()
    for dataset in datasets_in_force(bus, name).values():
        rows = lake.bronze(dataset).read().where("_quarantined").orderBy("_timestamp", "_topic", "_offset")
        for row in rows.toLocalIterator():
            yield _quarantined(row.asDict(recursive=True), dataset)


def _quarantined(row: dict[str, Any], dataset: Dataset) -> dict[str, Any]:
    record = {f.name: row[f.name] for f in dataset.table_fields}
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
    """The conservation sum of each dataset and district, and whether it closes."""
    from pipelines.merge.account import account_totals

    lake = bus.lake()
    names = {d.id: d.name for d in bus.store.datasets().values()}
    wanted = datasets_in_force(bus, name)
    rows = [row.asDict() for row in account_totals(lake.account().read()).collect()]
    return [
        {**row, "dataset": names.get(row["dataset"], row["dataset"])}
        for row in rows
        if name is None or row["dataset"] in wanted
    ]
