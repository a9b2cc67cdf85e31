"""`suibus backup`: a verified copy of the whole state folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from infra.bus.bus import Bus
from infra.operate.backup import back_up
from infra.settings import read_settings
from infra.terminal.console import as_json, print_json, tell
from schemas.progress_messages import quiet


@click.command()
@click.argument("destination", metavar="DEST", type=click.Path(path_type=Path))
@click.option(
    "--without-broker",
    is_flag=True,
    help="Leave out what Kafka keeps; the bus may go on running. 不含 Kafka 中的内容，总线可继续运行。",
)
@as_json
def backup(destination: Path, without_broker: bool, as_json: bool) -> None:
    """Copy the whole state folder and the lake to a new folder. 备份。

    DEST gets the tables, contracts, outboxes, inboxes, credentials and topics, with the SHA-256 of every file; it
    appears whole or not at all. First run `suibus down`, since a running broker's files cannot be copied. DEST holds
    secrets, so only its owner can read it; it should be on another disk. A lake behind a URL is left out.
    """
    info = back_up(Bus(read_settings()), destination, without_broker, quiet if as_json else tell)
    if as_json:
        print_json(asdict(info))
        return
    size = f"{info.bytes / 2**20:,.1f} MiB"
    tell(
        f"backup: {info.files:,} files, {size}, in {destination}",
        f"备份：{info.files:,} 个文件，{size}，位于 {destination}",
    )
    for en, zh in info.left_out:
        tell(f"left out: {en}", f"未包含：{zh}")
