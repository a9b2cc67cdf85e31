"""The command line: each command is thin and calls one function. Spark is loaded only where it is needed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import islice
from logging import ERROR
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from infra.commands.backup import backup, restore
from infra.commands.metrics import metrics
from infra.commands.node import node
from infra.commands.receipts import receipts
from infra.commands.repair import rebuild, resume
from infra.logs import logged, set_up_logging
from infra.settings import read_settings
from schemas.errors import InputError, SuibusError

if TYPE_CHECKING:
    from infra.bus import Bus
    from producers.outbox import Mode
    from schemas.dataset import Dataset

HELP = """Suibus 穗: a city's data-sharing bus, from a district's file to a department's SELECT.

\b
A district      suibus publish DATASET FILE --district CODE
An engineer     suibus contract check FILE, suibus up, suibus sync, suibus status
A department    suibus query "SELECT … FROM dataset"
Whoever asks    suibus releases, suibus quarantine, suibus account
After a fault   suibus status, suibus rebuild, suibus resume, suibus restore

The state is one folder, SUIBUS_HOME (default ./.suibus). Contracts are read from SUIBUS_CONTRACTS, folders joined
by ":", beside the built-in ones. Exit status: 0 done; 1 done, with rows rejected, a dataset failed or a breaking
change; 2 refused, nothing done; 3 something outside is away, what was accepted is kept.

各区用 publish 发布，数据工程师用 contract、up、sync、status，部门用 query 查询。
退出码：0 完成；1 完成但有被拒行、数据集失败或破坏性变更；2 被拒绝，未做任何事；3 外部服务不可用，已接收的数据均已保留。
"""


CITY = ("pyspark", "delta", "great_expectations", "py4j", "pyarrow", "pandas")
NEEDS_CITY = (
    "this command is the city's and needs its extra: pip install 'suibus[city]'",
    "该命令属于市级中心，需要安装附加组件：pip install 'suibus[city]'",
)


def _city() -> None:
    """Refuse before anything is touched where the city's libraries are not installed."""
    from importlib.util import find_spec

    if find_spec("pyspark") is None:
        raise InputError(*NEEDS_CITY)


class _Group(click.Group):
    """Prints an error a person can act on, in both languages, instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SuibusError as error:
            if not logged(error.en, error.zh, ERROR):
                click.echo(f"error: {error.en}\n错误：{error.zh}", err=True)
            sys.exit(error.exit_status)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] not in CITY:
                raise
            click.echo(f"error: {NEEDS_CITY[0]}\n错误：{NEEDS_CITY[1]}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            click.echo(
                "stopped; what was accepted is kept, and the same command goes on from there\n"
                "已中断；已接收的数据均已保留，重新执行同一命令即可继续",
                err=True,
            )
            sys.exit(130)
        except BrokenPipeError:
            sys.exit(0)
        except OSError as error:  # a state folder that is a file, is not ours to write, or has lost a file
            if error.filename is None:
                raise
            what = error.strerror or repr(error)
            click.echo(
                f"error: {error.filename}: {what}. Look at the path and its rights; SUIBUS_HOME names the state folder.\n"
                f"错误：{error.filename}：{what}。请检查该路径及其权限；状态文件夹由 SUIBUS_HOME 指定。",
                err=True,
            )
            sys.exit(2)


@click.group(cls=_Group, help=HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="suibus")
def main() -> None:
    """Set up logging; the commands do the work."""
    set_up_logging(read_settings().log_format)


def _bus() -> Bus:
    from infra.bus import Bus

    return Bus(read_settings())


def _tell(en: str, zh: str) -> None:
    if not logged(en, zh):
        click.echo(f"{time.strftime('%H:%M:%S')}  {en}\n          {zh}")


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def _print_json_array(values: Iterable[Any]) -> None:
    """One JSON array, an item at a time: there may be more than memory holds."""
    separator = "[\n"
    for value in values:
        click.echo(separator + json.dumps(value, ensure_ascii=False, default=str), nl=False)
        separator = ",\n"
    click.echo("[]" if separator == "[\n" else "\n]")


def _print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], empty: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    listed = list(rows)
    for row in listed:
        table.add_row(
            *("" if v is None else f"{v:,}" if isinstance(v, int) and not isinstance(v, bool) else str(v) for v in row)
        )
    if listed:
        console = Console(width=None if sys.stdout.isatty() else 180, highlight=False, markup=False)
        console.print(table)
    else:
        click.echo(empty)


as_json = click.option("--json", "as_json", is_flag=True, help="One JSON value on standard output and nothing else.")


# ── running ──────────────────────────────────────────────────────────────────────────────────────────────────


@main.command()
@click.option("--detach", is_flag=True, help="Return when all is ready and leave it running.")
@click.option("--services-only", is_flag=True, help="The broker and the topics, without the pipeline.")
@click.option("--secure", is_flag=True, help="Let nobody in without credentials (suibus node), from now on.")
def up(detach: bool, services_only: bool, secure: bool) -> None:
    """Run the bus: broker, contracts, pipeline. 启动总线。

    Starts a Kafka broker (unless SUIBUS_BOOTSTRAP_SERVERS names one), puts the contracts in force, makes their
    topics, and takes what is published through to release until `suibus down` or Ctrl-C. Contracts added or
    changed meanwhile are picked up. It starts again where it stopped.
    """
    _city()
    bus = _bus()
    if detach:
        bus.start_detached(services_only, _tell, secure=secure)
    else:
        bus.run(services_only, _tell, secure=secure)


@main.command()
def down() -> None:
    """Stop the bus of this state folder. 停止总线。

    A pass under way is finished first. Doing it again does nothing.
    """
    bus = _bus()
    if bus.pid():
        _tell("stopping; a pass under way is finished first", "正在停止；会先完成正在进行的一轮")
    if bus.down():
        _tell("stopped", "已停止")
    else:
        _tell("nothing was running", "没有正在运行的总线")


@main.command()
@click.argument("datasets", nargs=-1, metavar="[DATASET]…")
def sync(datasets: tuple[str, ...]) -> None:
    """Bring everything up to the end of what is published, once, and stop. 同步一次。

    Ingests all topics, then merges, judges and releases the datasets named (all, if none is) and those with new
    records. Exit status 1 if a dataset failed. A release that is held is the gate doing its work: it is printed, and `suibus releases` lists it.
    """
    _city()
    bus = _bus()
    bus.adopt_contracts(_tell)
    bus.flush_outboxes()
    only = {_dataset(bus, name).id for name in datasets} if datasets else None
    info = bus.sync(only, _tell)
    if not (any(info.ingested.values()) or info.merges or info.releases or info.failures):
        _tell("nothing new", "没有新数据")
    sys.exit(1 if info.failures else 0)


def _dataset(bus: Bus, name: str) -> Dataset:
    known = bus.store.datasets()
    found = [d for d in known.values() if name in (d.name, d.id)]
    if not found:
        names = ", ".join(sorted({d.name for d in known.values()})) or "none / 无"
        raise InputError(
            f"Dataset {name!r} is not in force here. In force: {names}.",
            f"数据集 {name!r} 未生效。已生效：{names}。",
        )
    return max(found, key=lambda d: d.major)


@main.command()
def demo() -> None:
    """Run the whole road on Guangzhou's eleven district registers. 运行演示。

    Uses a state folder of its own (SUIBUS_HOME, default ./.suibus-demo), made anew; leaves nothing running.
    """
    from infra.demo.rounds import run

    _city()
    run(_tell)


# ── a district ───────────────────────────────────────────────────────────────────────────────────────────────


@main.command()
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
    from infra.publish import publish_command

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
        publish_command(_bus(), dataset, district, mode, file, query, database, format_, encoding, timeout, corrections)
    )


@main.command()
@click.option("--district", required=True, metavar="CODE", help="The district whose outbox is sent.")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait for a broker that is away.")
def flush(district: str, timeout: float) -> None:
    """Send what waits in a district's outbox. 发送待发数据。"""
    from producers.sender import flush as send
    from schemas.dataset import check_district

    bus = _bus()
    path = bus.outbox(check_district(district))
    if not path.exists():
        raise InputError(
            f"District {district} has no outbox here ({path}): nothing was ever published.",
            f"此处没有 {district} 的发件箱（{path}）：从未发布过数据。",
        )
    info = send(path, bus.bootstrap, timeout, client=bus.security)
    _tell(f"sent {info.sent:,} records", f"已发送 {info.sent:,} 条记录")


# ── contracts ────────────────────────────────────────────────────────────────────────────────────────────────


@main.group()
def contract() -> None:
    """Check, show and compare contracts. 数据契约。"""


@contract.command("check")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@as_json
def contract_check(files: tuple[Path, ...], as_json: bool) -> None:
    """Whether contracts can be served; every problem with its line. 检查契约。

    Without FILE, all contracts of the folders in force.
    """
    from schemas.contract import load_contract, load_contracts
    from schemas.errors import ContractError

    bus = _bus()
    problems: list[ContractError] = []
    if files:
        good = []
        for path in files:
            try:
                good.append(load_contract(path))
            except ContractError as error:
                problems.append(error)
    else:
        found, problems = load_contracts(bus.folders)
        good = list(found.values())
    if as_json:
        _print_json(
            {
                "served": [{"dataset": d.name, "version": d.version, "path": d.path} for d in good],
                "refused": [{"en": e.en, "zh": e.zh} for e in problems],
            }
        )
    else:
        for d in good:
            click.echo(
                f"ok  {d.path}: {d.name} {d.version} {d.title}: {len(d.fields)} columns 列, key 主键 {', '.join(d.key)}, "
                f"{len(d.rules)} rules 规则"
            )
        for problem in problems:
            click.echo(f"refused 不予服务\n{problem.en}\n{problem.zh}", err=True)
    sys.exit(2 if problems else 0)


@contract.command("show")
@click.argument("dataset")
@click.option("--as", "form", type=click.Choice(["avro", "ddl", "suite"]), help="What is derived from it.")
def contract_show(dataset: str, form: str | None) -> None:
    """A contract as a page, or what is derived from it. 查看契约。

    avro: the Avro schema; ddl: the shared table; suite: the Great Expectations suite.
    """
    from schemas.contract import find_dataset

    found = find_dataset(dataset, _bus().folders)
    if form == "avro":
        from schemas.avro import avro_schema

        _print_json(avro_schema(found))
    elif form == "ddl":
        from pipelines.tables import ddl

        click.echo(ddl(found))
    elif form == "suite":
        from quality.rules import suite

        _print_json(suite(found))
    else:
        from schemas.page import page

        click.echo(page(found))


@contract.command("diff")
@click.argument("files", nargs=-1, required=True, metavar="OLD… NEW", type=click.Path(path_type=Path))
@as_json
def contract_diff(files: tuple[Path, ...], as_json: bool) -> None:
    """Grade a change of a contract; exit status 1 if it breaks somebody. 比较契约。

    With several OLD files, oldest first, NEW is held against each: a record of any of them may still be on the way.
    """
    from schemas.compatibility import compare
    from schemas.contract import load_contract

    if len(files) < 2:
        raise InputError("Give the old contract and the new one.", "请给出旧契约和新契约。")
    *olds, new = [load_contract(path) for path in files]
    changes = list(dict.fromkeys(change for old in olds for change in compare(old, new)))
    breaking = any(c.breaking for c in changes)
    if as_json:
        listed = [{"breaking": c.breaking, "where": c.where, "en": c.en, "zh": c.zh} for c in changes]
        _print_json({"breaking": breaking, "changes": listed})
    else:
        for c in changes:
            click.echo(f"{'breaking 破坏性' if c.breaking else 'compatible 兼容'}  {c.en}\n    {c.zh}")
        if not changes:
            click.echo("no change that matters to anyone 没有实质变化")
        elif breaking:
            click.echo(
                f"Undo the breaking changes, or start version {new.major + 1}. 请撤销破坏性变更，或使用主版本 {new.major + 1}。"
            )
    sys.exit(1 if breaking else 0)


# ── a department ─────────────────────────────────────────────────────────────────────────────────────────────


@main.command()
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
    from infra.output import write_rows
    from pipelines.share import query as run

    bus = _bus()
    frame = run(sql, bus.lake(), bus.store, department)
    write_rows(frame, format_)


# ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────


@main.command()
@as_json
def status(as_json: bool) -> None:
    """What runs, what is in force, what waits. 查看状态。"""
    found = _bus().status()
    if as_json:
        _print_json(found)
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
    _print_table(columns, rows, "no contract is in force yet 尚无生效的契约")
    for refused in found["refused_contracts"]:
        click.echo(f"\nrefused 不予服务\n{refused['en']}\n{refused['zh']}")


@main.command()
@click.argument("dataset", required=False)
@as_json
def releases(dataset: str | None, as_json: bool) -> None:
    """Every decision of the gate, newest first, with its verdict. 查看发布记录。

    For one DATASET also what failed: observed, expected, and rows that show it. --json gives whole verdicts.
    """
    from infra.output import release_records

    found = release_records(_bus(), dataset)
    if as_json:
        _print_json(found)
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
    _print_table(columns, rows, "nothing was judged yet 尚无评判记录")
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


@main.command()
@click.argument("dataset", required=False)
@as_json
def quarantine(dataset: str | None, as_json: bool) -> None:
    """Every record that was refused at the door, with every reason. 查看隔离记录。"""
    from infra.output import SHOWN, each_quarantined

    found = each_quarantined(_bus(), dataset)
    if as_json:
        _print_json_array(found)
        return
    rows = [
        (r["dataset"], r["district"], f"{r['partition']}:{r['offset']}", r["key"],
         "; ".join(f"{x['rule']}: {x['reason']} {x['reason_zh']}" + (f" ({x['found']})" if x["found"] else "") for x in r["reasons"]))
        for r in islice(found, SHOWN)
    ]  # fmt: skip
    _print_table(("dataset", "district", "offset", "key", "reasons 原因"), rows, "nothing is quarantined 没有隔离记录")
    if next(found, None):
        click.echo(f"(the first {SHOWN} records; --json gives all 仅显示前 {SHOWN} 条，--json 可输出全部)")


@main.command()
@click.argument("dataset", required=False)
@as_json
def account(dataset: str | None, as_json: bool) -> None:
    """Where every record went: the conservation sum of each district and dataset. 查看收支账。

    received = inserted + updated + deleted + unchanged + superseded + duplicate + quarantined
    """
    from infra.output import account_records

    found = account_records(_bus(), dataset)
    if as_json:
        _print_json(found)
        return
    columns = list(found[0]) if found else []
    _print_table(columns, [tuple(r.values()) for r in found], "nothing was received yet 尚未收到数据")


@main.command()
@as_json
def doctor(as_json: bool) -> None:
    """Java, memory, disk, broker, jars, versions: each with its remedy. 检查环境。"""
    from dataclasses import asdict

    from infra.doctor import examine

    checks = examine(read_settings())
    if as_json:
        _print_json([asdict(c) for c in checks])
    else:
        for c in checks:
            click.echo(f"{'ok     ' if c.ok else 'PROBLEM'}  {c.name:14} {c.found}")
            if not c.ok:
                click.echo(f"         → {c.remedy_en}\n         → {c.remedy_zh}")
    sys.exit(0 if all(c.ok for c in checks) else 1)


main.add_command(metrics)
main.add_command(backup)
main.add_command(restore)
main.add_command(node)
main.add_command(receipts)
main.add_command(rebuild)
main.add_command(resume)

if __name__ == "__main__":
    main()
