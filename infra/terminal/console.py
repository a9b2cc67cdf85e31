"""What the commands share: the bus of this state folder, and printing for people and for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from infra.terminal.logs import logged
from schemas.errors import InputError

if TYPE_CHECKING:
    from infra.bus.bus import Bus
    from schemas.dataset import Dataset

CITY = ("pyspark", "delta", "great_expectations", "py4j", "pyarrow", "pandas")
NEEDS_CITY = (
    "this command is the city's and needs its extra; in the project's folder: pip install '.[city]'",
    "该命令属于市级中心，需要安装附加组件，请在项目文件夹执行：pip install '.[city]'",
)


def need_city() -> None:
    """Refuse before anything is touched where the city's libraries are not installed."""
    from importlib.util import find_spec

    if find_spec("pyspark") is None:
        raise InputError(*NEEDS_CITY)


def open_bus() -> Bus:
    """The bus of the settings in force."""
    from infra.bus.bus import Bus
    from infra.settings import read_settings

    return Bus(read_settings())


def tell(en: str, zh: str) -> None:
    """Say what happens, to a person or to the log."""
    if not logged(en, zh):
        click.echo(f"{time.strftime('%H:%M:%S')}  {en}\n          {zh}")


def print_json(value: Any) -> None:
    """One JSON value."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def print_json_array(values: Iterable[Any]) -> None:
    """One JSON array, an item at a time: there may be more than memory holds."""
    separator = "[\n"
    for value in values:
        click.echo(separator + json.dumps(value, ensure_ascii=False, default=str), nl=False)
        separator = ",\n"
    click.echo("[]" if separator == "[\n" else "\n]")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], empty: str) -> None:
    """A table, or what is said where it has no rows."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    listed = list(rows)
    for row in listed:
        table.add_row(
            *("" if v is None else f"{v:,}" if isinstance(v, int) and not isinstance(v, bool) else str(v) for v in row)
        )
    if listed:
        console = Console(width=None if sys.stdout.isatty() else 180, highlight=False, markup=False)
        console.print(table)
    else:
        click.echo(empty)


as_json = click.option("--json", "as_json", is_flag=True, help="One JSON value on standard output and nothing else.")


def datasets_in_force(bus: Bus, name: str | None) -> dict[str, Dataset]:
    """The majors of a dataset in force, or of all, by id; InputError names those that are."""
    known = bus.store.datasets()
    found = {k: d for k, d in known.items() if name is None or name in (d.name, d.id)}
    if name is not None and not found:
        names = ", ".join(sorted({d.name for d in known.values()})) or "none / 无"
        raise InputError(
            f"Dataset {name!r} is not in force here. In force: {names}.",
            f"数据集 {name!r} 未生效。已生效：{names}。",
        )
    return found


def dataset_in_force(bus: Bus, name: str) -> Dataset:
    """The newest major of a dataset in force; InputError names those that are."""
    return max(datasets_in_force(bus, name).values(), key=lambda d: d.major)
