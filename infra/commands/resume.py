"""`suibus resume`: continue after a topic was changed."""

from __future__ import annotations

import click

from infra.bus.bus import Bus
from infra.settings import read_settings
from infra.terminal.console import need_city, say, tell


@click.command()
@click.argument("dataset")
@click.option("--yes", is_flag=True, help="Continue; without it, changes are only shown. 确认继续；否则仅显示变化。")
def resume(dataset: str, yes: bool) -> None:
    """Continue a dataset whose topics were changed. 主题变动后恢复处理。

    A dataset stops when one of its topics was deleted, made again or given partitions, or lost records before they were
    ingested (`suibus status` gives the reason). Let the districts publish again what is missing; then this command
    continues from the first offset that each topic still has. Bronze's log records it.
    """
    need_city()
    bus = Bus(read_settings())
    changes = bus.resume(bus.contracts.newest_in_force(dataset), yes, tell)
    for en, zh in changes:
        say(en, zh)
    if not changes:
        tell("its topics did not change; there is nothing to resume", "主题没有变动，无需恢复")
    elif yes:
        tell("the next pass continues the dataset", "该数据集将在下一轮继续处理")
    else:
        tell(
            "to continue without the missing records, run it again with --yes",
            "如确认在缺少这些记录的情况下继续，请加 --yes 重新执行",
        )
