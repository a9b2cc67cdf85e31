"""The background sender gets all that it needs on its standard input, and rows that it does not send wait."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from producers.encoded_row import EncodedRow
from producers.outbox import Outbox
from producers.send.background_sender import BackgroundSender, SendOrder
from schemas.errors import UnavailableError
from schemas.ports.kafka_access import KafkaAccess
from tests.unit.producers.publishing import TOPIC

PASSWORD = SecretStr('geheim "穗"\n')
NODE_FILE = Path("/etc/suibus/穗.toml")


@pytest.mark.parametrize(
    "access",
    [
        KafkaAccess("a:1,b:2"),
        KafkaAccess("a:1", "440106.00c0ffee", PASSWORD, NODE_FILE),
        KafkaAccess("a:1", authority=NODE_FILE, certificate=NODE_FILE, key=NODE_FILE),
    ],
)
def test_an_order_is_one_line_and_is_read_back_unchanged(access: KafkaAccess) -> None:
    order = SendOrder(Path("/o.sqlite"), access, 1.5, "librdkafka")
    line = order.to_json()
    assert SendOrder.from_json(line) == order
    assert b"\n" not in line


def test_a_bus_that_does_not_answer_is_reported_and_rows_are_kept(tmp_path: Path) -> None:
    with Outbox(tmp_path / "o") as outbox:
        outbox.accept(TOPIC, [EncodedRow(b"k", b"v")])
        sender = BackgroundSender(SendOrder(tmp_path / "o", KafkaAccess("127.0.0.1:1"), 0.1, "kafka-python"))
        with pytest.raises(UnavailableError, match="1 rows wait"):
            sender.finish()
        assert (sender.sent, outbox.waiting()) == (0, 1)
