"""A row that a publisher accepted is kept; a row that it cannot accept is refused at once."""

from __future__ import annotations

import sys

import pytest

from producers.publish.publisher import Publisher
from schemas.errors import InputError, UnavailableError
from schemas.row.coercer import RowError
from schemas.wire.encoder import Encoder
from tests.unit.producers.publishing import DATASET, DISTRICT, CutError, Node


def test_rows_taken_before_an_exception_are_kept(node: Node) -> None:
    def fail() -> None:
        with node.publisher() as publisher:
            publisher.publish({"code": "1", "name": "a", "d": "440106"})
            raise CutError

    with pytest.raises(CutError):
        fail()
    assert node.waiting() == [("1", "a")]


@pytest.mark.usefixtures("chunks_of_20")
def test_rows_accepted_before_the_sender_could_not_start_are_accepted_once(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")

    def fill() -> None:
        with Publisher(DATASET, DISTRICT, node.path, "127.0.0.1:1") as publisher:
            for n in range(20):
                publisher.publish({"code": f"{n}", "name": "a", "d": "440106"})

    with pytest.raises(FileNotFoundError):
        fill()
    assert len(node.waiting()) == 20


def test_leaving_the_block_reports_waiting_rows_when_the_bus_does_not_answer(node: Node) -> None:
    with pytest.raises(UnavailableError, match="1 rows wait"), node.publisher() as publisher:
        publisher.publish({"code": "1", "name": "a", "d": "440106"})
    assert node.waiting() == [("1", "a")]


def test_a_row_that_does_not_fit_is_refused_at_once(node: Node) -> None:
    publisher = node.publisher()
    with publisher.outbox:
        with pytest.raises(RowError, match="not a whole number"):
            publisher.publish({"code": "1", "at": 1.5})
        with pytest.raises(RowError, match="names district"):
            publisher.publish({"code": "1", "d": "440103"})
    with pytest.raises(InputError, match="not known"):
        Publisher(DATASET, "44010", node.path, "127.0.0.1:1")


def test_key_and_value_are_the_encoders_bytes(node: Node) -> None:
    publisher = node.publisher()
    row = {"code": "1", "name": None, "at": None, "d": None}
    with publisher.outbox:
        assert publisher.encode(row)[:2] == (Encoder(DATASET).key(row), Encoder(DATASET).value(row))
