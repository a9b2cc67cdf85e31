"""The inbox keeps each receipt once, with its state, wherever its reader is killed."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from producers.encoded_row import EncodedRow
from producers.inbox import Inbox
from producers.outbox import Outbox
from schemas.wire.receipt import Receipt
from tests.unit.producers.publishing import TOPIC, CutError
from tests.unit.schemas.test_receipt import RECEIPT


def refused(receipt: Receipt) -> tuple[str, int, int]:
    return receipt.topic, receipt.partition, receipt.offset


def test_inbox_keeps_each_receipt_once_with_its_state(tmp_path: Path) -> None:
    later = replace(RECEIPT, offset=8)
    with Inbox(tmp_path / "inbox.sqlite") as inbox:
        assert inbox.store([RECEIPT, RECEIPT], {0: 2}, "id") == 1
        inbox.set_state([refused(RECEIPT)], "acknowledged")
        assert inbox.store([replace(RECEIPT, refused_at="later"), later], {0: 4}, "id") == 1
    with Inbox(tmp_path / "inbox.sqlite") as inbox:
        assert [(h.receipt, h.state) for h in inbox.receipts()] == [(RECEIPT, "acknowledged"), (later, "new")]
        assert [h.receipt for h in inbox.receipts("new")] == [later]
        assert list(inbox.receipts("new", "other.v1")) == []
        assert inbox.position() == {0: (4, "id")}


def test_an_answered_receipt_stays_answered_and_only_changes_are_counted(tmp_path: Path) -> None:
    with Inbox(tmp_path / "inbox.sqlite") as inbox:
        inbox.store([RECEIPT], {0: 1}, "id")
        for state, changed in (("acknowledged", 1), ("acknowledged", 0), ("answered", 1), ("acknowledged", 0)):
            assert inbox.set_state([refused(RECEIPT)], state) == changed  # type: ignore[arg-type]
        held = inbox.find(*refused(RECEIPT))
        assert held is not None
        assert held.state == "answered"


def test_an_answer_is_noted_later_when_the_node_is_killed_before_noting_it(tmp_path: Path) -> None:
    with Inbox(tmp_path / "inbox.sqlite") as inbox, Outbox(inbox.outbox_path) as outbox:
        inbox.store([RECEIPT], {0: 1}, "id")
        outbox.accept(TOPIC, [EncodedRow(b"a", b"", answers=RECEIPT.id)])  # killed here
        outbox.sent(10)
        inbox.note_answers(outbox)
        held = inbox.find(*refused(RECEIPT))
        assert held is not None
        assert (held.state, outbox.answered()) == ("answered", [])


class CutReceipt(Receipt):
    """The process is killed where this receipt would be written."""

    def to_json(self) -> bytes:
        raise CutError


def test_a_fetch_killed_between_outbox_and_inbox_loses_nothing(tmp_path: Path) -> None:
    key = b'{"id":"a"}'
    cut = CutReceipt(**{f.name: getattr(RECEIPT, f.name) for f in fields(RECEIPT)})
    with Inbox(tmp_path / "inbox.sqlite") as inbox, Outbox(inbox.outbox_path) as outbox:
        delivery = outbox.begin(TOPIC, "t.v1", "440106", None, "snapshot")
        outbox.advance(delivery, [EncodedRow(key, b"1")], read=1)
        with pytest.raises(CutError):
            inbox.store([cut], {0: 1}, "id")
        assert inbox.position() == {}  # so the receipt will be read again
        assert inbox.store([RECEIPT], {0: 1}, "id") == 1
        again = outbox.begin(TOPIC, "t.v1", "440106", None, "snapshot")
        assert outbox.advance(again, [EncodedRow(key, b"1")], read=1).accepted == 1  # sent again, though unchanged
