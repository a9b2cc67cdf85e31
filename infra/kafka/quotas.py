"""How much a user may send and read: Kafka's client quotas. kafka-python has their messages but no calls for them."""

from __future__ import annotations

from kafka import KafkaAdminClient
from kafka.errors import ResourceNotFoundError, for_code
from kafka.protocol.admin import AlterClientQuotasRequest, DescribeClientQuotasRequest

from producers.send.kafka_internals import ask

_QUOTAS = ("producer_byte_rate", "consumer_byte_rate")
_EVERY_USER = 2  # Kafka's match type for any entity of a kind


def limit(admin: KafkaAdminClient, user: str, rate: int) -> None:
    """Limit what a user sends, and what it reads, to `rate` bytes a second at each broker."""
    _alter(admin, user, rate)


def lift_limit(admin: KafkaAdminClient, user: str) -> None:
    """Remove a user's limits; nothing is done if there are none."""
    _alter(admin, user, None)


def limits(admin: KafkaAdminClient) -> dict[str, int]:
    """What each limited user may send, in bytes a second at each broker."""
    component = DescribeClientQuotasRequest.ComponentData(entity_type="user", match_type=_EVERY_USER, match=None)
    answer = ask(admin, DescribeClientQuotasRequest(components=[component], strict=True))
    if answer.error_code:
        raise for_code(answer.error_code)(answer.error_message)
    found = {e.entity[0].entity_name: {v.key: v.value for v in e.values} for e in answer.entries or []}
    return {user: int(quotas.get(_QUOTAS[0], 0)) for user, quotas in found.items()}


def _alter(admin: KafkaAdminClient, user: str, rate: int | None) -> None:
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
    for answer in ask(admin, request).entries:
        if answer.error_code and for_code(answer.error_code) is not ResourceNotFoundError:
            raise for_code(answer.error_code)(answer.error_message)
