"""`suibus doctor`: whether this machine has what Suibus needs."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from infra.operate.doctor import examine
from infra.settings import read_settings
from infra.terminal.console import as_json, both, print_json


@click.command()
@as_json
def doctor(as_json: bool) -> None:
    """Check Java, memory, disk, broker, jars and versions, with remedies. 检查环境。"""
    checks = examine(read_settings())
    if as_json:
        print_json([asdict(c) for c in checks])
    else:
        for c in checks:
            click.echo(f"{'ok     ' if c.ok else 'PROBLEM'}  {c.name:14} {c.found}")
            if not c.ok:
                click.echo(both(f"         → {c.remedy_en}", f"         → {c.remedy_zh}", "\n"))
    sys.exit(0 if all(c.ok for c in checks) else 1)
