"""`suibus rebuild`: make a broken table, or a lake of another format, again."""

from __future__ import annotations

import sys

import click

from infra.bus.bus import Bus
from infra.settings import read_settings
from infra.terminal.console import need_city, tell
from schemas.errors import InputError


@click.command()
@click.argument("dataset", required=False)
@click.option(
    "--from-topics",
    is_flag=True,
    help="Rebuild bronze instead, from all that the topics still hold. 从主题重建变更日志。",
)
@click.option(
    "--lake",
    "whole_lake",
    is_flag=True,
    help="Rebuild the whole lake, from all that the topics still hold. 从主题重建整个数据湖。",
)
def rebuild(dataset: str | None, from_topics: bool, whole_lake: bool) -> None:
    """Make a dataset's table (or the whole lake) again and judge it. 重建数据表或数据湖。

    Makes silver, the merged table, again from bronze, the change log: use it after a file was lost or damaged, or after
    another program wrote to the table. With --from-topics bronze is made again; silver keeps what the topics no longer
    hold. With --lake every table is made again, such as for a lake of another format; what the topics no longer hold is
    then only in the old lake. The old table or lake is kept as <name>.set-aside-<time>. Exit status 1 if a dataset failed.
    """
    if (dataset is None) != whole_lake or (whole_lake and from_topics):
        raise InputError(
            "Give either DATASET, with --from-topics or without, or --lake alone.",
            "请给出 DATASET（可加 --from-topics），或单独使用 --lake。",
        )
    need_city()
    bus = Bus(read_settings())
    if dataset is None:
        sys.exit(1 if bus.rebuild_lake(tell).failures else 0)
    found = bus.contracts.newest_in_force(dataset)
    sys.exit(1 if found.id in bus.rebuild(found, from_topics, tell).failures else 0)
