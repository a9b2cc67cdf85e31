"""`suibus flush`: send the rows that a district's node has accepted."""

from __future__ import annotations

import click

from infra.bus.bus import Bus
from infra.settings import read_settings
from infra.terminal.console import tell
from producers.send.sender import flush as send
from schemas.districts import check_district
from schemas.errors import InputError


@click.command()
@click.option("--district", required=True, metavar="CODE", help="The district whose outbox is sent.")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait for a broker that does not answer.")
def flush(district: str, timeout: float) -> None:
    """Send what waits in a district's outbox. 发送待发数据。"""
    bus = Bus(read_settings())
    path = bus.outbox(check_district(district))
    if not path.exists():
        raise InputError(
            f"District {district} has no outbox here ({path}): nothing was published from here. Check the code and SUIBUS_HOME.",
            f"此处没有 {district} 的发件箱（{path}）：从未在此发布过数据。请检查区代码和 SUIBUS_HOME。",
        )
    info = send(path, bus.access, timeout, transport=bus.settings.transport)
    tell(f"sent {info.sent:,} records", f"已发送 {info.sent:,} 条记录")
