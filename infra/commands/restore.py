"""`suibus restore`: put a backup back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from infra.bus.bus import Bus
from infra.operate.backup import restore as put_back
from infra.settings import read_settings
from infra.terminal.console import as_json, print_json, tell
from schemas.progress_messages import quiet


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--lake-only", is_flag=True, help="Restore only the tables, into an empty lake. 仅恢复数据湖。")
@as_json
def restore(source: Path, lake_only: bool, as_json: bool) -> None:
    """Put a backup back into an empty state folder. 恢复。

    SOURCE is a folder that `suibus backup` made. Every file is checked first; no existing file is overwritten. With
    --lake-only the lake returns to its state at the backup, and the next pass reads later records from the topics again.
    """
    bus = Bus(read_settings())
    info = put_back(bus, source, lake_only, quiet if as_json else tell)
    if as_json:
        print_json(asdict(info))
        return
    target = bus.settings.lake_path if lake_only else str(bus.home)
    size = f"{info.bytes / 2**20:,.1f} MiB"
    tell(
        f"backup: {info.files:,} files, {size}, of {info.made_at} restored to {target}",
        f"备份（{info.made_at}）：{info.files:,} 个文件，{size}，已恢复到 {target}",
    )
    for en, zh in info.left_out:
        tell(f"was left out: {en}", f"未包含：{zh}")
