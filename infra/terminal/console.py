"""The output of every command: sentences in both languages, tables for people, JSON for programs."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from infra.terminal.logs import logged
from schemas.errors import InputError

if TYPE_CHECKING:
    from rich.table import Column

SHOWN = 200  # rows of a table on a terminal
WIDTH = 200  # characters of a table that is not on a terminal
CITY = ("pyspark", "delta", "great_expectations", "py4j", "pyarrow", "pandas")
NEEDS_CITY = (
    "this command needs the city's packages, which are not installed. Run in the project's folder: pip install '.[city]'",
    "该命令需要市级组件，但尚未安装。请在项目文件夹执行：pip install '.[city]'",
)


def need_city() -> None:
    """InputError if the city's libraries are not installed; call it before anything is changed."""
    if find_spec("pyspark") is None:
        raise InputError(*NEEDS_CITY)


def both(en: str, zh: str, between: str = " ") -> str:
    """The English and the Chinese text, the language of the terminal first."""
    from infra.settings import chinese_first  # Pydantic would double the time of --help

    return f"{zh}{between}{en}" if chinese_first() else f"{en}{between}{zh}"


def say(en: str, zh: str, *, err: bool = False) -> None:
    """Print a sentence, one line for each language."""
    click.echo(both(en, zh, "\n"), err=err)


def say_error(en: str, zh: str) -> None:
    """Print an error on standard error, or write it to the log if that is JSON."""
    if not logged(en, zh, logging.ERROR):
        say(f"error: {en}", f"错误：{zh}", err=True)


def tell(en: str, zh: str) -> None:
    """Print what happens, with the time, or write it to the log if that is JSON."""
    if not logged(en, zh):
        click.echo(f"{time.strftime('%H:%M:%S')}  {both(en, zh, chr(10) + ' ' * 10)}")


def print_json(value: Any) -> None:
    """Print one JSON value."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def print_json_array(values: Iterable[Any]) -> None:
    """Print a JSON array item by item: it may be larger than memory."""
    separator = "[\n"
    for value in values:
        click.echo(separator + json.dumps(value, ensure_ascii=False, default=str), nl=False)
        separator = ",\n"
    click.echo("[]" if separator == "[\n" else "\n]")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], empty: tuple[str, str]) -> None:
    """Print a table; if it has no rows, the sentence `empty` (English, Chinese)."""
    listed = [
        ["" if v is None else f"{v:,}" if isinstance(v, int) and not isinstance(v, bool) else str(v) for v in row]
        for row in rows
    ]
    if listed:
        draw_table(columns, listed)
    else:
        click.echo(both(*empty))


def draw_table(columns: Sequence[str | Column], rows: Iterable[Sequence[str]]) -> None:
    """Print the cells of a table, in aligned columns."""
    from rich.console import Console  # slow to import, and --help does not need it
    from rich.table import Table

    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False, markup=False).print(table)


as_json = click.option("--json", "as_json", is_flag=True, help="One JSON value on standard output and nothing else.")
