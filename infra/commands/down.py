"""`suibus down`: stop the bus."""

from __future__ import annotations

import click

from infra.bus.bus import Bus
from infra.settings import read_settings
from infra.terminal.console import tell
from infra.up.process import stop


@click.command()
def down() -> None:
    """Stop the bus of this state folder. 停止总线。

    A running pass is finished first. If nothing runs, nothing is done. A backup or restore at work is not ended.
    """
    bus = Bus(read_settings())
    if bus.state.up_process():
        tell("stopping; a running pass is finished first", "正在停止；会先完成正在进行的一轮")
    if stop(bus):
        tell("stopped", "已停止")
    else:
        tell("nothing was running", "没有正在运行的总线")
