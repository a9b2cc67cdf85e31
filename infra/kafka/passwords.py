"""The passwords of users (SCRAM-SHA-512): Kafka keeps a salted hash of each."""

from __future__ import annotations

from kafka import KafkaAdminClient
from kafka.admin import ScramMechanism, UserScramCredentialDeletion, UserScramCredentialUpsertion
from pydantic import SecretStr

from schemas.errors import StateError

_MECHANISM = ScramMechanism.SCRAM_SHA_512


def set_password(admin: KafkaAdminClient, user: str, password: SecretStr) -> None:
    """Set a user's password; an earlier one ends."""
    _alter(admin, UserScramCredentialUpsertion(user, _MECHANISM, password.get_secret_value()))


def drop_password(admin: KafkaAdminClient, user: str) -> None:
    """Remove a user's password; nothing is done if there is none."""
    _alter(admin, UserScramCredentialDeletion(user, _MECHANISM))


def users_with_password(admin: KafkaAdminClient) -> set[str]:
    """Every user that has a password."""
    return set(admin.describe_user_scram_credentials())


def _alter(admin: KafkaAdminClient, change: UserScramCredentialUpsertion | UserScramCredentialDeletion) -> None:
    for user, error in admin.alter_user_scram_credentials([change]).items():
        gone = isinstance(change, UserScramCredentialDeletion) and "does not exist" in (error or "")
        if error and not gone:
            raise StateError(
                f"Kafka did not change the password of {user}: {error}. Run the same command again.",
                f"Kafka 未能更改 {user} 的密码：{error}。请重新执行同一命令。",
            )
