"""A receipt is whole or says what was cut; no record on the return topic stops its reader."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InputError
from schemas.wire.receipt import LARGEST, Reason, Receipt, parse_receipt_id

TOPIC = "gz.up.440106.t.v1"
REASON = Reason("not_negative", "amount", "-1", "The amount is negative.", "金额为负。")
RECEIPT = Receipt(
    "t", "t.v1", "1.2.0", TOPIC, 0, 7, '{"id":"a"}', 1_700_000_000_123, False, (REASON,),
    {"id": "a", "amount": "-1", "note": None}, "2026-03-01T00:00:00+00:00",
)  # fmt: skip


def test_a_receipt_is_read_back_unchanged() -> None:
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
def test_bytes_that_are_no_receipt_are_refused_with_a_message(value: bytes | None) -> None:
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


def test_members_that_a_newer_city_adds_are_ignored() -> None:
    found = json.loads(RECEIPT.to_json())
    assert Receipt.from_json(json.dumps({**found, "severity": {"level": [3]}}).encode()) == RECEIPT


@pytest.mark.parametrize("text", [RECEIPT.id, RECEIPT.short_id, f"  {RECEIPT.short_id}\n"])
def test_an_id_is_read_in_its_long_and_short_form(text: str) -> None:
    assert parse_receipt_id(text, "440106") == (TOPIC, 0, 7)


@pytest.mark.parametrize("text", ["", "t.v1", "t.v1:0", "t.v1:0:x", "t.v1:0:²", "t.v1:-1:0", "t.v1:0:" + "9" * 30])
def test_a_text_that_is_no_id_gives_none(text: str) -> None:
    assert parse_receipt_id(text, "440106") is None
