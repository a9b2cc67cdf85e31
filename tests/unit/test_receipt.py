"""A receipt is whole or says what was cut; nothing that comes on the return topic stops its reader."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.inbox import Inbox
from producers.outbox import Entry, Outbox
from schemas.errors import InputError, StateError
from schemas.wire.receipt import LARGEST, Reason, Receipt, parse_receipt_id

TOPIC = "gz.up.440106.t.v1"
REASON = Reason("not_negative", "amount", "-1", "The amount is negative.", "金额为负。")
RECEIPT = Receipt(
    "t", "t.v1", "1.2.0", TOPIC, 0, 7, '{"id":"a"}', 1_700_000_000_123, False, (REASON,),
    {"id": "a", "amount": "-1", "note": None}, "2026-03-01T00:00:00+00:00",
)  # fmt: skip


def test_receipt_comes_back_as_it_was() -> None:
    assert Receipt.from_json(RECEIPT.to_json()) == RECEIPT
    undecoded = replace(RECEIPT, record=None, key=None, deleted=True)
    assert Receipt.from_json(undecoded.to_json()) == undecoded
    assert (RECEIPT.id, RECEIPT.short_id, RECEIPT.district) == (f"{TOPIC}:0:7", "t.v1:0:7", "440106")


@pytest.mark.parametrize("text", ["x", "\u0000", "😀"])
@pytest.mark.parametrize("columns", [1, 40, 3_000])
def test_receipt_of_a_large_record_fits_and_names_what_was_cut(text: str, columns: int) -> None:
    record = {f"c{i}": text * (1_000_000 // columns) for i in range(columns)}
    reasons = tuple(replace(REASON, rule=f"r{i}", found=text * 100_000) for i in range(min(columns, 300)))
    large = replace(RECEIPT, record={**record, "id": "a"}, reasons=reasons, key=text * 1_000_000)
    made = large.to_json()
    assert len(made) <= LARGEST
    found = Receipt.from_json(made)
    assert {"_key", "_reasons"} <= set(found.shortened)
    if found.record is None:
        assert "_record" in found.shortened
    else:
        cut = {name for name, value in large.record.items() if found.record[name] != value}  # type: ignore[union-attr]
        assert cut <= set(found.shortened)
        assert "id" not in found.shortened
    assert Receipt.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    "value",
    [
        None, b"", b"[]", b"\xff", b"{", b"nul", b"[" * 100_000, b"1" * 10_000, b" " * (5 << 20),
        RECEIPT.to_json()[:-1], RECEIPT.to_json().replace(b'"offset":7', b'"offset":NaN'),
        RECEIPT.to_json().replace(b'"offset":7', b'"offset":' + b"9" * 5_000),
        RECEIPT.to_json().replace(b'"id":"a"', b'"id":"\\ud800"'),
    ],
)  # fmt: skip
def test_what_is_no_receipt_is_refused_in_words(value: bytes | None) -> None:
    with pytest.raises(InputError, match="Not a receipt"):
        Receipt.from_json(value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda x: st.lists(x) | st.dictionaries(st.text(), x),
)


@given(st.sampled_from(sorted(asdict(RECEIPT))), JSON)
def test_any_member_of_a_wrong_type_is_refused_and_never_raises_otherwise(name: str, value: Any) -> None:
    found = {**json.loads(RECEIPT.to_json()), name: value}
    try:
        made = Receipt.from_json(json.dumps(found).encode())
    except InputError:
        return
    assert Receipt.from_json(made.to_json()) == made


@given(st.binary())
def test_any_bytes_are_a_receipt_or_refused(value: bytes) -> None:
    with pytest.raises(InputError):
        Receipt.from_json(value)


def test_members_that_a_newer_city_adds_are_passed_over() -> None:
    found = json.loads(RECEIPT.to_json())
    assert Receipt.from_json(json.dumps({**found, "severity": {"level": [3]}}).encode()) == RECEIPT


@pytest.mark.parametrize("text", [RECEIPT.id, RECEIPT.short_id, f"  {RECEIPT.short_id}\n"])
def test_id_is_taken_whole_and_short(text: str) -> None:
    assert parse_receipt_id(text, "440106") == (TOPIC, 0, 7)


@pytest.mark.parametrize("text", ["", "t.v1", "t.v1:0", "t.v1:0:x", "t.v1:0:²", "t.v1:-1:0", "t.v1:0:" + "9" * 30])
def test_what_is_no_id_is_none(text: str) -> None:
    assert parse_receipt_id(text, "440106") is None


# --- the inbox -----------------------------------------------------------------------------------


def place(receipt: Receipt) -> tuple[str, int, int]:
    return receipt.topic, receipt.partition, receipt.offset


def test_inbox_keeps_each_receipt_once_with_its_state(tmp_path: Path) -> None:
    later = replace(RECEIPT, offset=8)
    with Inbox(tmp_path / "inbox.sqlite") as inbox:
        assert inbox.take([RECEIPT, RECEIPT], {0: 2}, "id") == 1
        inbox.mark([place(RECEIPT)], "acknowledged")
        assert inbox.take([replace(RECEIPT, refused_at="later"), later], {0: 4}, "id") == 1
    with Inbox(tmp_path / "inbox.sqlite") as inbox:
        assert [(h.receipt, h.state) for h in inbox.receipts()] == [(RECEIPT, "acknowledged"), (later, "new")]
        assert [h.receipt for h in inbox.receipts("new")] == [later]
        assert list(inbox.receipts("new", "other.v1")) == []
        assert inbox.position() == {0: (4, "id")}


def test_answered_stays_answered_and_a_mark_counts_what_it_changed(tmp_path: Path) -> None:
    with Inbox(tmp_path / "inbox.sqlite") as inbox:
        inbox.take([RECEIPT], {0: 1}, "id")
        assert [inbox.mark([place(RECEIPT)], s) for s in ("acknowledged", "acknowledged", "answered", "acknowledged")] == [
            1, 0, 1, 0,
        ]  # fmt: skip
        held = inbox.find(*place(RECEIPT))
        assert held is not None
        assert held.state == "answered"


def test_killed_before_the_answer_is_marked_it_is_marked_later(tmp_path: Path) -> None:
    with Inbox(tmp_path / "inbox.sqlite") as inbox, Outbox(inbox.outbox_path) as outbox:
        inbox.take([RECEIPT], {0: 1}, "id")
        outbox.accept(TOPIC, [Entry(b"a", b"", answers=RECEIPT.id)])  # killed here
        outbox.sent(10)
        inbox.settle(outbox)
        held = inbox.find(*place(RECEIPT))
        assert held is not None
        assert (held.state, outbox.answered()) == ("answered", [])


def test_killed_between_outbox_and_inbox_a_fetch_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = b'{"id":"a"}'
    with Inbox(tmp_path / "inbox.sqlite") as inbox, Outbox(inbox.outbox_path) as outbox:
        delivery = outbox.begin(TOPIC, "t.v1", "440106", None, "snapshot")
        outbox.advance(delivery, [Entry(key, b"1")], read=1)
        write = Inbox._write
        monkeypatch.setattr(Inbox, "_write", None)  # the process ends where the inbox would be written
        with pytest.raises(TypeError):
            inbox.take([RECEIPT], {0: 1}, "id")
        monkeypatch.setattr(Inbox, "_write", write)
        assert inbox.position() == {}  # so the receipt is read again
        assert inbox.take([RECEIPT], {0: 1}, "id") == 1
        again = outbox.begin(TOPIC, "t.v1", "440106", None, "snapshot")
        assert outbox.advance(again, [Entry(key, b"1")], read=1).accepted == 1  # the row goes again, though unchanged


def test_inbox_of_a_newer_suibus_is_left_alone(tmp_path: Path) -> None:
    with Inbox(tmp_path / "inbox.sqlite") as inbox:
        inbox._db.execute("PRAGMA user_version=9")
    with pytest.raises(StateError, match="newer Suibus"):
        Inbox(tmp_path / "inbox.sqlite")
