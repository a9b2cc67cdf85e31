"""`suibus account`: what became of the records of each district and dataset."""

from __future__ import annotations

import click

from infra.bus.bus import Bus
from infra.operate.listings import account_records
from infra.settings import read_settings
from infra.terminal.console import as_json, print_json, print_table


@click.command()
@click.argument("dataset", required=False)
@as_json
def account(dataset: str | None, as_json: bool) -> None:
    """Show for each district and dataset what became of its records. 查看收支账。

    received = inserted + updated + deleted + unchanged + superseded + duplicate + quarantined
    """
    found = account_records(Bus(read_settings()), dataset)
    if as_json:
        print_json(found)
        return
    columns = list(found[0]) if found else []
    print_table(columns, [tuple(r.values()) for r in found], ("no record was received yet", "尚未收到任何记录"))
