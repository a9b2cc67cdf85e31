"""`suibus quarantine`: the quarantined records."""

from __future__ import annotations

from itertools import islice

import click

from infra.bus.bus import Bus
from infra.operate.listings import each_quarantined
from infra.settings import read_settings
from infra.terminal.console import SHOWN, as_json, both, print_json_array, print_table


@click.command()
@click.argument("dataset", required=False)
@as_json
def quarantine(dataset: str | None, as_json: bool) -> None:
    """Show every quarantined record with every reason. 查看隔离记录。"""
    found = each_quarantined(Bus(read_settings()), dataset)
    if as_json:
        print_json_array(found)
        return
    rows = [
        (
            r["dataset"],
            r["district"],
            f"{r['partition']}:{r['offset']}",
            r["key"],
            "; ".join(map(_reason, r["reasons"])),
        )
        for r in islice(found, SHOWN)
    ]
    columns = ("dataset", "district", "offset", "key", both("reasons", "原因"))
    print_table(columns, rows, ("nothing is quarantined", "没有隔离记录"))
    if next(found, None):
        click.echo(
            f"({both(f'the first {SHOWN} records; --json gives all', f'仅显示前 {SHOWN} 条，--json 可输出全部')})"
        )


def _reason(reason: dict[str, str]) -> str:
    found = f" ({reason['found']})" if reason["found"] else ""
    return f"{reason['rule']}: {both(reason['reason'], reason['reason_zh'])}{found}"
