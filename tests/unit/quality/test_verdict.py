"""A verdict has one text: a release hashes that text, and it is read back as the same verdict."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest

from quality.verdict import Result, Verdict
from schemas.errors import StateError

HELD = Result(
    "amount_not_negative", "critical", False, "expect_aggregate_value",
    {"aggregate": "count_if((amount < 0\n))", "operator": "mustBe", "threshold": 0}, 1,
    ({"id": "a", "amount": -1},), None, "Not negative. 不得为负。",
)  # fmt: skip
SHARE = Result("mostly_given", "warning", False, "expect_aggregate_value", {}, 12.5, (), None, "")
BROKEN = Result("mean", "info", False, "expect_query_value", {"query": "SELECT 1"}, None, (), "no such column", "")
KEY = Result("key_is_unique", "critical", True, "expect_column_values_to_be_unique", {"column": "id"}, 0, (), None, "")
VERDICT = Verdict(
    "t.v1", "1.0.0", "c" * 64, "5" * 64, 7, 8, False, (KEY, BROKEN, SHARE, HELD), "2026-03-01T00:00:00.000+00:00",
    0.25, {"great_expectations": "1", "spark": "4"}, ("key_is_unique",), "2026-02-28T00:00:00.000+00:00", 3,
)  # fmt: skip
TEXT = (
    '{"account_version":3,"carried":["key_is_unique"],"contract_sha256":"' + "c" * 64 + '","contract_version":"1.0.0",'
    '"counted_at":"2026-02-28T00:00:00.000+00:00","dataset":"t.v1","judged_at":"2026-03-01T00:00:00.000+00:00",'
    '"passed":false,"results":[{"description":"Not negative. 不得为负。","error":null,"expectation":"expect_aggregate_value",'
    '"observed":1,"parameters":{"aggregate":"count_if((amount < 0\\n))","operator":"mustBe","threshold":0},'
    '"rule":"amount_not_negative","samples":[{"amount":-1,"id":"a"}],"severity":"critical","success":false}],"rows":8,'
    '"seconds":0.25,"silver_version":7,"suite_sha256":"'
    + "5" * 64
    + '","versions":{"great_expectations":"1","spark":"4"}}'
)


def test_text_is_canonical_and_its_hash_never_changes() -> None:
    """A release names its verdict by this hash: if the text changes, the hashes of stored verdicts no longer match."""
    verdict = replace(VERDICT, results=(HELD,))
    assert verdict.to_json() == TEXT
    assert verdict.sha256 == "e7f6d046ebacd8bd7289c096001f61cc930c77aa47da69f71afab3a086faa2e1"


def test_verdict_is_read_back_as_it_was() -> None:
    assert Verdict.from_json(VERDICT.to_json()) == VERDICT


def test_a_value_that_json_lacks_is_read_back_as_text_and_written_the_same() -> None:
    dated = replace(HELD, samples=({"day": date(2026, 3, 1), "amount": Decimal("1.50"), "lines": [{"n": None}]},))
    text = replace(VERDICT, results=(dated,)).to_json()
    read = Verdict.from_json(text)
    assert read.by_rule["amount_not_negative"].samples == (
        {"day": "2026-03-01", "amount": "1.50", "lines": [{"n": None}]},
    )
    assert read.to_json() == text


def test_results_are_found_by_the_name_of_their_rule() -> None:
    assert VERDICT.by_rule["mostly_given"] is SHARE
    assert VERDICT.by_rule.get("account_closes") is None


def test_failures_are_listed_critical_ones_first() -> None:
    assert VERDICT.failures == (HELD, SHARE, BROKEN)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", VERDICT.to_json().replace('"rows":8,', ""),
     json.dumps({**json.loads(VERDICT.to_json()), "signature": "x"}),
     VERDICT.to_json().replace('"rule":', '"name":')],
)  # fmt: skip
def test_a_text_that_is_no_verdict_of_this_version_is_refused_with_a_message(text: str) -> None:
    with pytest.raises(StateError, match="verdict cannot be read") as refused:
        Verdict.from_json(text)
    assert "评判结果" in refused.value.zh
