"""`suibus publish`: one source into one district's outbox and onto the bus, with a progress bar and an account."""

from __future__ import annotations

import csv
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from infra.bus.bus import Bus
from producers.inbox import Inbox
from producers.outbox import Mode
from producers.publish.delivery import Progress, PublishInfo, publish_source
from producers.sources.database import open_query
from producers.sources.files import open_source
from schemas.dataset import Dataset

if TYPE_CHECKING:
    from rich.progress import Progress as Bar


def publish_command(
    bus: Bus,
    name: str,
    district: str,
    mode: Mode,
    file: Path | None,
    sql: str | None,
    database: str | None,
    format_: str | None,
    encoding: str | None,
    timeout: float,
    corrections: bool = False,
) -> int:
    """Publish and print the account; the exit status."""
    publisher = bus.publisher(name, district, timeout)
    dataset, delete = publisher.dataset, mode == "delete"
    if file is not None:
        source = open_source(file, dataset, format=format_, encoding=encoding, delete=delete, corrections=corrections)
    else:
        source = open_query(sql or "", database or "", dataset, delete=delete)
    with publisher.outbox, _inbox(bus, district, corrections) as inbox, _bar() as bar:
        task = bar.add_task(source.name, total=1.0, rows="")

        def show(progress: Progress) -> None:
            done = progress.fraction
            rows = f"{progress.read:,} rows 行, {progress.sent:,} sent 已发送"
            bar.update(task, completed=done, rows=rows) if done is not None else bar.update(task, rows=rows)

        info = publish_source(publisher, source, mode, corrections=inbox, progress=show)
    _account(dataset, district, info)
    return info.exit_status


def _inbox(bus: Bus, district: str, wanted: bool) -> AbstractContextManager[Inbox | None]:
    return Inbox(bus.outbox(district).with_name("inbox.sqlite")) if wanted else nullcontext()


def _bar() -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    return Bar(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rows]}"), TimeElapsedColumn(),
        console=Console(file=sys.stderr), transient=True, disable=not sys.stderr.isatty(),
    )  # fmt: skip


def _account(dataset: Dataset, district: str, info: PublishInfo) -> None:
    waiting = (f"{info.waiting:,} wait in the outbox", f"发件箱中还有 {info.waiting:,} 条待发")
    on_the_bus = waiting if info.waiting else ("all on the bus", "全部已上总线")
    rate = info.read / info.seconds if info.seconds else 0
    click.echo(
        f"{dataset.name} from {district}: read {info.read:,}, accepted {info.accepted:,}, deleted {info.deleted:,}, "
        f"unchanged {info.unchanged:,}, rejected {info.rejected:,}; {on_the_bus[0]} ({info.seconds:.1f} s, {rate:,.0f} rows/s)"
    )
    click.echo(
        f"{dataset.title}（{district}）：读取 {info.read:,}，接收 {info.accepted:,}，删除 {info.deleted:,}，"
        f"未变 {info.unchanged:,}，拒收 {info.rejected:,}；{on_the_bus[1]}"
    )
    for en, zh in info.notes:
        click.echo(f"{en}\n{zh}")
    if info.rejects_path:
        with info.rejects_path.open(encoding="utf-8-sig", newline="") as file:
            first = next(csv.DictReader(file), {})
        click.echo(
            f"The first: line {first.get('line')}: {first.get('reason')}\n首个：第 {first.get('line')} 行：{first.get('原因')}",
            err=True,
        )
        click.echo(
            f"Rejected rows with their reasons: {info.rejects_path}. Correct them and publish that part again.\n"
            f"被拒行及原因见 {info.rejects_path}。请更正后重新发布这些行。",
            err=True,
        )
    if info.problem:
        click.echo(f"{info.problem.en}\n{info.problem.zh}", err=True)
