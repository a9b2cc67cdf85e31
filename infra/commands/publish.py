"""`suibus publish`: from a file or query to a district's outbox and the bus, with a progress bar and a summary."""

from __future__ import annotations

import csv
import sys
from contextlib import nullcontext
from pathlib import Path

import click
from pydantic import SecretStr
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from infra.bus.bus import Bus
from infra.settings import read_settings
from infra.terminal.console import both, say
from producers.inbox import Inbox
from producers.outbox import Mode
from producers.publish.delivery import Progress, PublishInfo, publish_source
from producers.sources.database import open_query
from producers.sources.files import open_source
from schemas.dataset import Dataset
from schemas.errors import InputError


@click.command()
@click.argument("dataset")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--district", required=True, metavar="CODE", help="The publishing district's six-digit code.")
@click.option("--delete", is_flag=True, help="The rows are keys to delete.")
@click.option("--snapshot", is_flag=True, help="The file holds all data: publish what differs from the last snapshot.")
@click.option("--corrections", is_flag=True, help="Each row is the answer to the receipt in its column _receipt.")
@click.option("--query", metavar="SQL", help="Publish the rows of a query instead of a file.")
@click.option(
    "--database", metavar="URL", help="The query's database, as an SQLAlchemy URL; by default SUIBUS_DATABASE."
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["csv", "jsonl", "parquet", "avro"]),
    help="The file's format, if its name does not tell it.",
)
@click.option(
    "--encoding", help="Encoding of a CSV or JSON Lines file; by default utf-8. For files from Excel: gb18030."
)
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait for a broker that does not answer.")
def publish(
    dataset: str,
    file: Path | None,
    district: str,
    delete: bool,
    snapshot: bool,
    corrections: bool,
    query: str | None,
    database: str | None,
    format_: str | None,
    encoding: str | None,
    timeout: float,
) -> None:
    """Publish a file's rows as a district. 发布数据。

    FILE is CSV, JSON Lines, Parquet or an Avro container. Every row is validated first. Bad rows go, with all reasons,
    to FILE's .rejects.csv and never stop the good ones (exit status 1). Accepted rows survive a crash and a broker
    that does not answer (exit status 3); `suibus flush` or the next publish sends them. Put a database URL with a
    password into SUIBUS_DATABASE: others on the machine can read a command line.

    \b
    suibus publish grassroots_division 440106.csv --district 440106 --snapshot
    suibus publish enterprise --query "SELECT * FROM company" --database sqlite:///node.db --district 440106
    """
    if snapshot and (delete or corrections):
        other = "--delete" if delete else "--corrections"
        raise InputError(f"{other} and --snapshot exclude each other.", f"{other} 与 --snapshot 不能同时使用。")
    if corrections and file is None:
        raise InputError("--corrections needs a FILE.", "--corrections 须指定文件。")
    bus = Bus(read_settings())
    url = SecretStr(database) if database else bus.settings.database if query else None
    if (file is None) == (query is None) or (query is None) != (url is None):
        raise InputError(
            "Give either FILE, or --query together with --database or SUIBUS_DATABASE.",
            "请给出 FILE，或同时给出 --query 与 --database（或 SUIBUS_DATABASE）。",
        )
    mode: Mode = "delete" if delete else "snapshot" if snapshot else "append"
    sys.exit(
        publish_rows(
            bus, dataset, district, mode, file=file, query=query, database=url, format_=format_, encoding=encoding,
            timeout=timeout, corrections=corrections,
        )
    )  # fmt: skip


def publish_rows(
    bus: Bus,
    name: str,
    district: str,
    mode: Mode = "append",
    *,
    file: Path | None = None,
    query: str | None = None,
    database: SecretStr | None = None,
    format_: str | None = None,
    encoding: str | None = None,
    timeout: float = 60.0,
    corrections: bool = False,
) -> int:
    """Publish a file or the rows of a query, print a summary, and return the exit status."""
    publisher = bus.publisher(name, district, timeout)
    dataset, delete = publisher.dataset, mode == "delete"
    if file is not None:
        source = open_source(file, dataset, format=format_, encoding=encoding, delete=delete, corrections=corrections)
    else:
        source = open_query(query or "", database or "", dataset, delete=delete)
    inbox = Inbox(bus.outbox(district).with_name("inbox.sqlite")) if corrections else nullcontext()
    with publisher.outbox, inbox as answered, _bar() as bar:
        task = bar.add_task(source.name, total=1.0, rows="")

        def show(progress: Progress) -> None:
            read = both(f"{progress.read:,} rows", f"{progress.read:,} 行")
            rows = f"{read}, {both(f'{progress.sent:,} sent', f'已发送 {progress.sent:,}')}"
            if progress.fraction is None:
                bar.update(task, rows=rows)
            else:
                bar.update(task, completed=progress.fraction, rows=rows)

        info = publish_source(publisher, source, mode, corrections=answered, progress=show)
    _say_summary(dataset, district, info)
    return info.exit_status


def _bar() -> Bar:
    return Bar(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rows]}"), TimeElapsedColumn(),
        console=Console(file=sys.stderr), transient=True, disable=not sys.stderr.isatty(),
    )  # fmt: skip


def _say_summary(dataset: Dataset, district: str, info: PublishInfo) -> None:
    waiting = (f"{info.waiting:,} wait in the outbox", f"发件箱中还有 {info.waiting:,} 条待发")
    on_the_bus = waiting if info.waiting else ("all on the bus", "全部已上总线")
    rate = info.read / info.seconds if info.seconds else 0
    say(
        f"{dataset.name} from {district}: read {info.read:,}, accepted {info.accepted:,}, deleted {info.deleted:,}, "
        f"unchanged {info.unchanged:,}, rejected {info.rejected:,}; {on_the_bus[0]} ({info.seconds:.1f} s, {rate:,.0f} rows/s)",
        f"{dataset.title}（{district}）：读取 {info.read:,}，接收 {info.accepted:,}，删除 {info.deleted:,}，"
        f"未变 {info.unchanged:,}，拒收 {info.rejected:,}；{on_the_bus[1]}（{info.seconds:.1f} 秒，每秒 {rate:,.0f} 行）",
    )
    for en, zh in info.notes:
        say(en, zh)
    if info.rejects_path:
        with info.rejects_path.open(encoding="utf-8-sig", newline="") as file:
            first = next(csv.DictReader(file), {})
        line = first.get("line")
        say(
            f"The first rejected row, line {line}: {first.get('reason')}",
            f"首个被拒行，第 {line} 行：{first.get('原因')}",
            err=True,
        )
        say(
            f"Rejected rows with their reasons: {info.rejects_path}. Correct and publish them again.",
            f"被拒行及原因见 {info.rejects_path}。请更正后重新发布这些行。",
            err=True,
        )
    if info.problem:
        say(info.problem.en, info.problem.zh, err=True)
