"""`suibus query`, and the commands that look: status, releases, quarantine, account, doctor."""

from __future__ import annotations

import json
import sys
from itertools import islice

import click

from infra.terminal.console import as_json, open_bus, print_json, print_json_array, print_table


@click.command()
@click.argument("sql")
@click.option("--as", "department", metavar="DEPARTMENT", help="Who asks; unset: the city itself.")
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
    from infra.terminal.output import write_rows
    from pipelines.share.query import query as run

    bus = open_bus()
    frame = run(sql, bus.lake(), bus.store, department)
    write_rows(frame, format_)


@click.command()
@as_json
def status(as_json: bool) -> None:
    """What runs, what is in force, what waits. 查看状态。"""
    from infra.bus.status import look

    found = look(open_bus()).to_json()
    if as_json:
        print_json(found)
        return
    for name in ("home", "bootstrap_servers", "broker_reachable", "running", "pipeline", "lake", "last_pass"):
        click.echo(f"{name:18} {found[name]}")
    click.echo()
    rows = []
    for d in found["datasets"]:
        last = d["last_decision"] or {}
        decision = f"{last['release']} {last['status']}" if last else "—"
        trouble = (
            [f"its topics lose records after {min(d['near_retention'].values()):.0f} days 记录将超过保留期"]
            if d["near_retention"]
            else []
        )
        trouble += ["late 超时"] if d["late"] else []
        trouble += [d["failure"].splitlines()[0]] if d["failure"] else []
        rows.append(
            (
                d["dataset"],
                d["version"],
                d["title"],
                d["sharing"],
                d["offsets_waiting"],
                decision,
                last.get("rows"),
                "; ".join(trouble),
            )
        )
    columns = ("dataset", "version", "名称", "sharing", "offsets waiting", "last decision", "rows", "trouble")
    print_table(columns, rows, "no contract is in force yet 尚无生效的契约")
    for refused in found["refused_contracts"]:
        click.echo(f"\nrefused 不予服务\n{refused['en']}\n{refused['zh']}")


@click.command()
@click.argument("dataset", required=False)
@as_json
def releases(dataset: str | None, as_json: bool) -> None:
    """Every decision of the gate, newest first, with its verdict. 查看发布记录。

    For one DATASET also what failed: observed, expected, and rows that show it. --json gives whole verdicts.
    """
    from infra.terminal.output import release_records

    found = release_records(open_bus(), dataset)
    if as_json:
        print_json(found)
        return
    rows = [
        (r["dataset"], r["release"], r["status"], r["rows"], r["silver_version"], r["contract_version"],
         r["decided_at"], ", ".join(r["failed"]), ", ".join(r["warnings"]), r["verdict_sha256"][:12])
        for r in found
    ]  # fmt: skip
    columns = (
        "dataset",
        "release",
        "status",
        "rows",
        "version",
        "contract",
        "decided at",
        "failed",
        "warnings",
        "verdict",
    )
    print_table(columns, rows, "nothing was judged yet 尚无评判记录")
    for r in found if dataset else []:
        for result in (x for x in r["verdict"]["results"] if not x["success"]):
            click.echo(
                f"\nrelease {r['release']} {r['status']}: {result['rule']} ({result['severity']}) {result['description']}"
            )
            click.echo(
                f"  observed 实测 {result['observed']}; expected 要求 {json.dumps(result['parameters'], ensure_ascii=False)}"
            )
            if result["error"]:
                click.echo(f"  could not be judged 无法评判: {result['error']}")
            for sample in result["samples"][:3]:
                click.echo(f"  such as 例如 {json.dumps(sample, ensure_ascii=False)}")


@click.command()
@click.argument("dataset", required=False)
@as_json
def quarantine(dataset: str | None, as_json: bool) -> None:
    """Every record that was refused at the door, with every reason. 查看隔离记录。"""
    from infra.terminal.output import SHOWN, each_quarantined

    found = each_quarantined(open_bus(), dataset)
    if as_json:
        print_json_array(found)
        return
    rows = [
        (r["dataset"], r["district"], f"{r['partition']}:{r['offset']}", r["key"],
         "; ".join(f"{x['rule']}: {x['reason']} {x['reason_zh']}" + (f" ({x['found']})" if x["found"] else "") for x in r["reasons"]))
        for r in islice(found, SHOWN)
    ]  # fmt: skip
    print_table(("dataset", "district", "offset", "key", "reasons 原因"), rows, "nothing is quarantined 没有隔离记录")
    if next(found, None):
        click.echo(f"(the first {SHOWN} records; --json gives all 仅显示前 {SHOWN} 条，--json 可输出全部)")


@click.command()
@click.argument("dataset", required=False)
@as_json
def account(dataset: str | None, as_json: bool) -> None:
    """Where every record went: the conservation sum of each district and dataset. 查看收支账。

    received = inserted + updated + deleted + unchanged + superseded + duplicate + quarantined
    """
    from infra.terminal.output import account_records

    found = account_records(open_bus(), dataset)
    if as_json:
        print_json(found)
        return
    columns = list(found[0]) if found else []
    print_table(columns, [tuple(r.values()) for r in found], "nothing was received yet 尚未收到数据")


@click.command()
@as_json
def doctor(as_json: bool) -> None:
    """Java, memory, disk, broker, jars, versions: each with its remedy. 检查环境。"""
    from dataclasses import asdict

    from infra.operate.doctor import examine
    from infra.settings import read_settings

    checks = examine(read_settings())
    if as_json:
        print_json([asdict(c) for c in checks])
    else:
        for c in checks:
            click.echo(f"{'ok     ' if c.ok else 'PROBLEM'}  {c.name:14} {c.found}")
            if not c.ok:
                click.echo(f"         → {c.remedy_en}\n         → {c.remedy_zh}")
    sys.exit(0 if all(c.ok for c in checks) else 1)
