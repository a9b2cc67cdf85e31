"""The result of a query: as a table, CSV or JSON."""

from __future__ import annotations

import csv
import sys
from itertools import chain
from typing import TYPE_CHECKING

import click
from rich.table import Column

from infra.terminal.console import SHOWN, both, draw_table
from infra.terminal.json_values import text
from schemas.errors import InputError, first_line

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def write_rows(frame: DataFrame, format_: str) -> None:
    """Print a result. CSV and JSON are streamed, one partition at a time; a table shows the first rows.

    InputError if a row cannot be computed, such as for a division by zero; the output so far is then incomplete.
    """
    from pyspark.errors import PySparkException  # the light install has no Spark

    write = {"json": _write_json, "csv": _write_csv}.get(format_, _write_table)
    try:
        write(frame)
    except PySparkException as error:
        reason = first_line(error)
        raise InputError(
            f"The query stopped at a row that cannot be computed. Correct the query; any output so far is incomplete. Reason: {reason}",
            f"查询遇到无法计算的行，已停止。请修改查询；此前的输出不完整。原因：{reason}",
        ) from error
    except ValueError as error:  # a date or time outside of Python's range
        raise InputError(
            f"The result has a value that cannot be shown as {format_} ({error}). Cast it to string.",
            f"结果中有无法以 {format_} 显示的值（{error}）。请将该列转换为 string。",
        ) from error


def _write_csv(frame: DataFrame) -> None:
    rows = frame.toLocalIterator()
    first = next(rows, None)  # before anything is printed: most failures occur at the first row
    writer = csv.writer(sys.stdout)
    writer.writerow(frame.columns)
    for row in chain([] if first is None else [first], rows):
        writer.writerow("" if v is None else text(v) for v in row)


def _write_json(frame: DataFrame) -> None:
    """Spark writes each object: decimals as numbers with all their digits, times in UTC with microseconds."""
    from pyspark.sql import functions as F  # the light install has no Spark

    if twice := sorted({name for name in frame.columns if frame.columns.count(name) > 1}):
        raise InputError(
            f"The result has two columns called {twice[0]}, and a JSON object can hold only one. Rename one with AS.",
            f"结果中有两列同名 {twice[0]}，而 JSON 对象只能容纳一列。请用 AS 为其中一列改名。",
        )
    options = {"ignoreNullFields": "false", "timestampFormat": "yyyy-MM-dd'T'HH:mm:ss[.SSSSSS]XXX"}
    rows = frame.select(F.to_json(F.struct("*"), options)).toLocalIterator()
    first = next(rows, None)
    click.echo("[" + (first[0] if first else ""), nl=False)
    for row in rows:
        click.echo(",\n " + row[0], nl=False)
    click.echo("]")


def _write_table(frame: DataFrame) -> None:
    rows = frame.limit(SHOWN + 1).collect()
    numbers = ("integer", "long", "double", "float", "decimal", "short", "byte")
    columns = [
        Column(field.name, justify="right" if field.dataType.typeName() in numbers else "left")
        for field in frame.schema.fields
    ]
    draw_table(columns, [["∅" if v is None else text(v) for v in row] for row in rows[:SHOWN]])
    if len(rows) > SHOWN:
        more = both(f"the first {SHOWN} rows; --format csv gives all", f"仅显示前 {SHOWN} 行，--format csv 可输出全部")
    else:
        more = f"{len(rows)} {both('rows', '行')}"
    click.echo(f"({more})")
