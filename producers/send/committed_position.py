"""The position that the last transaction of an outbox committed, read with kafka-python, whatever transport sends.

confluent-kafka 2.16.1 reads past the end of a position's metadata and returns extra bytes, or text that cannot be decoded.
So kafka-python always reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import kafka.errors as kafka_errors
from kafka import KafkaAdminClient

from producers.send.transport import ForbiddenError, Identity, RefusedError, TransportError
from schemas.ports.kafka_access import KafkaAccess

_PERMANENT_ERRORS = (  # trying again does not help
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.UnsupportedVersionError,
    kafka_errors.MessageSizeTooLargeError,
)


def committed_position(access: KafkaAccess, identity: Identity, name: str, wait_ms: int) -> int | None:
    """The position that the transaction of this name committed for the outbox's group; None if it committed none."""
    with kafka_python_errors():
        admin = KafkaAdminClient(**access.kafka_python(), bootstrap_timeout_ms=wait_ms)
        try:
            offsets = admin.list_group_offsets(identity.group)[identity.group]
        finally:
            admin.close()
    # confluent-kafka commits a zero byte behind the name.
    return max((o.offset for o in offsets.values() if o.metadata.rstrip("\0") == name), default=None)


@contextmanager
def kafka_python_errors() -> Iterator[None]:
    """Raise the errors of kafka-python as those of `producers.send.transport`."""
    try:
        yield
    except kafka_errors.AuthorizationError as error:
        raise ForbiddenError(str(error)) from None
    except _PERMANENT_ERRORS as error:
        raise RefusedError(str(error)) from None
    except kafka_errors.KafkaError as error:
        raise TransportError(str(error)) from None
