"""`suibus node`: who may publish on a secure bus."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from infra.terminal.console import as_json, open_bus

if TYPE_CHECKING:
    from infra.operate.nodes import Node, Nodes

code = click.argument("code", metavar="CODE")
output = click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The file to write; suibus-CODE.toml unless given.",
)


@click.group()
def node() -> None:
    """The districts' nodes of a secure bus, and their credentials. 节点凭据。"""


@node.command("add")
@code
@click.option("--mutual-tls", is_flag=True, help="A client certificate instead of a password.")
@click.option("--rate", default=16, show_default=True, type=click.IntRange(1), help="MiB a second it may send or read.")
@output
def add(code: str, mutual_tls: bool, rate: int, output: Path | None) -> None:
    """Let a district's node onto the bus. 新增节点。

    Makes credentials, rights and limits, and writes one file (mode 0600) to carry to the district by a safe way. There
    SUIBUS_NODE holds its path, and publish, flush and receipts need nothing else.
    """
    nodes = _nodes(topics=True)
    path = output or Path(f"suibus-{code}.toml")
    _written(nodes.add(code, path, mutual_tls=mutual_tls, rate=rate), path)


@node.command("rotate")
@code
@output
def rotate(code: str, output: Path | None) -> None:
    """Make new credentials; the old stop working at once. 换发凭据。

    Until the new file is in place, the node keeps what it accepts in its outbox.
    """
    path = output or Path(f"suibus-{code}.toml")
    _written(_nodes().rotate(code, path), path)
    click.echo("the former credentials ended just now, on open connections too\n旧凭据即刻作废，已建立的连接同样失效")


@node.command("remove")
@code
def remove(code: str) -> None:
    """End a node's credentials and rights at once. 移除节点。

    Its topics and everything it published stay.
    """
    for ended in _nodes().remove(code):
        click.echo(f"{ended.user}: ended 已作废")


@node.command("list")
@as_json
def list_(as_json: bool) -> None:
    """Which nodes may publish, as whom and how much; no secrets. 节点列表。"""
    from schemas.districts import districts

    found = _nodes().all()
    if as_json:
        click.echo(json.dumps([asdict(n) for n in found], ensure_ascii=False, indent=2))
        return
    for n in found:
        kind = f"certificate 证书, until 至 {n.expires or '?'}" if n.mutual_tls else "password 密码"
        rate = f"{n.bytes_per_second / 2**20:g} MiB/s" if n.bytes_per_second else "no limit 不限速"
        state = "" if n.in_force else "  (left by a killed command, may do nothing 未完成，无任何权限)"
        click.echo(f"{n.district}  {districts()[n.district]}  {n.user}  {kind}  {rate}{state}")
    if not found:
        click.echo("no node has credentials 尚无节点凭据")


def _nodes(topics: bool = False) -> Nodes:
    from infra.operate.nodes import Nodes

    bus = open_bus()
    nodes = Nodes(bus)
    if topics:
        bus.adopt_contracts()
    return nodes


def _written(made: Node, path: Path) -> None:
    click.echo(
        f"{made.user}: {path.absolute()}\n"
        "Carry this file to the district by a safe way, keep its mode 0600, and put its path into SUIBUS_NODE there.\n"
        "请以安全方式将该文件送至该区，权限保持 0600，并在当地将其路径写入 SUIBUS_NODE。"
    )
