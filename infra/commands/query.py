"""`suibus query`: the released versions, by SQL."""

from __future__ import annotations

import click

from infra.bus.bus import Bus
from infra.settings import read_settings
from infra.terminal.query_result import write_rows


@click.command()
@click.argument("sql")
@click.option("--as", "department", metavar="DEPARTMENT", help="The department that asks; by default the city itself.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["table", "csv", "json"]),
    default="table",
    show_default=True,
    help="json: one array of row objects and nothing else.",
)
def query(sql: str, department: str | None, format_: str) -> None:
    """Query the released versions with Spark SQL. 查询已发布数据。

    \b
    suibus query "SELECT district_code, count(*) FROM grassroots_division GROUP BY 1"
    """
    from pipelines.share.query import query as run  # imported here: without Spark, --help must work

    bus = Bus(read_settings())
    write_rows(run(sql, bus.lake(), bus.store, department), format_)
