"""What may change within a major version, what is breaking, and what the bus itself refuses (`wire`)."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import fastavro
import pytest

from schemas.compatibility import Change, compare
from schemas.dataset import Dataset, Field, Kind, Limits, Operator, Rule
from schemas.wire.avro import avro_schema

ID = Field("id", "string", True)
SEQ = Field("seq", "long", True)
RULE = Rule("few", "library", metric="rowCount", operator="mustBeGreaterThan", threshold=5)


def dataset(*fields: Field, **changes: Any) -> Dataset:
    base = Dataset(
        "t", "1.0.0", (ID, SEQ, *fields), ("id",), "seq", None, "conditional", None, (), "", "", "t.yaml", ""
    )
    return replace(base, **changes)


def only(old: Dataset, new: Dataset) -> Change:
    """The one change there is, told in both languages."""
    (change,) = compare(old, new)
    assert change.en
    assert re.search("[\u4e00-\u9fff]", change.zh)
    return change


def grade(old: Dataset, new: Dataset) -> str:
    change = only(old, new)
    return "wire" if change.wire else "breaking" if change.breaking else "compatible"


def field(kind: Kind, *, required: bool = False, **options: Any) -> Field:
    return Field("x", kind, required, **options)


MONEY = field("decimal", precision=9, scale=2)


def test_contract_changed_in_words_only_is_no_change() -> None:
    new = dataset(replace(MONEY, title="价格", description="in yuan"), title="商店", version="1.1.0")
    assert compare(dataset(MONEY), new) == []


# ---- fields


def test_adding_an_optional_field_is_compatible() -> None:
    assert grade(dataset(), dataset(MONEY)) == "compatible"


def test_adding_a_required_field_is_not_backward_compatible() -> None:
    change = only(dataset(), dataset(field("string", required=True)))
    assert change.wire
    assert "added without a default" in change.en
    assert "Make it optional" in change.en


def test_removing_a_field_is_breaking() -> None:
    assert grade(dataset(MONEY), dataset()) == "wire"


def test_renaming_a_field_is_a_removal_and_an_addition() -> None:
    changes = compare(dataset(MONEY), dataset(replace(MONEY, name="y")))
    assert [(c.where, c.wire) for c in changes] == [("x", True), ("y", False)]


def test_moving_a_field_is_compatible() -> None:
    other = Field("y", "string", True)
    assert compare(dataset(MONEY, other), dataset(other, MONEY)) == []


def test_decimal_scale_change_is_breaking() -> None:
    change = only(dataset(MONEY), dataset(replace(MONEY, scale=4)))
    assert change.wire
    assert "12.34 would be read as 0.1234" in change.en


@pytest.mark.parametrize("precision", [8, 10])
def test_decimal_precision_change_is_breaking(precision: int) -> None:
    assert grade(dataset(MONEY), dataset(replace(MONEY, precision=precision))) == "wire"


@pytest.mark.parametrize(
    ("old", "new"),
    [("int", "long"), ("long", "int"), ("float", "double"), ("string", "bytes"), ("date", "int"), ("long", "timestamp"),
     ("string", "int"), ("boolean", "string")],
)  # fmt: skip
def test_type_change_is_breaking_in_either_direction(old: Kind, new: Kind) -> None:
    assert grade(dataset(field(old)), dataset(field(new))) == "wire"
    assert grade(dataset(field(new)), dataset(field(old))) == "wire"


@pytest.mark.parametrize("required", [True, False])
def test_nullability_change_is_breaking_in_either_direction(required: bool) -> None:
    old, new = field("string", required=required), field("string", required=not required)
    assert grade(dataset(old), dataset(new)) == "wire"


def test_item_of_an_array_is_held_to_the_same_rules() -> None:
    def of(item: Field) -> Dataset:
        return dataset(field("array", item=item))

    assert grade(of(Field("item", "int")), of(Field("item", "long"))) == "wire"
    assert grade(of(Field("item", "int", True)), of(Field("item", "int"))) == "wire"


def test_member_of_a_record_is_held_to_the_same_rules() -> None:
    def of(*members: Field) -> Dataset:
        return dataset(field("record", fields=members))

    a = Field("a", "int")
    assert grade(of(a), of(a, Field("b", "int"))) == "compatible"
    assert grade(of(a), of(a, Field("b", "int", True))) == "wire"
    assert only(of(a), of(Field("a", "string"))).where == "x.a"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (dataset(), dataset(MONEY)),
        (dataset(field("record", fields=(Field("a", "int"),))),
         dataset(field("record", fields=(Field("a", "int"), Field("b", "string"))))),
        (dataset(field("string"), Field("y", "int")), dataset(Field("y", "int"), field("string"))),
    ],
    ids=["field added", "member added", "fields moved"],
)  # fmt: skip
def test_avro_resolves_in_both_directions_when_a_change_is_graded_compatible(old: Dataset, new: Dataset) -> None:
    assert not any(c.wire for c in compare(old, new))
    row = {"id": "a", "seq": 1, "x": None, "y": 7}
    for writer, reader in ((old, new), (new, old)):
        out = io.BytesIO()
        fastavro.schemaless_writer(out, avro_schema(writer), row)
        out.seek(0)
        read = fastavro.schemaless_reader(out, avro_schema(writer), avro_schema(reader))
        assert read == {f.name: row[f.name] for f in reader.fields}


# ---- what a dataset is


@pytest.mark.parametrize("change", [{"key": ("id", "seq")}, {"sequence": None}, {"district": "id"}, {"name": "u"}])
def test_identity_and_order_of_rows_may_not_change(change: dict[str, Any]) -> None:
    assert grade(dataset(), dataset(**change)) == "wire"


@pytest.mark.parametrize("sharing", ["unconditional", "none"])
def test_sharing_class_change_is_breaking_in_either_direction(sharing: str) -> None:
    assert grade(dataset(), dataset(sharing=sharing)) == "breaking"


def test_freshness_change_is_compatible() -> None:
    assert grade(dataset(), dataset(freshness=timedelta(days=1))) == "compatible"


def test_breaking_changes_come_first() -> None:
    changes = compare(dataset(MONEY), dataset(field("string"), Field("a", "int"), sharing="none"))
    assert [c.breaking for c in changes] == [True, True, False]


# ---- limits


@pytest.mark.parametrize(
    ("loose", "tight"),
    [
        ({}, {"minimum": 0}), ({"minimum": 0}, {"minimum": 1}), ({"maximum": 9}, {"maximum": 8}), ({}, {"maximum": 8}),
        ({"exclusive_minimum": 0}, {"exclusive_minimum": 1}), ({}, {"exclusive_maximum": 1}),
        ({"min_length": 1}, {"min_length": 2}), ({"max_length": 9}, {"max_length": 5}), ({}, {"pattern": "^a"}),
        ({"multiple_of": 5}, {"multiple_of": 10}),
    ],
)  # fmt: skip
def test_tighter_limit_is_breaking_and_looser_is_not(loose: dict[str, Any], tight: dict[str, Any]) -> None:
    a, b = dataset(field("int", limits=Limits(**loose))), dataset(field("int", limits=Limits(**tight)))
    assert grade(a, b) == "breaking"
    assert grade(b, a) == "compatible"


def test_another_pattern_is_breaking() -> None:
    a, b = (dataset(field("string", limits=Limits(pattern=p))) for p in ("^a", "^b"))
    assert grade(a, b) == "breaking"


# ---- rules


def with_rules(*rules: Rule) -> Dataset:
    return dataset(rules=rules)


@pytest.mark.parametrize(
    ("severity", "found"), [("critical", "breaking"), ("warning", "compatible"), ("info", "compatible")]
)
def test_only_an_added_critical_rule_is_breaking(severity: Any, found: str) -> None:
    assert grade(with_rules(), with_rules(replace(RULE, severity=severity))) == found


def test_removing_a_rule_is_compatible() -> None:
    assert grade(with_rules(RULE), with_rules()) == "compatible"


@pytest.mark.parametrize(
    ("loose", "tight"),
    [
        (("mustBeGreaterThan", 5), ("mustBeGreaterThan", 6)),
        (("mustBeGreaterOrEqualTo", 5), ("mustBeGreaterThan", 5)),
        (("mustBeLessOrEqualTo", 5), ("mustBe", 5)),
        (("mustBeLessOrEqualTo", 5), ("mustBeLessThan", 5)),
        (("mustBeBetween", [1, 9]), ("mustBeBetween", [2, 9])),
        (("mustBeGreaterThan", 0), ("mustBeBetween", [1, 9])),
    ],
)
def test_rule_that_accepts_less_is_breaking_and_more_is_not(
    loose: tuple[Operator, Any], tight: tuple[Operator, Any]
) -> None:
    a, b = (with_rules(replace(RULE, operator=o, threshold=t)) for o, t in (loose, tight))
    assert grade(a, b) == "breaking"
    assert grade(b, a) == "compatible"


def test_enumeration_may_grow_and_not_shrink() -> None:
    def of(*values: str) -> Dataset:
        rule = Rule("known", "library", "x", "invalidValues", {"validValues": list(values)}, "mustBe", 0)
        return dataset(field("string"), rules=(rule,))

    assert grade(of("a", "b"), of("a", "b", "c")) == "compatible"
    assert grade(of("a", "b"), of("a")) == "breaking"
    assert compare(of("a", "b"), of("b", "a")) == []


@pytest.mark.parametrize(
    "change",
    [{"metric": "nullValues"}, {"column": "id"}, {"unit": "percent"}, {"type": "sql", "query": "SELECT 1"}],
)
def test_rule_that_measures_something_else_is_breaking(change: dict[str, Any]) -> None:
    assert grade(with_rules(RULE), with_rules(replace(RULE, **change))) == "breaking"


def test_warning_that_becomes_critical_is_breaking_however_loose() -> None:
    warning = replace(RULE, severity="warning")
    assert grade(with_rules(warning), with_rules(RULE)) == "breaking"
    assert grade(with_rules(warning), with_rules(replace(RULE, threshold=1))) == "breaking"
    assert grade(with_rules(RULE), with_rules(warning)) == "compatible"
    assert grade(with_rules(RULE), with_rules(replace(warning, threshold=50))) == "compatible"
