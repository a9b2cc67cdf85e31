"""`suibus sync`: one pass over everything that was published."""

from __future__ import annotations

import sys

import click

from infra.bus.bus import Bus
from infra.settings import read_settings
from infra.terminal.console import need_city, tell


@click.command()
@click.argument("datasets", nargs=-1, metavar="[DATASET]…")
def sync(datasets: tuple[str, ...]) -> None:
    """Process everything published so far, once, and stop. 处理一轮。

    Ingests all topics, then merges, judges and releases the named datasets (all, if none is named) and those with new
    records. Exit status 1 if a dataset failed. A held release is no failure: it is printed, and `suibus releases` lists it.
    """
    need_city()
    bus = Bus(read_settings())
    bus.adopt_contracts(tell)
    bus.flush_outboxes()
    only = {bus.contracts.newest_in_force(name).id for name in datasets} if datasets else None
    info = bus.sync(only, tell)
    if not info.did_something:
        tell("nothing new", "没有新数据")
    sys.exit(1 if info.failures else 0)
