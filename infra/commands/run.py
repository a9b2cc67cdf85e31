"""`suibus up`, `down`, `sync`, `demo`: running the bus."""

from __future__ import annotations

import sys

import click

from infra.terminal.console import dataset_in_force, need_city, open_bus, tell


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
    from infra.up import run, start_detached

    need_city()
    bus = open_bus()
    if detach:
        start_detached(bus, tell, services_only=services_only, secure=secure)
    else:
        run(bus, tell, services_only=services_only, secure=secure)


@click.command()
def down() -> None:
    """Stop the bus of this state folder. 停止总线。

    A pass under way is finished first. Doing it again does nothing.
    """
    from infra.up import stop

    bus = open_bus()
    if bus.state.up_lease.holder():
        tell("stopping; a pass under way is finished first", "正在停止；会先完成正在进行的一轮")
    if stop(bus):
        tell("stopped", "已停止")
    else:
        tell("nothing was running", "没有正在运行的总线")


@click.command()
@click.argument("datasets", nargs=-1, metavar="[DATASET]…")
def sync(datasets: tuple[str, ...]) -> None:
    """Bring everything up to the end of what is published, once, and stop. 同步一次。

    Ingests all topics, then merges, judges and releases the datasets named (all, if none is) and those with new
    records. Exit status 1 if a dataset failed. A release that is held is the gate doing its work: it is printed, and `suibus releases` lists it.
    """
    need_city()
    bus = open_bus()
    bus.adopt_contracts(tell)
    bus.flush_outboxes()
    only = {dataset_in_force(bus, name).id for name in datasets} if datasets else None
    info = bus.sync(only, tell)
    if not info.did_something:
        tell("nothing new", "没有新数据")
    sys.exit(1 if info.failures else 0)


@click.command()
def demo() -> None:
    """Run the whole road on Guangzhou's eleven district registers. 运行演示。

    Uses a state folder of its own (SUIBUS_HOME, default ./.suibus-demo), made anew; leaves nothing running.
    """
    from infra.demo.rounds import run

    need_city()
    run(tell)
