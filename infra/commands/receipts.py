"""`suibus receipts`: list, acknowledge and export a district's receipts, on its node."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import click

from infra.bus.bus import Bus
from infra.operate.receipts import ToCorrect, write_to_correct
from infra.operate.receipts import acknowledge as mark_seen
from infra.settings import read_settings
from infra.terminal.console import SHOWN, both, print_json_array, print_table, say
from producers.fetch_receipts import fetch_receipts
from producers.inbox import Inbox, StoredReceipt
from producers.outbox import Outbox
from schemas.contract_folders import find_dataset
from schemas.districts import check_district
from schemas.errors import InputError, UnavailableError


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
    help="Write the open receipts of DATASET to a file; correct it and publish it with --corrections.",
)
@click.option("--timeout", default=30.0, show_default=True, help="Seconds to wait for a bus that does not answer.")
@click.option("--json", "as_json", is_flag=True, help="Print every receipt, also those no longer open, as JSON.")
def receipts(
    dataset: str | None, district: str, acknowledge: Sequence[str], file: Path | None, timeout: float, as_json: bool
) -> None:
    """Show which of a district's records the city refused, and why. 查看回执。

    Fetches new receipts and lists the open ones, of one DATASET or of all. A receipt is open until it is acknowledged,
    or until a corrected row that answers it is published. If the bus does not answer, lists what was fetched before
    (exit status 3). --acknowledge fetches nothing: it marks receipts that were fetched before.
    """
    if file and not dataset:
        raise InputError("--csv needs DATASET: its columns are the contract's.", "--csv 须指定数据集：各列即契约的列。")
    check_district(district)
    bus = Bus(read_settings())
    found = find_dataset(dataset, bus.contracts.folders) if dataset else None
    only = found.id if found else None
    with Inbox(bus.outbox(district).with_name("inbox.sqlite")) as inbox:
        if acknowledge:
            count = mark_seen(inbox, district, only, acknowledge)
            say(f"{count:,} receipts acknowledged", f"已确认 {count:,} 条回执")
            return
        status = _fetch(bus, inbox, district, timeout)
        if file and found:
            _say_written(write_to_correct(inbox, found, file), found.name, file, district)
        elif as_json:
            _print_all(inbox, only)
        else:
            _print(inbox, only)
    sys.exit(status)


def _fetch(bus: Bus, inbox: Inbox, district: str, timeout: float) -> int:
    """Bring the inbox up to date; the exit status. If the bus does not answer: 3, and the reason is printed."""
    if inbox.outbox_path.exists():
        with Outbox(inbox.outbox_path) as outbox:
            inbox.note_answers(outbox)  # of a publish that was killed
    try:
        info = fetch_receipts(inbox, bus.access_when_up, district, timeout)
    except UnavailableError as error:
        say(error.en, error.zh, err=True)
        return error.exit_status
    for en, zh in info.notes:
        say(en, zh, err=True)
    return 0


def _print_all(inbox: Inbox, only: str | None) -> None:
    print_json_array(
        {"receipt": h.receipt.id, "state": h.state, "since": h.since, **asdict(h.receipt)}
        for h in inbox.receipts(dataset_id=only)
    )


def _print(inbox: Inbox, only: str | None) -> None:
    found = inbox.receipts("new", only)
    rows = [_row(held) for held in islice(found, SHOWN)]
    columns = (both("receipt", "回执"), "dataset", "key", "rules", both("reason", "原因"), "refused at")
    print_table(columns, rows, ("no receipt is open", "没有待处理的回执"))
    if next(found, None):
        click.echo(f"({both(f'the first {SHOWN}; --json gives all', f'仅显示前 {SHOWN} 条，--json 可输出全部')})")


def _row(held: StoredReceipt) -> tuple[str, ...]:
    r = held.receipt
    rules = ", ".join(reason.rule for reason in r.reasons)
    reasons = "; ".join(
        both(x.reason, x.reason_zh) + (f" ({x.column}: {x.found[:60]})" if x.found else "") for x in r.reasons
    )
    return r.short_id, r.dataset, _line(r.key or ""), _line(rules), _line(reasons), r.refused_at


def _line(text: str) -> str:
    """The text on one line, without control characters."""
    return "".join(c if c.isprintable() else " " for c in text)


def _say_written(written: ToCorrect, dataset: str, file: Path, district: str) -> None:
    say(
        f"{written.rows:,} receipts written to {file}. Correct the rows, delete those that you do not correct, and publish:",
        f"已将 {written.rows:,} 条回执写入 {file}。请更正各行，删去不更正的行，然后发布：",
    )
    click.echo(f"  suibus publish {dataset} {file} --district {district} --corrections")
    if written.deletions:
        say(
            f"{written.deletions:,} refused deletions are not among them: publish them again with --delete.",
            f"其中不含 {written.deletions:,} 条被拒的删除：请用 --delete 重新发布。",
        )
