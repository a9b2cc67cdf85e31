"""`suibus rebuild`: the way back after a table was broken, or for a lake of another format."""

from __future__ import annotations

import sys

import click

from infra.bus.bus import Bus
from infra.operate.listings import dataset_in_force
from infra.settings import read_settings
from infra.terminal.console import need_city, tell
from schemas.errors import InputError


@click.command()
@click.argument("dataset", required=False)
@click.option(
    "--from-topics", is_flag=True, help="Bronze instead, from all that the topics still hold. 从主题重建变更日志。"
)
@click.option(
    "--lake",
    "whole_lake",
    is_flag=True,
    help="The whole lake, from all that the topics still hold. 从主题重建整个数据湖。",
)
def rebuild(dataset: str | None, from_topics: bool, whole_lake: bool) -> None:
    """Make a dataset's table again, bring it up to date and judge it. 重建数据表。

    Silver, the merged table, is made again from bronze, the change log: after a file was lost or damaged, or another
    program wrote to it. With --from-topics bronze itself is made again; what the topics no longer hold stays in silver.
    With --lake every table is made again, such as after a change of the lake's format; what the topics no longer hold is
    then in the old lake alone. What was there is kept beside it, as <table>.set-aside-<moment>. Exit status 1 if a dataset failed.
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
    found = dataset_in_force(bus, dataset)
    sys.exit(1 if found.id in bus.rebuild(found, from_topics, tell).failures else 0)
