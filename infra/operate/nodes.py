"""Who may do what on the bus: the credentials, rights and limits of the districts' nodes. Kafka itself keeps them.

Every set of credentials has a name of its own, `<district>.<8 hex digits>`, never used twice, and rights belong to
that name. So taking the rights away ends a lost file at once: with a certificate too, which Kafka cannot revoke, and
on a connection that is open, since Kafka asks for the right at each request.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
    ScramMechanism,
    UserScramCredentialDeletion,
    UserScramCredentialUpsertion,
)
from kafka.errors import ResourceNotFoundError, for_code
from kafka.protocol.admin import AlterClientQuotasRequest, DescribeClientQuotasRequest

from infra.kafka.topics import Kafka
from infra.settings import NodeFile, node_text, read_node_file, write_secret
from schemas.dataset import DOWN_PREFIX, UP_PREFIX
from schemas.districts import check_district, districts
from schemas.errors import InputError, StateError

if TYPE_CHECKING:
    from infra.bus.bus import Bus

RATE = 16  # MiB a second, each way, unless told otherwise
_SCRAM = ScramMechanism.SCRAM_SHA_512
_NAME = re.compile(r"(\d{6})\.[0-9a-f]{8}")
_QUOTAS = ("producer_byte_rate", "consumer_byte_rate")
_APPLIED = 10.0  # seconds until a broker that lives has applied what the controller took


@dataclass(frozen=True)
class Node:
    """One set of credentials as Kafka has it; nothing in it is secret."""

    district: str
    user: str
    mutual_tls: bool = True
    in_force: bool = False  # False: what a killed command left; it may do nothing
    bytes_per_second: int | None = None
    expires: str | None = None  # of a certificate


class Nodes:
    """The nodes of one bus, as its administrator sees them. Every call may be repeated after a kill."""

    def __init__(self, bus: Bus) -> None:
        if not bus.settings.servers:
            bus.broker.servers(mutual_tls=False)  # StateError where the bus lets everybody in
        elif not bus.settings.node:
            raise InputError(
                f"Nodes of {bus.settings.servers} can be managed by its administrator only: put the path of a node file "
                "with the administrator's credentials into SUIBUS_NODE.",
                f"只有管理员可以管理 {bus.settings.servers} 的节点：请将含管理员凭据的节点文件路径写入 SUIBUS_NODE。",
            )
        self._kafka: Kafka = bus.kafka
        self._bus = bus

    def all(self) -> list[Node]:
        """Every set of credentials, by district; those of nobody's district are not ours and not listed."""
        found: dict[str, Node] = {}
        with self._kafka.admin() as admin:
            acls, _ = admin.describe_acls(_acls_of(None))
            for acl in acls:
                if node := _node(found, acl.principal.removeprefix("User:")):
                    writes = acl.operation == ACLOperation.WRITE and acl.resource_pattern.resource_name.startswith(
                        "gz."
                    )
                    found[node.user] = replace(node, in_force=node.in_force or writes)
            for user, quotas in _describe_quotas(admin).items():
                if node := _node(found, user):
                    found[user] = replace(node, bytes_per_second=int(quotas[_QUOTAS[0]]))
            for user in admin.describe_user_scram_credentials():
                if node := _node(found, user):
                    found[user] = replace(node, mutual_tls=False)
        for node in list(found.values()):
            if (certificate := self._certificate(node.user)).is_file():
                from infra.kafka.certificates import expires

                ends = expires(certificate.read_text("ascii")).isoformat(timespec="seconds")
                found[node.user] = replace(node, expires=ends)
        return sorted(found.values(), key=lambda n: (n.district, not n.in_force, n.user))

    def add(self, code: str, output: Path, *, mutual_tls: bool = False, rate: int = RATE) -> Node:
        """Make credentials, rights and limits of a district's node, and write its configuration file (mode 0600).

        `rate` is in MiB a second. The file is there only once all else is. A district has one set of credentials:
        InputError where it has another, or where the file exists and is not this very one.
        """
        mine = self._of(code)
        with suppress(InputError):
            if output.exists() and (here := _in_force(mine, read_node_file(output).user)):
                return here  # made before
        self._absent(output)
        draft = self._draft(code, output)
        if any(n.in_force for n in mine) and not (draft and _in_force(mine, draft.user)):
            raise InputError(
                f"District {code} has credentials already ({mine[0].user}). `suibus node rotate {code}` makes new ones "
                "and ends these.",
                f"{code} 已有凭据（{mine[0].user}）。执行 suibus node rotate {code} 可换发新凭据并作废旧凭据。",
            )
        return self._issue(code, output, draft, mutual_tls, rate * 2**20, mine)

    def rotate(self, code: str, output: Path) -> Node:
        """Make new credentials of the same kind and limits, write their file, and end all others at once."""
        mine = self._of(code)
        if not mine:
            raise _none(code)
        self._absent(output)
        old = mine[0]
        rate = old.bytes_per_second or RATE * 2**20
        return self._issue(code, output, self._draft(code, output), old.mutual_tls, rate, mine)

    def remove(self, code: str) -> list[Node]:
        """End a district's credentials at once and forget them; what was ended. Its topics and records stay."""
        mine = self._of(code)
        if not mine:
            raise _none(code)
        self._end(mine)
        return mine

    def _of(self, code: str) -> list[Node]:
        check_district(code)
        return [node for node in self.all() if node.district == code]

    def _certificate(self, user: str) -> Path:
        return self._bus.broker.security / "issued" / f"{user}.pem"

    def _absent(self, output: Path) -> None:
        if output.exists():
            raise InputError(
                f"{output} exists and is not overwritten. Move it away, or name another file with --output.",
                f"{output} 已存在，不会被覆盖。请移走该文件，或用 --output 指定其他文件。",
            )

    def _draft(self, code: str, output: Path) -> NodeFile | None:
        """What a killed command had begun to make for this file, so that this one goes on with it."""
        try:
            found = read_node_file(_part(output))
        except InputError:
            return None
        return found if found.district == code else None

    def _issue(
        self, code: str, output: Path, draft: NodeFile | None, mutual_tls: bool, rate: int, before: Sequence[Node]
    ) -> Node:
        """Written down first, made in Kafka next, in force by the rights, and only then handed out."""
        if draft is None:
            write_secret(_part(output), self._text(code, f"{code}.{secrets.token_hex(4)}", mutual_tls))
            draft = read_node_file(_part(output))
        with self._kafka.admin() as admin:
            if password := draft.client.get("sasl_plain_password"):
                _scram(admin, UserScramCredentialUpsertion(draft.user, _SCRAM, str(password)))
            _alter_quotas(admin, draft.user, rate)
            _create(admin, _rights(code, draft.user))
            self._applied(admin, draft.user, True)
        self._end([node for node in before if node.user != draft.user])
        self._absent(output)
        _part(output).rename(output)
        return next(node for node in self._of(code) if node.user == draft.user)

    def _text(self, code: str, user: str, mutual_tls: bool) -> str:
        settings, broker = self._bus.settings, self._bus.broker
        if settings.node:
            if mutual_tls:
                raise InputError(
                    "Certificates for another Kafka come from its own authority, which is not here. Leave out --mutual-tls.",
                    "外部 Kafka 的证书由其自身的证书机构签发。请去掉 --mutual-tls。",
                )
            trusted = read_node_file(settings.node).authority
            return node_text(settings.servers or "", user, trusted, code, password=secrets.token_urlsafe(32))
        servers = broker.servers(mutual_tls)
        from infra.kafka.certificates import Authority

        authority = Authority(broker.security)
        if not mutual_tls:
            return node_text(servers, user, authority.certificate, code, password=secrets.token_urlsafe(32))
        certificate, key = authority.issue(user)
        self._certificate(user).parent.mkdir(exist_ok=True)
        self._certificate(user).write_text(certificate, "ascii")
        return node_text(servers, user, authority.certificate, code, key=key, certificate=certificate)

    def _end(self, nodes: Sequence[Node]) -> None:
        """The rights first, which is what cuts off; then whatever else bears the name."""
        with self._kafka.admin() as admin:
            for node in nodes:
                for _, _, error in admin.delete_acls([_acls_of(node.user)]):
                    if error.errno:
                        raise error
                self._applied(admin, node.user, False)
                if not node.mutual_tls:
                    _scram(admin, UserScramCredentialDeletion(node.user, _SCRAM))
                _alter_quotas(admin, node.user, None)
                self._certificate(node.user).unlink(missing_ok=True)

    def _applied(self, admin: KafkaAdminClient, user: str, wanted: bool) -> None:
        """Wait until the broker itself goes by it."""
        until = time.monotonic() + _APPLIED
        while bool(admin.describe_acls(_acls_of(user))[0]) != wanted:
            if time.monotonic() > until:
                raise StateError(
                    f"Kafka took the change of {user}'s rights and has not applied it after {_APPLIED:g} s. Look at its "
                    "log, and run the same command again.",
                    f"Kafka 已接收 {user} 的权限变更，但 {_APPLIED:g} 秒后仍未生效。请查看其日志，然后重新执行同一命令。",
                )
            time.sleep(0.02)


def _node(found: Mapping[str, Node], user: str) -> Node | None:
    """What is known of a name so far; None of one that is no district's."""
    match = _NAME.fullmatch(user)
    return found.get(user, Node(match[1], user)) if match and match[1] in districts() else None


def _in_force(nodes: Sequence[Node], user: str) -> Node | None:
    return next((node for node in nodes if node.user == user and node.in_force), None)


def _part(output: Path) -> Path:
    return output.with_name(f"{output.name}.part")


def _none(code: str) -> InputError:
    return InputError(
        f"District {code} has no credentials on this bus. `suibus node add {code}` makes them.",
        f"{code} 在本总线上没有凭据。可执行 suibus node add {code} 签发。",
    )


def _rights(code: str, user: str) -> list[ACL]:
    """All that a node may do, the right to publish last. Each right includes to describe what it is for.

    Kafka asks for the right to read where a transaction commits a position, so a node may read what it published.
    """
    rights = (
        (ResourceType.TRANSACTIONAL_ID, f"suibus.{code}.", ACLOperation.WRITE),
        (ResourceType.GROUP, f"suibus.{code}.", ACLOperation.READ),
        (ResourceType.TOPIC, f"{DOWN_PREFIX}{code}.", ACLOperation.READ),
        (ResourceType.TOPIC, f"{UP_PREFIX}{code}.", ACLOperation.READ),
        (ResourceType.TOPIC, f"{UP_PREFIX}{code}.", ACLOperation.WRITE),
    )
    return [
        ACL(
            f"User:{user}",
            "*",
            operation,
            ACLPermissionType.ALLOW,
            ResourcePattern(kind, prefix, ACLResourcePatternType.PREFIXED),
        )
        for kind, prefix, operation in rights
    ]


def _acls_of(user: str | None) -> ACLFilter:
    anything = ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY)
    return ACLFilter(user and f"User:{user}", None, ACLOperation.ANY, ACLPermissionType.ANY, anything)


def _create(admin: KafkaAdminClient, acls: list[ACL]) -> None:
    for error in admin.create_acls(acls)["failed"]:
        raise error("the rights were not made")


def _scram(admin: KafkaAdminClient, change: UserScramCredentialUpsertion | UserScramCredentialDeletion) -> None:
    for user, error in admin.alter_user_scram_credentials([change]).items():
        gone = isinstance(change, UserScramCredentialDeletion) and "does not exist" in (error or "")
        if error and not gone:
            raise StateError(
                f"Kafka did not change the password of {user}: {error}. Run the same command again.",
                f"Kafka 未能更改 {user} 的密码：{error}。请重新执行同一命令。",
            )


# kafka-python has the messages of quotas, but no calls.


def _alter_quotas(admin: KafkaAdminClient, user: str, rate: int | None) -> None:
    """Limit what a user sends and reads, in bytes a second and broker; None takes the limits away."""
    entry = AlterClientQuotasRequest.EntryData
    request = AlterClientQuotasRequest(
        entries=[
            entry(
                entity=[entry.EntityData(entity_type="user", entity_name=user)],
                ops=[entry.OpData(key=key, value=float(rate or 0), remove=rate is None) for key in _QUOTAS],
            )
        ],
        validate_only=False,
    )
    for answer in admin._manager.run(admin._manager.send, request).entries:
        if answer.error_code and for_code(answer.error_code) is not ResourceNotFoundError:
            raise for_code(answer.error_code)(answer.error_message)


def _describe_quotas(admin: KafkaAdminClient) -> dict[str, dict[str, float]]:
    component = DescribeClientQuotasRequest.ComponentData(entity_type="user", match_type=2, match=None)  # 2: each
    request = DescribeClientQuotasRequest(components=[component], strict=True)
    answer: Any = admin._manager.run(admin._manager.send, request)
    if answer.error_code:
        raise for_code(answer.error_code)(answer.error_message)
    found = {e.entity[0].entity_name: {v.key: v.value for v in e.values} for e in answer.entries or []}
    return {user: {key: quotas.get(key, 0.0) for key in _QUOTAS} for user, quotas in found.items()}
