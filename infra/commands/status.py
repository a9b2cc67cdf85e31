"""`suibus status`: what runs, what is in force, what waits."""

from __future__ import annotations

from typing import Any

import click

from infra.bus.bus import Bus
from infra.bus.status import read_status
from infra.settings import read_settings
from infra.terminal.console import as_json, both, print_json, print_table, say
from schemas.errors import first_line


@click.command()
@as_json
def status(as_json: bool) -> None:
    """Show what runs, what is in force and what waits. 查看状态。"""
    found = read_status(Bus(read_settings())).to_json()
    if as_json:
        print_json(found)
        return
    for name in ("home", "bootstrap_servers", "broker_reachable", "running", "pipeline", "lake", "last_pass"):
        click.echo(f"{name:18} {found[name]}")
    click.echo()
    columns = ("dataset", "version", "名称", "sharing", "offsets waiting", "last decision", "rows", "trouble")
    print_table(columns, map(_row, found["datasets"]), ("no contract is in force yet", "尚无生效的契约"))
    for refused in found["refused_contracts"]:
        click.echo(f"\n{both('refused', '已拒绝，未生效')}")
        say(refused["en"], refused["zh"])


def _row(found: dict[str, Any]) -> tuple[Any, ...]:
    last = found["last_decision"] or {}
    trouble = []
    if days := found["near_retention"].values():
        trouble.append(
            both(
                f"its topics lose records after {min(days):.0f} days", f"主题保留 {min(days):.0f} 天，记录将超过保留期"
            )
        )
    if found["late"]:
        trouble.append(both("late", "超时"))
    if found["failure"]:
        trouble.append(first_line(found["failure"]))
    return (
        found["dataset"],
        found["version"],
        found["title"],
        found["sharing"],
        found["offsets_waiting"],
        f"{last['release']} {last['status']}" if last else "—",
        last.get("rows"),
        "; ".join(trouble),
    )
