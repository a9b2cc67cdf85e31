"""`suibus rebuild` and `suibus resume`: the ways back after a table was broken or a topic changed."""

from __future__ import annotations

import sys

import click


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
    from infra.terminal.console import dataset_in_force, need_city, open_bus, tell

    need_city()
    bus = open_bus()
    found = dataset_in_force(bus, dataset)
    info = bus.rebuild(found, from_topics, tell)
    sys.exit(1 if found.id in info.failures else 0)


@click.command()
@click.argument("dataset")
@click.option("--yes", is_flag=True, help="Go on; without it only what changed is shown. 确认继续；否则仅显示变化。")
def resume(dataset: str, yes: bool) -> None:
    """Go on with a dataset whose topics were changed. 主题变动后恢复处理。

    A dataset stops when a topic of its was deleted, made again or given partitions, or lost records before they were taken
    (`suibus status` says which). Let the districts publish again what is missing; then this goes on from the first offset
    that each topic still has. Bronze's log keeps that it was done.
    """
    from infra.terminal.console import dataset_in_force, need_city, open_bus, tell

    need_city()
    bus = open_bus()
    found = bus.resume(dataset_in_force(bus, dataset), yes, tell)
    for en, zh in found:
        click.echo(f"{en}\n{zh}")
    if not found:
        tell("its topics are as they were left; there is nothing to resume", "主题与上次一致，无需恢复")
    elif yes:
        tell("the dataset goes on with the next pass", "该数据集将在下一轮继续处理")
    else:
        tell(
            "run it again with --yes to go on without what is missing", "如确认在缺失的情况下继续，请加 --yes 重新执行"
        )
