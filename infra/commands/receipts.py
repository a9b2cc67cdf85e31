"""`suibus receipts`: what the city refused of a district's records, read, acknowledged and exported on the node's side."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from infra.bus.bus import Bus
    from producers.inbox import Held, Inbox
    from schemas.dataset import Dataset

SHOWN = 200  # receipts on a terminal
_COLUMNS = ("receipt 回执", "dataset", "key", "rules", "reason 原因", "refused at")


@click.command()
@click.argument("dataset", required=False)
@click.option("--district", required=True, metavar="CODE", help="The district whose receipts these are.")
@click.option(
    "--acknowledge", multiple=True, metavar="ID|all", help="Mark fetched receipts as seen; may be given several times."
)
@click.option(
    "--csv",
    "file",
    type=click.Path(path_type=Path),
    help="Write the open receipts of DATASET, to be corrected and published with --corrections.",
)
@click.option("--timeout", default=30.0, show_default=True, help="Seconds to wait for a bus that is away.")
@click.option("--json", "as_json", is_flag=True, help="Every receipt, also those that are not open any more, as JSON.")
def receipts(
    dataset: str | None, district: str, acknowledge: Sequence[str], file: Path | None, timeout: float, as_json: bool
) -> None:
    """What the city refused of a district's records, and why. 查看回执。

    Fetches what is new and lists the open ones, of one DATASET or all. A receipt is open until it is acknowledged, or
    until a corrected row that answers it was published. With the bus away it lists what was fetched before (exit
    status 3). --acknowledge fetches nothing: it marks what you have seen.
    """
    from infra.bus.bus import Bus
    from infra.settings import read_settings
    from producers.inbox import Inbox
    from schemas.contract import find_dataset
    from schemas.dataset import check_district
    from schemas.errors import InputError

    if file and not dataset:
        raise InputError("--csv needs DATASET: its columns are the contract's.", "--csv 须指定数据集：各列即契约的列。")
    check_district(district)
    bus = Bus(read_settings())
    found = find_dataset(dataset, bus.folders) if dataset else None
    only = found.id if found else None
    with Inbox(bus.outbox(district).with_name("inbox.sqlite")) as inbox:
        if acknowledge:
            count = _acknowledge(inbox, district, only, acknowledge)
            click.echo(f"{count:,} receipts acknowledged\n已确认 {count:,} 条回执")
            return
        status = _fetch(bus, inbox, district, timeout)
        if file and found:
            _write(inbox, found, district, file)
        elif as_json:
            _print_all(inbox, only)
        else:
            _print(inbox, only)
    sys.exit(status)


def _fetch(bus: Bus, inbox: Inbox, district: str, timeout: float) -> int:
    """Bring the inbox up to date; 3 where that was not possible, and why is told."""
    from infra.settings import access_by
    from producers.inbox import fetch_receipts
    from producers.outbox import Outbox
    from schemas.errors import UnavailableError

    if inbox.outbox_path.exists():
        with Outbox(inbox.outbox_path) as outbox:
            inbox.note_answers(outbox)  # of a publish that was killed
    try:
        info = fetch_receipts(inbox, access_by(bus.address, bus.security), district, timeout)
    except UnavailableError as error:
        click.echo(f"{error.en}\n{error.zh}", err=True)
        return error.exit_status
    for en, zh in info.notes:
        click.echo(f"{en}\n{zh}", err=True)
    return 0


def _acknowledge(inbox: Inbox, district: str, only: str | None, ids: Sequence[str]) -> int:
    from schemas.errors import InputError
    from schemas.wire.receipt import receipt_place

    if "all" in ids:
        held = [h.receipt for h in inbox.receipts("new", only)]
        return inbox.set_state([(r.topic, r.partition, r.offset) for r in held], "acknowledged")
    places = []
    for text in ids:
        place = receipt_place(text, district)
        if place is None or inbox.find(*place) is None:
            raise InputError(
                f"{text!r} is no receipt that was fetched. Write it as `suibus receipts` shows it; nothing was marked.",
                f"没有获取过回执 {text!r}。请按 `suibus receipts` 所示填写；未作任何标记。",
            )
        places.append(place)
    return inbox.set_state(places, "acknowledged")


def _print_all(inbox: Inbox, only: str | None) -> None:
    from infra.terminal.console import print_json_array

    print_json_array(
        {"receipt": h.receipt.id, "state": h.state, "since": h.since, **asdict(h.receipt)}
        for h in inbox.receipts(dataset_id=only)
    )


def _print(inbox: Inbox, only: str | None) -> None:
    from infra.terminal.console import print_table

    found = inbox.receipts("new", only)
    rows = [_row(held) for held in islice(found, SHOWN)]
    print_table(_COLUMNS, rows, "no receipt is open 没有待处理的回执")
    if next(found, None):
        click.echo(f"(the first {SHOWN}; --json gives all 仅显示前 {SHOWN} 条，--json 可输出全部)")


def _row(held: Held) -> tuple[str, ...]:
    r = held.receipt
    rules = ", ".join(reason.rule for reason in r.reasons)
    reasons = "; ".join(
        f"{x.reason} {x.reason_zh}" + (f" ({x.column}: {x.found[:60]})" if x.found else "") for x in r.reasons
    )
    return r.short_id, r.dataset, _line(r.key or ""), _line(rules), _line(reasons), r.refused_at


def _line(text: str) -> str:
    """On one line, and nothing in it that a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in text)


def _write(inbox: Inbox, dataset: Dataset, district: str, file: Path) -> None:
    """The open receipts of rows as a CSV that Excel opens and `suibus publish --corrections` takes; never over a file."""
    from producers.sources.source import RECEIPT_COLUMNS
    from schemas.errors import InputError

    try:
        out = file.open("x", encoding="utf-8-sig", newline="")
    except FileExistsError:
        raise InputError(
            f"{file} exists already and may hold corrections. Name another file.",
            f"{file} 已存在，其中可能有更正内容。请换一个文件名。",
        ) from None
    rows = deletions = 0
    names = [f.name for f in dataset.fields]
    with out:
        writer = csv.writer(out)
        writer.writerow([*RECEIPT_COLUMNS, *names])
        for held in inbox.receipts("new", dataset.id):
            receipt = held.receipt
            if receipt.deleted:
                deletions += 1
                continue
            writer.writerow([*_first(receipt.short_id, receipt.reasons), *_cells(receipt.record or {}, names)])
            rows += 1
    click.echo(
        f"{rows:,} receipts written to {file}. Correct the rows, delete those that you leave as they are, and publish:\n"
        f"已将 {rows:,} 条回执写入 {file}。请更正各行，删去不更正的行，然后发布："
    )
    click.echo(f"  suibus publish {dataset.name} {file} --district {district} --corrections")
    if deletions:
        click.echo(
            f"{deletions:,} refused deletions are not among them: publish them again with --delete.\n"
            f"其中不含 {deletions:,} 条被拒的删除：请用 --delete 重新发布。"
        )


def _first(receipt: str, reasons: Sequence[Any]) -> list[str]:
    return [receipt, "; ".join(r.reason for r in reasons), "；".join(r.reason_zh for r in reasons)]


def _cells(record: Any, names: Sequence[str]) -> list[str]:
    return [record.get(name) or "" for name in names]
