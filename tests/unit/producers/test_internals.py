"""The parts of kafka-python beyond its public interface that Suibus uses exist: an upgrade that changes them fails here."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.transport import KafkaSSLTransport
from kafka.producer.sender import Sender

import infra
import pipelines
import producers

# The class, the method, and the arguments that it is called with (positional, by name).
METHODS: list[tuple[type[Any], str, tuple[int, set[str]]]] = [
    (Sender, "force_close", (0, set())),
    (Sender, "join", (1, set())),
    (KafkaConnectionManager, "run", (1, set())),
    (KafkaConnectionManager, "run", (2, set())),
    (KafkaConnectionManager, "send", (1, set())),
    (KafkaConnectionManager, "get_connection", (1, {"timeout_ms", "pop_on_close", "refresh_metadata_on_err"})),
    (KafkaNetClient, "close", (0, set())),
    (KafkaSSLTransport, "_build_ssl_context", (1, set())),
]
# The class, and the attribute that its constructor sets.
ATTRIBUTES = [
    (KafkaProducer, "_sender"),
    (KafkaNetClient, "_manager"),
    (KafkaAdminClient, "_manager"),
    (KafkaConnectionManager, "cluster"),
]


def test_no_other_module_uses_them() -> None:
    private = re.compile(r"kafka\.(net|producer)\b|\._(sender|manager|build_ssl_context)\b")
    modules = [path for package in (producers, infra, pipelines) for path in Path(package.__path__[0]).rglob("*.py")]
    assert {path.name for path in modules if private.search(path.read_text("utf-8"))} == {"kafka_internals.py"}


@pytest.mark.parametrize(("owner", "name", "arguments"), METHODS)
def test_method_is_there_and_takes_what_it_is_given(
    owner: type[Any], name: str, arguments: tuple[int, set[str]]
) -> None:
    positional, named = arguments
    static = isinstance(inspect.getattr_static(owner, name), staticmethod)
    me = [] if static else [None]
    inspect.signature(getattr(owner, name)).bind(*me, *[None] * positional, **dict.fromkeys(named))


@pytest.mark.parametrize(("owner", "name"), ATTRIBUTES)
def test_attribute_is_there(owner: type[Any], name: str) -> None:
    assert hasattr(owner, name) or name in owner.__init__.__code__.co_names


def test_a_tls_context_is_built_of_settings() -> None:
    assert {"ssl_context", "ssl_cafile", "ssl_certfile", "ssl_keyfile"} <= KafkaSSLTransport.DEFAULT_CONFIG.keys()


def test_a_client_knows_its_server_before_it_connects() -> None:
    client = KafkaNetClient(bootstrap_servers="127.0.0.1:1")
    try:
        (server,) = client.cluster.bootstrap_brokers()
        assert (server.host, server.port) == ("127.0.0.1", 1)
        assert server.node_id
    finally:
        client.close()
