"""`suibus backup` and `suibus restore`: the whole state folder as a folder that can be trusted, and back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from infra.terminal.console import as_json, open_bus, print_json, tell
from schemas.tell import quiet

if TYPE_CHECKING:
    from infra.operate.backup import BackupInfo


@click.command()
@click.argument("destination", metavar="DEST", type=click.Path(path_type=Path))
@click.option(
    "--without-broker",
    is_flag=True,
    help="Leave out what Kafka keeps; the bus may run. 不含 Kafka 中的内容，总线可继续运行。",
)
@as_json
def backup(destination: Path, without_broker: bool, as_json: bool) -> None:
    """Copy the whole state folder and the lake to a new folder. 备份。

    DEST gets the tables, contracts, outboxes, inboxes, credentials and the topics, with the SHA-256 of every file; it is
    there whole or not at all. `suibus down` comes first, since a running broker's files cannot be copied. DEST holds
    secrets: only its owner can read it, and it should lie on another disk. A lake behind a URL is left out.
    """
    from infra.operate.backup import back_up

    info = back_up(open_bus(), destination, without_broker, quiet if as_json else tell)
    if as_json:
        print_json(asdict(info))
        return
    tell(*_told(info, f"in {destination}", f"位于 {destination}"))
    for en, zh in info.left_out:
        tell(f"not in it: {en}", f"未包含：{zh}")


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--lake-only", is_flag=True, help="The tables alone, into an empty lake beside a state folder. 仅恢复数据湖。"
)
@as_json
def restore(source: Path, lake_only: bool, as_json: bool) -> None:
    """Put a backup back into an empty state folder. 恢复。

    SOURCE is what `suibus backup` made. Every file of it is checked first; nothing is ever written over. With --lake-only
    the lake goes back to what it was, and the next pass takes again from the topics what came later.
    """
    from infra.operate.backup import restore as put_back

    bus = open_bus()
    info = put_back(bus, source, lake_only, quiet if as_json else tell)
    if as_json:
        print_json(asdict(info))
        return
    where = bus.settings.lake_path if lake_only else str(bus.home)
    tell(*_told(info, f"of {info.made_at} restored to {where}", f"（{info.made_at}）已恢复到 {where}"))
    for en, zh in info.left_out:
        tell(f"was not in it: {en}", f"未包含：{zh}")


def _told(info: BackupInfo, en: str, zh: str) -> tuple[str, str]:
    size = f"{info.files:,} files, {info.bytes / 2**20:,.1f} MiB"
    return f"backup: {size}, {en}", f"备份：{info.files:,} 个文件，{info.bytes / 2**20:,.1f} MiB，{zh}"
