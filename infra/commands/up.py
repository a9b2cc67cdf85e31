"""`suibus up`: run the bus."""

from __future__ import annotations

import click

from infra.bus.bus import Bus
from infra.settings import read_settings
from infra.terminal.console import need_city, tell
from infra.up.process import run, start_in_background


@click.command()
@click.option("--detach", is_flag=True, help="Run in the background; return when all is ready.")
@click.option("--services-only", is_flag=True, help="Start broker, contracts and topics, without the pipeline.")
@click.option("--secure", is_flag=True, help="From now on, nobody gets in without credentials (suibus node).")
def up(detach: bool, services_only: bool, secure: bool) -> None:
    """Run the bus: broker, contracts, pipeline. 启动总线。

    Starts a Kafka broker (unless SUIBUS_BOOTSTRAP_SERVERS or SUIBUS_NODE names one), puts the contracts in force, makes
    their topics, and processes what is published, until `suibus down` or Ctrl-C. Contracts that are added or
    changed meanwhile are read too. When started again, it continues where it stopped.
    """
    need_city()
    bus = Bus(read_settings())
    if detach:
        start_in_background(bus, tell, services_only=services_only, secure=secure)
    else:
        run(bus, tell, services_only=services_only, secure=secure)
