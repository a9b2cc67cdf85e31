"""`suibus demo`: the whole route with real registers."""

from __future__ import annotations

import click

from infra.demo.rounds import run
from infra.terminal.console import need_city, tell


@click.command()
def demo() -> None:
    """Show the whole route with the registers of Guangzhou's eleven districts. 运行演示。

    Uses its own state folder (SUIBUS_HOME, default ./.suibus-demo), which it empties first; leaves no process running.
    """
    need_city()
    run(tell)
