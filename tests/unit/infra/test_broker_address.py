"""The address of the embedded broker is known before it runs, and is never that of another bus."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

from infra.kafka.broker import Broker
from infra.settings import Settings


def test_a_copied_home_does_not_send_to_the_broker_that_has_its_port(tmp_path: Path) -> None:
    original = Broker(Settings(home=tmp_path / "original"))
    address = original.access_when_up.servers
    shutil.copytree(original.home, tmp_path / "copy")
    host, port = address.split(":")
    with socket.socket() as broker:  # stands for the broker of the original
        broker.bind((host, int(port)))
        broker.listen()
        copied = Broker(Settings(home=tmp_path / "copy")).access_when_up.servers
    assert copied != address
    assert Broker(Settings(home=tmp_path / "copy")).access_when_up.servers == copied
    assert original.access_when_up.servers == address
