"""`suibus up`: run the bus."""

from __future__ import annotations

import click

from infra.bus.bus import Bus
from infra.settings import read_settings
from infra.terminal.console import need_city, tell
from infra.up.process import run, start_detached


@click.command()
@click.option("--detach", is_flag=True, help="Return when all is ready and leave it running.")
@click.option("--services-only", is_flag=True, help="The broker and the topics, without the pipeline.")
@click.option("--secure", is_flag=True, help="Let nobody in without credentials (suibus node), from now on.")
def up(detach: bool, services_only: bool, secure: bool) -> None:
    """Run the bus: broker, contracts, pipeline. 启动总线。

    Starts a Kafka broker (unless SUIBUS_BOOTSTRAP_SERVERS names one), puts the contracts in force, makes their
    topics, and takes what is published through to release until `suibus down` or Ctrl-C. Contracts added or
    changed meanwhile are picked up. It starts again where it stopped.
    """
    need_city()
    bus = Bus(read_settings())
    if detach:
        start_detached(bus, tell, services_only=services_only, secure=secure)
    else:
        run(bus, tell, services_only=services_only, secure=secure)
