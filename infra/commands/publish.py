"""`suibus publish` and `flush`: a district's side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from infra.terminal.console import open_bus, tell
from schemas.errors import InputError

if TYPE_CHECKING:
    from producers.outbox import Mode


@click.command()
@click.argument("dataset")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--district", required=True, metavar="CODE", help="The publishing district's six-digit code.")
@click.option("--delete", is_flag=True, help="The rows name keys to delete.")
@click.option("--snapshot", is_flag=True, help="The file is the whole: publish only what differs from the last one.")
@click.option("--corrections", is_flag=True, help="Each row answers the receipt in its column _receipt.")
@click.option("--query", metavar="SQL", help="Publish the rows of a query instead of a file.")
@click.option("--database", metavar="URL", help="The query's database, as an SQLAlchemy URL.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["csv", "jsonl", "parquet", "avro"]),
    help="If the name does not say.",
)
@click.option("--encoding", help="Of a CSV or JSON Lines file; utf-8 unless given, gb18030 for Excel's.")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait for a broker that is away.")
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

    FILE is CSV, JSON Lines, Parquet or an Avro container. Every row is validated first; a bad one goes, with all
    its reasons, to FILE's .rejects.csv and never stops the good ones (exit status 1). What was accepted survives
    a crash and a broker that is away (exit status 3); `suibus flush` or the next publish sends it.

    \b
    suibus publish grassroots_division 440106.csv --district 440106 --snapshot
    suibus publish enterprise --query "SELECT * FROM company" --database sqlite:///node.db --district 440106
    """
    from infra.terminal.publish import publish_command

    if snapshot and (delete or corrections):
        other = "--delete" if delete else "--corrections"
        raise InputError(f"{other} and --snapshot exclude each other.", f"{other} 与 --snapshot 不能同时使用。")
    if corrections and file is None:
        raise InputError("--corrections needs a FILE.", "--corrections 须指定文件。")
    if (file is None) == (query is None) or (query is None) != (database is None):
        raise InputError(
            "Give either FILE, or --query together with --database.",
            "请给出 FILE，或同时给出 --query 与 --database。",
        )
    mode: Mode = "delete" if delete else "snapshot" if snapshot else "append"
    sys.exit(
        publish_command(
            open_bus(), dataset, district, mode, file, query, database, format_, encoding, timeout, corrections
        )
    )


@click.command()
@click.option("--district", required=True, metavar="CODE", help="The district whose outbox is sent.")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait for a broker that is away.")
def flush(district: str, timeout: float) -> None:
    """Send what waits in a district's outbox. 发送待发数据。"""
    from infra.settings import access_by
    from producers.send.sender import flush as send
    from schemas.dataset import check_district

    bus = open_bus()
    path = bus.outbox(check_district(district))
    if not path.exists():
        raise InputError(
            f"District {district} has no outbox here ({path}): nothing was ever published.",
            f"此处没有 {district} 的发件箱（{path}）：从未发布过数据。",
        )
    info = send(path, access_by(bus.bootstrap, bus.security), timeout, transport=bus.settings.transport)
    tell(f"sent {info.sent:,} records", f"已发送 {info.sent:,} 条记录")
