"""`suibus demo`: the whole road on real registers."""

from __future__ import annotations

import click

from infra.demo.rounds import run
from infra.terminal.console import need_city, tell


@click.command()
def demo() -> None:
    """Run the whole road on Guangzhou's eleven district registers. 运行演示。

    Uses a state folder of its own (SUIBUS_HOME, default ./.suibus-demo), made anew; leaves nothing running.
    """
    need_city()
    run(tell)
