"""All uses of kafka-python that go beyond its public interface.

`tests/unit/producers/test_internals.py` checks each of these names, and shows what an upgrade of kafka-python breaks.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from kafka import KafkaAdminClient, KafkaProducer
from kafka.errors import KafkaError
from kafka.net.compat import KafkaNetClient
from kafka.net.transport import KafkaSSLTransport


def end_at_once(producer: KafkaProducer) -> None:
    """Close a producer that has an open transaction, without waiting for its batches to be sent, as `close` alone would."""
    producer._sender.force_close()
    producer._sender.join(2)
    with suppress(KafkaError):
        producer.close(timeout=0)


def first_connection_error(settings: Mapping[str, Any], wait_ms: int) -> str:
    """The error of one connection with these client settings, which name one server; empty if it succeeds."""
    client = KafkaNetClient(**settings)
    manager = client._manager
    node = manager.cluster.bootstrap_brokers()[0].node_id

    async def connect() -> None:
        await manager.get_connection(node, timeout_ms=wait_ms, pop_on_close=False, refresh_metadata_on_err=False)

    try:
        manager.run(connect)
    except (KafkaError, OSError, ValueError) as error:
        return repr(error)
    finally:
        client.close()
    return ""


def ask(admin: KafkaAdminClient, request: Any) -> Any:
    """Send one request of Kafka's protocol and return the answer; the caller checks it for errors."""
    return admin._manager.run(admin._manager.send, request)


def tls_context(settings: Mapping[str, Any]) -> ssl.SSLContext:
    """The TLS context that kafka-python makes of these client settings."""
    context: ssl.SSLContext = KafkaSSLTransport._build_ssl_context({**KafkaSSLTransport.DEFAULT_CONFIG, **settings})
    return context
