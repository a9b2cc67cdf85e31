"""Choose the transport that sends an outbox."""

from __future__ import annotations

from producers.send.kafka_python import KafkaPython
from producers.send.librdkafka import Librdkafka, confluent_kafka
from producers.send.transport import Connect, TransportName


def choose_transport(transport: TransportName | Connect) -> Connect:
    """The function that connects: that of the named transport, or the one given.

    InputError if librdkafka is named and not installed.
    """
    if transport == "kafka-python":
        return KafkaPython
    if transport == "librdkafka":
        confluent_kafka()
        return Librdkafka
    return transport
