"""What a node may do on the bus: Kafka's ACLs, which belong to the name of its credentials."""

from __future__ import annotations

import time

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
)

from schemas.dataset import DOWN_PREFIX, UP_PREFIX
from schemas.errors import StateError

_APPLIED = 10.0  # seconds within which a running broker applies what the controller accepted


def rights_of(code: str, user: str) -> list[ACL]:
    """All rights of a district's node, the right to publish last. Each right includes the right to describe its resource.

    Kafka requires the right to read from whoever commits a position in a transaction, so a node may read what it published.
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


def every_right(user: str | None) -> ACLFilter:
    """The filter for every ACL of a user; of all users if None."""
    anything = ResourcePatternFilter(ResourceType.ANY, None, ACLResourcePatternType.ANY)
    return ACLFilter(user and f"User:{user}", None, ACLOperation.ANY, ACLPermissionType.ANY, anything)


def grant(admin: KafkaAdminClient, code: str, user: str) -> None:
    """Give a node its rights, and wait until the broker applies them."""
    for error in admin.create_acls(rights_of(code, user))["failed"]:
        raise error(f"the rights of {user} were not made")
    wait_until_applied(admin, user, True)


def revoke(admin: KafkaAdminClient, user: str) -> None:
    """Take every right from a user, and wait until the broker applies this: open connections are then refused too."""
    for _, _, error in admin.delete_acls([every_right(user)]):
        if error.errno:
            raise error
    wait_until_applied(admin, user, False)


def publishers(admin: KafkaAdminClient) -> dict[str, bool]:
    """Every user that has a right, and whether it may publish."""
    found: dict[str, bool] = {}
    for acl in admin.describe_acls(every_right(None))[0]:
        user = acl.principal.removeprefix("User:")
        publishes = acl.operation == ACLOperation.WRITE and acl.resource_pattern.resource_name.startswith("gz.")
        found[user] = found.get(user, False) or publishes
    return found


def wait_until_applied(admin: KafkaAdminClient, user: str, has_rights: bool) -> None:
    """Wait until the broker says that a user has rights, or none. StateError if that takes longer than 10 s."""
    until = time.monotonic() + _APPLIED
    while bool(admin.describe_acls(every_right(user))[0]) != has_rights:
        if time.monotonic() > until:
            raise StateError(
                f"Kafka accepted the change of {user}'s rights but has not applied it after {_APPLIED:g} s. Check its "
                "log, and run the same command again.",
                f"Kafka 已接收 {user} 的权限变更，但 {_APPLIED:g} 秒后仍未生效。请查看其日志，然后重新执行同一命令。",
            )
        time.sleep(0.02)
