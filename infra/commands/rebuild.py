"""`suibus rebuild`: the way back after a table was broken."""

from __future__ import annotations

import sys

import click

from infra.bus.bus import Bus
from infra.operate.records import dataset_in_force
from infra.settings import read_settings
from infra.terminal.console import need_city, tell


@click.command()
@click.argument("dataset")
@click.option(
    "--from-topics", is_flag=True, help="Bronze instead, from all that the topics still hold. 从主题重建变更日志。"
)
def rebuild(dataset: str, from_topics: bool) -> None:
    """Make a dataset's table again, bring it up to date and judge it. 重建数据表。

    Silver, the merged table, is made again from bronze, the change log: after a file was lost or damaged, or another
    program wrote to it. With --from-topics bronze itself is made again; what the topics no longer hold stays in silver.
    What was there is kept beside it, as <table>.set-aside-<moment>. Exit status 1 if the dataset failed.
    """
    need_city()
    bus = Bus(read_settings())
    found = dataset_in_force(bus, dataset)
    info = bus.rebuild(found, from_topics, tell)
    sys.exit(1 if found.id in info.failures else 0)
