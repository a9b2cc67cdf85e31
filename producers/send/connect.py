"""Choose the transport that sends an outbox."""

from __future__ import annotations

from producers.send.kafka_python import KafkaPython
from producers.send.librdkafka import Librdkafka, confluent_kafka
from producers.send.transport import Connect, TransportName


def choose_transport(transport: TransportName | Connect) -> Connect:
    """What connects by a transport: one of ours by its name, or another by what connects by it.

    InputError where librdkafka is asked for and not installed.
    """
    if transport == "kafka-python":
        return KafkaPython
    if transport == "librdkafka":
        confluent_kafka()
        return Librdkafka
    return transport
