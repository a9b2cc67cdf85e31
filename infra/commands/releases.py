"""`suibus releases`: the decisions of the gate."""

from __future__ import annotations

import json

import click

from infra.bus.bus import Bus
from infra.operate.listings import release_records
from infra.settings import read_settings
from infra.terminal.console import as_json, both, print_json, print_table

_COLUMNS = (
    "dataset", "release", "status", "rows", "version", "contract", "decided at", "failed", "warnings", "verdict",
)  # fmt: skip


@click.command()
@click.argument("dataset", required=False)
@as_json
def releases(dataset: str | None, as_json: bool) -> None:
    """Show every decision of the gate with its verdict, newest first. 查看发布记录。

    For one DATASET also what failed: observed and expected values, and failing rows. --json prints whole verdicts.
    """
    found = release_records(Bus(read_settings()), dataset)
    if as_json:
        print_json(found)
        return
    rows = [
        (r["dataset"], r["release"], r["status"], r["rows"], r["silver_version"], r["contract_version"],
         r["decided_at"], ", ".join(r["failed"]), ", ".join(r["warnings"]), r["verdict_sha256"][:12])
        for r in found
    ]  # fmt: skip
    print_table(_COLUMNS, rows, ("nothing was judged yet", "尚无评判记录"))
    for r in found if dataset else []:
        for result in (x for x in r["verdict"]["results"] if not x["success"]):
            rule = f"{result['rule']} ({result['severity']}) {result['description']}"
            click.echo(f"\nrelease {r['release']} {r['status']}: {rule}")
            expected = json.dumps(result["parameters"], ensure_ascii=False)
            click.echo(f"  {both('observed', '实测')} {result['observed']}; {both('expected', '要求')} {expected}")
            if result["error"]:
                click.echo(f"  {both('could not be judged', '无法评判')}: {result['error']}")
            for sample in result["samples"][:3]:
                click.echo(f"  {both('such as', '例如')} {json.dumps(sample, ensure_ascii=False)}")
