"""`suibus node`: which districts may publish on a secure bus."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from infra.bus.bus import Bus
from infra.operate.nodes import RATE, Node, Nodes
from infra.settings import read_settings
from infra.terminal.console import as_json, both, print_json, say
from schemas.districts import districts

code = click.argument("code", metavar="CODE")
output = click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The file to write; by default suibus-CODE.toml.",
)


@click.group()
def node() -> None:
    """Manage the districts' credentials on a secure bus. 节点凭据。"""


@node.command("add")
@code
@click.option("--mutual-tls", is_flag=True, help="Make a client certificate instead of a password.")
@click.option(
    "--rate", default=RATE, show_default=True, type=click.IntRange(1), help="MiB a second that it may send, and read."
)
@output
def add(code: str, mutual_tls: bool, rate: int, output: Path | None) -> None:
    """Give a district's node access to the bus. 新增节点。

    Makes credentials, rights and limits, and writes one file (mode 0600). Bring it to the district in a safe way. There,
    put its path into SUIBUS_NODE; publish, flush and receipts need nothing else to connect.
    """
    bus, path = Bus(read_settings()), output or Path(f"suibus-{code}.toml")
    nodes = Nodes(bus)
    bus.adopt_contracts()  # makes the district's topics
    _say_written(nodes.add(code, path, mutual_tls=mutual_tls, rate=rate), path)


@node.command("rotate")
@code
@output
def rotate(code: str, output: Path | None) -> None:
    """Make new credentials; the old ones end at once. 换发凭据。

    Until the new file is in place, the node keeps accepted rows in its outbox.
    """
    path = output or Path(f"suibus-{code}.toml")
    _say_written(Nodes(Bus(read_settings())).rotate(code, path), path)
    say("the old credentials have ended, also on open connections", "旧凭据已作废，已建立的连接同样失效")


@node.command("remove")
@code
def remove(code: str) -> None:
    """End a node's credentials and rights at once. 移除节点。

    Its topics and everything it published stay.
    """
    for ended in Nodes(Bus(read_settings())).remove(code):
        click.echo(f"{ended.user}: {both('ended', '已作废')}")


@node.command("list")
@as_json
def list_(as_json: bool) -> None:
    """List the nodes, their users and limits; no secrets. 节点列表。"""
    found = Nodes(Bus(read_settings())).all()
    if as_json:
        print_json([asdict(n) for n in found])
        return
    for n in found:
        until = f"{both('certificate, until', '证书，至')} {n.expires or '?'}"
        kind = until if n.mutual_tls else both("password", "密码")
        rate = f"{n.bytes_per_second / 2**20:g} MiB/s" if n.bytes_per_second else both("no limit", "不限速")
        state = (
            ""
            if n.in_force
            else f"  ({both('left by a killed command, has no rights', '命令中途被强制结束，无任何权限')})"
        )
        click.echo(f"{n.district}  {districts()[n.district]}  {n.user}  {kind}  {rate}{state}")
    if not found:
        click.echo(both("no node has credentials", "尚无节点凭据"))


def _say_written(made: Node, path: Path) -> None:
    click.echo(f"{made.user}: {path.absolute()}")
    say(
        "Bring this file to the district in a safe way, keep its mode 0600, and put its path into SUIBUS_NODE there.",
        "请以安全方式将该文件送至该区，权限保持 0600，并在当地将其路径写入 SUIBUS_NODE。",
    )
