"""The districts' nodes that may publish on the bus: their credentials, access rights (ACLs) and quotas, all kept by Kafka.

Every set of credentials has its own user name, `<district>.<8 hex digits>`, which is never used twice, and the ACLs name that user. So
removing the ACLs makes a lost node file useless at once, even with a certificate, which Kafka cannot revoke, and on open connections,
since Kafka checks the ACLs at each request.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from infra.kafka import acls, passwords, quotas
from infra.node_file import NodeFile, node_text, read_node_file
from schemas.districts import check_district, districts
from schemas.errors import InputError
from schemas.ports.files import write_whole

if TYPE_CHECKING:
    from infra.bus.bus import Bus

RATE = 16  # MiB per second in each direction, the default quota
_NAME = re.compile(r"(\d{6})\.[0-9a-f]{8}")


@dataclass(frozen=True)
class Node:
    """One set of credentials in Kafka, without its secrets."""

    district: str
    user: str
    mutual_tls: bool = True
    in_force: bool = False  # False: left by a killed command; it has no access rights
    bytes_per_second: int | None = None
    expires: str | None = None  # when its certificate expires, ISO 8601


class Nodes:
    """The nodes of one bus, for its administrator. After a kill, every call may be repeated."""

    def __init__(self, bus: Bus) -> None:
        outside = bus.settings.access
        if outside is None:
            bus.broker.servers(mutual_tls=False)  # StateError if the bus accepts clients without credentials
        elif not bus.settings.node:
            raise InputError(
                f"Only an administrator can manage the nodes of {outside.servers}: set SUIBUS_NODE to the path of a node file "
                "with the administrator's credentials.",
                f"只有管理员可以管理 {outside.servers} 的节点：请将 SUIBUS_NODE 设为含管理员凭据的节点文件的路径。",
            )
        self._kafka = bus.kafka
        self._bus = bus

    def all(self) -> list[Node]:
        """Every set of credentials, by district. Users that do not belong to a district are not listed."""
        nodes: dict[str, Node] = {}
        with self._kafka.admin() as admin:
            for user, publishes in acls.publishers(admin).items():
                if node := _node_of_user(nodes, user):
                    nodes[user] = replace(node, in_force=publishes)
            for user, rate in quotas.limits(admin).items():
                if node := _node_of_user(nodes, user):
                    nodes[user] = replace(node, bytes_per_second=rate)
            for user in passwords.users_with_password(admin):
                if node := _node_of_user(nodes, user):
                    nodes[user] = replace(node, mutual_tls=False)
        for node in list(nodes.values()):
            if (certificate := self._certificate(node.user)).is_file():
                from infra.kafka.certificates import expires  # the light install has no cryptography

                ends = expires(certificate.read_text("ascii")).isoformat(timespec="seconds")
                nodes[node.user] = replace(node, expires=ends)
        return sorted(nodes.values(), key=lambda n: (n.district, not n.in_force, n.user))

    def add(self, code: str, output: Path, *, mutual_tls: bool = False, rate: int = RATE) -> Node:
        """Create the credentials, ACLs and quota of a district's node, and write its node file (mode 0600).

        `rate` is in MiB per second. The file appears last, once everything else is in place. A district has only one set of
        credentials: InputError if it has one already, or if the file exists; repeating a completed call returns the same node.
        """
        mine = self._nodes_of(code)
        with suppress(InputError):
            if output.exists() and (here := _in_force(mine, read_node_file(output).user)):
                return here  # an earlier call made it
        _check_absent(output)
        draft = _draft(code, output)
        if any(n.in_force for n in mine) and not (draft and _in_force(mine, draft.user)):
            raise InputError(
                f"District {code} already has credentials ({mine[0].user}). `suibus node rotate {code}` issues new ones "
                "and revokes these.",
                f"区 {code} 已有凭据（{mine[0].user}）。执行 suibus node rotate {code} 可换发新凭据并作废旧凭据。",
            )
        return self._issue(code, output, draft, mutual_tls, rate * 2**20, mine)

    def rotate(self, code: str, output: Path) -> Node:
        """Issue new credentials with the same kind and quota, revoke all others of the district at once, and write the node file."""
        mine = self._nodes_of(code)
        if not mine:
            raise _no_credentials(code)
        _check_absent(output)
        old = mine[0]
        rate = old.bytes_per_second or RATE * 2**20
        return self._issue(code, output, _draft(code, output), old.mutual_tls, rate, mine)

    def remove(self, code: str) -> list[Node]:
        """Revoke a district's credentials at once and delete them; returns the revoked ones. Its topics and records stay."""
        mine = self._nodes_of(code)
        if not mine:
            raise _no_credentials(code)
        self._revoke(mine)
        return mine

    def _nodes_of(self, code: str) -> list[Node]:
        check_district(code)
        return [node for node in self.all() if node.district == code]

    def _certificate(self, user: str) -> Path:
        return self._bus.broker.security / "issued" / f"{user}.pem"

    def _issue(
        self, code: str, output: Path, draft: NodeFile | None, mutual_tls: bool, rate: int, before: Sequence[Node]
    ) -> Node:
        """Create credentials in an order that survives a kill: draft file, password, quota, ACLs, revoke the old ones, node file."""
        if draft is None:
            text = self._node_file_text(code, f"{code}.{secrets.token_hex(4)}", mutual_tls)
            write_whole(_part(output), text, secret=True)
            draft = read_node_file(_part(output))
        with self._kafka.admin() as admin:
            if password := draft.access.password:
                passwords.set_password(admin, draft.user, password)
            quotas.limit(admin, draft.user, rate)
            acls.grant(admin, code, draft.user)
        self._revoke([node for node in before if node.user != draft.user])
        hand_out(output)
        return next(node for node in self._nodes_of(code) if node.user == draft.user)

    def _node_file_text(self, code: str, user: str, mutual_tls: bool) -> str:
        settings, broker = self._bus.settings, self._bus.broker
        if settings.node:
            if mutual_tls:
                raise InputError(
                    "Certificates for an external Kafka come from its own authority. Leave out --mutual-tls.",
                    "外部 Kafka 的证书由其自身的证书机构签发。请去掉 --mutual-tls。",
                )
            trusted, servers = read_node_file(settings.node).authority, self._kafka.access.servers
            return node_text(servers, user, trusted, code, password=_new_password())
        servers = broker.servers(mutual_tls)
        from infra.kafka.certificates import Authority  # the light install has no cryptography

        authority = Authority(broker.security)
        if not mutual_tls:
            return node_text(servers, user, authority.certificate, code, password=_new_password())
        certificate, key = authority.issue(user)
        write_whole(self._certificate(user), certificate)
        return node_text(servers, user, authority.certificate, code, certificate=certificate, key=key)

    def _revoke(self, nodes: Sequence[Node]) -> None:
        """Revoke credentials: first the ACLs, which ends all access; then password, quota and certificate."""
        with self._kafka.admin() as admin:
            for node in nodes:
                acls.revoke(admin, node.user)
                if not node.mutual_tls:
                    passwords.drop_password(admin, node.user)
                quotas.lift_limit(admin, node.user)
                self._certificate(node.user).unlink(missing_ok=True)


def hand_out(output: Path) -> None:
    """Rename the finished draft to the node file; InputError if that file exists by now."""
    _check_absent(output)
    _part(output).rename(output)


def _new_password() -> SecretStr:
    return SecretStr(secrets.token_urlsafe(32))


def _part(output: Path) -> Path:
    return output.with_name(f"{output.name}.part")


def _draft(code: str, output: Path) -> NodeFile | None:
    """The draft that a killed command left for this file, so that this command can continue; None if there is none."""
    try:
        draft = read_node_file(_part(output))
    except InputError:
        return None
    return draft if draft.district == code else None


def _check_absent(output: Path) -> None:
    if output.exists():
        raise InputError(
            f"{output} exists and is not overwritten. Move it away, or choose another file with --output.",
            f"{output} 已存在，不会被覆盖。请移走该文件，或用 --output 指定其他文件。",
        )


def _node_of_user(nodes: Mapping[str, Node], user: str) -> Node | None:
    """The node with this user name, from `nodes` or new; None if the user does not belong to a district."""
    match = _NAME.fullmatch(user)
    return nodes.get(user, Node(match[1], user)) if match and match[1] in districts() else None


def _in_force(nodes: Sequence[Node], user: str) -> Node | None:
    return next((node for node in nodes if node.user == user and node.in_force), None)


def _no_credentials(code: str) -> InputError:
    return InputError(
        f"District {code} has no credentials on this bus. `suibus node add {code}` issues them.",
        f"区 {code} 在本总线上没有凭据。可执行 suibus node add {code} 签发。",
    )
