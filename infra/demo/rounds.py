"""`suibus demo`: the whole route with the registers of Guangzhou's eleven districts, in two rounds.

The deliveries of the second round are made here from those of the first: renamed, new and closed communities, a row that
breaks a row rule, and half a file, which breaks a dataset rule.
"""

from __future__ import annotations

import csv
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import click

from infra.bus.bus import Bus
from infra.operate.listings import account_records, quarantined_records, release_records
from infra.settings import Settings, read_settings
from infra.terminal.console import both
from infra.terminal.query_result import write_rows
from infra.up.process import stop
from pipelines.fates import FATES
from producers.publish.delivery import PublishInfo, publish_source
from producers.sources.files import open_source
from schemas.dataset import Dataset
from schemas.districts import districts
from schemas.errors import StateError
from schemas.progress_messages import Tell

REGISTER = Path(__file__).parent / "register"
DEPARTMENT = "民政局"
BY_DISTRICT = "SELECT district_code, count(*) AS communities FROM grassroots_division GROUP BY 1 ORDER BY 1"
_MARK = "made-by-suibus-demo"
_STATE = ("kafka", "run", "contracts", "nodes", "lake", "spark", "deliveries")
Row = dict[str, str]


def run(tell: Tell) -> None:
    """Run both rounds in an emptied state folder, and stop everything that was started."""
    started = time.monotonic()
    found = read_settings()
    named = "home" in found.model_fields_set
    home = found.home if named else Path(".suibus-demo")
    settings = found.of_own_home(home)
    make_anew(settings, ours=not named)
    bus = Bus(settings)
    try:
        tell(f"Kafka answers at {bus.broker.start(tell)}", "Kafka 已就绪")
        bus.adopt_contracts(tell)
        dataset = bus.store.datasets()["grassroots_division.v1"]
        _first_round(bus, dataset, tell)
        _second_round(bus, dataset, tell)
        _show_records(bus, dataset)
        lake = bus.lake()
        lake.spark.stop()
    finally:
        bus.broker.stop()
    seconds = time.monotonic() - started
    tell(f"done in {seconds:.0f} s; nothing is left running", f"完成，用时 {seconds:.0f} 秒；没有遗留进程")
    again = f"SUIBUS_HOME={settings.home} .venv/bin/suibus releases"
    tell(f"look at it again: {again}", f"再次查看：{again}")


def make_anew(settings: Settings, ours: bool = False) -> None:
    """Delete the state of an earlier demo. StateError, and nothing is changed, if the folder holds the state of something else.

    `ours`: the folder is the demo's own by its name. Any other folder must hold the mark of an earlier demo, or no state.
    """
    home, mark = settings.home, settings.home / _MARK
    state = [home / name for name in _STATE if (home / name).exists()]
    if state and not (ours or mark.exists()):
        raise StateError(
            f"{home} holds {state[0].name}, and no earlier demo made it. The demo would delete it, so nothing was done. "
            "Unset SUIBUS_HOME, or set it to an empty folder.",
            f"{home} 中已有 {state[0].name}，且并非演示所建。演示会将其删除，因此未作任何操作。"
            "请取消 SUIBUS_HOME，或将其设为一个空文件夹。",
        )
    home.mkdir(parents=True, exist_ok=True)
    mark.touch()
    if state:
        stop(Bus(settings))
    for folder in state:
        shutil.rmtree(folder, ignore_errors=True)


def _first_round(bus: Bus, dataset: Dataset, tell: Tell) -> None:
    _title("Round 1: eleven nodes publish their registers", "第一轮：十一个区发布基层行政区划名录")
    for code, name in districts().items():
        info = _publish(bus, dataset, code, REGISTER / f"{code}.csv")
        click.echo(
            f"  {code} {name}  {info.accepted:>4} {both('rows validated and sent', '行已校验并发送')}, "
            f"{info.rejected} {both('rejected', '行被拒')}"
        )
    bus.sync(tell=tell)
    _query(bus, BY_DISTRICT)


def _second_round(bus: Bus, dataset: Dataset, tell: Tell) -> None:
    _title("Round 2: changes, and one row that breaks a row rule", "第二轮：变更数据，其中一行违反行规则")
    folder = bus.home / "deliveries"
    folder.mkdir(parents=True, exist_ok=True)
    changes: dict[str, Callable[[list[Row]], list[Row]]] = {"440106": _tianhe, "440104": _yuexiu}
    for code, change in changes.items():
        path = _write(folder / f"{code}.csv", change(_read(code)))
        info = _publish(bus, dataset, code, path)
        click.echo(
            f"  {code} {districts()[code]}  {both('new or changed', '新增或变更')} {info.accepted}, "
            f"{both('gone', '删除')} {info.deleted}, {both('unchanged', '未变')} {info.unchanged}"
        )
    bus.sync(tell=tell)
    for record in quarantined_records(bus, dataset.name):
        click.echo(
            f"  {both('quarantined', '已隔离')}: {record['key']}, {record['topic']} {record['partition']}:{record['offset']}"
        )
        for reason in record["reasons"]:
            click.echo(f"    {reason['rule']}: {both(reason['reason'], reason['reason_zh'])}")
    _query(
        bus,
        "SELECT code, name, street_name FROM grassroots_division WHERE code LIKE '440106001%' ORDER BY code LIMIT 4",
    )

    _title(
        "Half a file: the release is held, departments keep the last good version",
        "残缺交付：暂缓发布，部门仍看到上一个合格版本",
    )
    whole = _read("440111")
    info = _publish(bus, dataset, "440111", _write(folder / "440111-half.csv", whole[:40]))
    gone, unchanged = both("gone", "删除"), both("unchanged", "未变")
    click.echo(f"  440111 {districts()['440111']}  {gone} {info.deleted}, {unchanged} {info.unchanged}")
    bus.sync(tell=tell)
    _query(bus, "SELECT count(*) AS communities_of_440111 FROM grassroots_division WHERE district_code = '440111'")

    _title("The corrected delivery is released", "更正后的交付获准发布")
    info = _publish(bus, dataset, "440111", _write(folder / "440111.csv", whole))
    click.echo(
        f"  440111 {districts()['440111']}  {both('back', '恢复')} {info.accepted}, {unchanged} {info.unchanged}"
    )
    bus.sync(tell=tell)
    _query(bus, BY_DISTRICT)


def _show_records(bus: Bus, dataset: Dataset) -> None:
    _title("What was shared, and where every record went", "发布记录与收支账")
    for record in reversed(release_records(bus, dataset.name)):
        failed = ", ".join(record["failed"] + record["warnings"]) or both("all rules hold", "全部规则通过")
        click.echo(
            f"  release {record['release']} {record['status']:8} {record['rows']:,} rows, version "
            f"{record['silver_version']}, verdict {record['verdict_sha256'][:12]}: {failed}"
        )
    for sums in account_records(bus, dataset.name):
        fates = " + ".join(f"{sums[fate]} {fate}" for fate in FATES if sums[fate])
        click.echo(
            f"  {sums['district']}  {sums['received']} received = {fates}  {'✓' if sums['closes'] else '✗ ' + both('does not close', '不平')}"
        )


def _tianhe(rows: list[Row]) -> list[Row]:
    """Two communities renamed, one new, two closed."""
    for row in rows[:2]:
        row["name"] = row["name"].replace("居委会", "居民委员会")
    new = {**rows[2], "code": "440106001999", "name": "科学城社区居委会"}
    return [*rows[:-2], new]


def _yuexiu(rows: list[Row]) -> list[Row]:
    """One community gets a street that does not match its code."""
    rows[0] = {**rows[0], "street_code": "440104999"}
    return rows


def _read(code: str) -> list[Row]:
    with (REGISTER / f"{code}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _write(path: Path, rows: list[Row]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def _publish(bus: Bus, dataset: Dataset, code: str, path: Path) -> PublishInfo:
    publisher = bus.publisher(dataset.name, code)
    with publisher.outbox:
        info = publish_source(publisher, open_source(path, dataset), "snapshot")
    if info.problem:
        raise info.problem
    return info


def _query(bus: Bus, sql: str) -> None:
    from pipelines.share.query import query  # the light install has no Spark

    click.echo(f'\n$ suibus query --as {DEPARTMENT} "{sql}"')
    write_rows(query(sql, bus.lake(), bus.store, DEPARTMENT), "table")


def _title(en: str, zh: str) -> None:
    click.echo(f"\n── {both(en, zh, ' · ')} " + "─" * 8)
