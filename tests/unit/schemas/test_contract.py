"""A contract is served as meant, or refused with the line, what was found and what is accepted, in both languages."""

from __future__ import annotations

import re
from copy import deepcopy
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from schemas.contract import load_contract, parse_contract
from schemas.contract_folders import SHIPPED, find_dataset, load_contracts
from schemas.contract_page import page
from schemas.dataset import Dataset, Field
from schemas.errors import ContractError, InputError

CONTRACTS = Path(__file__).parents[2] / "contracts"
BASE = """\
apiVersion: v3.1.0
kind: DataContract
id: shops
version: 1.0.0
status: active
schema:
  - name: shops
    properties:
      - name: id
        logicalType: string
        required: true
        primaryKey: true
      - name: seq
        logicalType: integer
        required: true
      - name: price
        logicalType: number
        physicalType: decimal(9,2)
        quality:
          - {metric: nullValues, mustBe: 0}
    quality:
      - {metric: rowCount, mustBeGreaterThan: 0}
customProperties:
  - {property: suibus.sequence, value: seq}
  - {property: suibus.freshness, value: P1D}
"""


def changed(old: str, new: str) -> str:
    assert BASE.count(old) == 1, old
    return BASE.replace(old, new)


def refusal(text: str) -> ContractError:
    with pytest.raises(ContractError) as caught:
        parse_contract(text, "shops.yaml")
    return caught.value


def column(**options: Any) -> Field:
    """The column `x` of a contract, its property written as given."""
    document = yaml.safe_load(BASE)
    document["schema"][0]["properties"].append({"name": "x", **options})
    return parse_contract(yaml.safe_dump(document), "shops.yaml").field("x")


def with_rule(rule: dict[str, Any], **options: Any) -> str:
    """A contract whose column `x` has one rule."""
    document = yaml.safe_load(BASE)
    document["schema"][0]["properties"].append({"name": "x", **options, "quality": [rule]})
    return yaml.safe_dump(document)


DECIMAL = "        physicalType: decimal(9,2)\n"
RULE = "{metric: nullValues, mustBe: 0}"
SEQ = "        logicalType: integer\n"
COUNT = "{metric: rowCount, mustBeGreaterThan: 0}"
PRICE = "      - name: price\n"


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        pytest.param("        required: true\n        primaryKey", "        requierd: true\n        primaryKey", 11,
                     ("'requierd'", "did you mean required?"), id="wrong key, near a right one"),
        pytest.param("status: active", "colour: blue", 5, ("'colour'", "the keys here are", "apiVersion"),
                     id="wrong key, near none"),
        pytest.param("logicalType: number", "logicalType: money", 17, ('found "money"', "one of string, date"),
                     id="unknown logical type"),
        pytest.param(DECIMAL, "        physicalType: money\n", 18, ("'money'", "double precision"),
                     id="unknown physical type"),
        pytest.param(SEQ, SEQ + "        physicalType: varchar(10)\n", 15,
                     ("'varchar(10)' for logicalType integer", "bigint"), id="physical and logical type clash"),
        pytest.param(DECIMAL, "        physicalType: decimal\n", 18, ("'decimal'", "decimal(precision,scale)"),
                     id="decimal without precision"),
        pytest.param(DECIMAL, "        physicalType: decimal(39,2)\n", 18, ("decimal(39,2)", "precision 1 to 38"),
                     id="decimal too wide"),
        pytest.param("logicalType: number\n" + DECIMAL, "logicalType: map\n        map: {key: {logicalType: string}, "
                     "value: {logicalType: string}}\n", 17, ("found map", "one of string, boolean"), id="map"),
        pytest.param("logicalType: number\n" + DECIMAL, "logicalType: time\n", 17,
                     ("found time", "one of string, boolean"), id="a type of the standard that is not served"),
        pytest.param("        logicalType: number\n" + DECIMAL, "", 16, ("found no type", "one of string"),
                     id="no type"),
        pytest.param("status: active", "id: again", 5, ("'id' appears twice, first in line 3", "Keep one"),
                     id="duplicate key"),
        pytest.param("schema:\n  - name: shops", "schema:\n  - name: one\n    properties: []\n  - name: shops", 6,
                     ("found 2 schema objects", "exactly one"), id="two schema objects"),
        pytest.param("        primaryKey: true\n", "", 8, ("no column with primaryKey", "at least one"),
                     id="no primary key"),
        pytest.param("        required: true\n        primaryKey", "        required: false\n        primaryKey", 11,
                     ("id is required: false", "expected required: true"), id="nullable key"),
        pytest.param("      - name: id\n        logicalType: string", "      - name: id\n        logicalType: boolean",
                     9, ("id is boolean", "expected one of string, int, long, date, timestamp"), id="key of a wrong type"),
        pytest.param("suibus.freshness, value: P1D", "suibus.retention, value: P1D", 25,
                     ("suibus.retention", "suibus.sequence"), id="unknown fact"),
        pytest.param("suibus.freshness, value: P1D", "suibus.sequence, value: id", 25,
                     ("a second time, first in line 24", "once"), id="a fact twice"),
        pytest.param("value: seq", "value: sequence", 24, ("'sequence' (no such column)", "a required column"),
                     id="sequence names a missing column"),
        pytest.param("value: seq", "value: price", 24, ("decimal(9,2), not required", "a required column"),
                     id="sequence names a column that cannot order"),
        pytest.param("value: seq", "value: [seq]", 24, ("['seq']", "a required column"), id="sequence is a list"),
        pytest.param("value: P1D", "value: 1 day", 25, ("'1 day'", "P1D or PT4H"), id="bad duration"),
        pytest.param("value: P1D", "value: P1M", 25, ("'P1M'", "weeks, days or less"), id="a month has no length"),
        pytest.param("value: P1D", "value: P9999999999D", 25, ("P1D or PT4H",), id="a duration beyond all time"),
        pytest.param("suibus.freshness, value: P1D", "suibus.sharing, value: secret", 25,
                     ("'secret'", "unconditional, conditional or none"), id="unknown sharing class"),
        pytest.param(RULE, "{metric: nullValues, mustBe: 0, severity: dire}", 20, ("'dire'", "critical, error"),
                     id="bad severity"),
        pytest.param(RULE, "{metric: nullValues}", 20, ("exactly one of mustBe",), id="no operator"),
        pytest.param(RULE, "{metric: nullValues, mustBe: 0, mustBeLessThan: 3}", 20, ("exactly one of mustBe",),
                     id="two operators"),
        pytest.param(RULE, "{metric: nullValues, mustBe: none}", 20, ("found 'none'", "expected a number"),
                     id="threshold that is no number"),
        pytest.param(COUNT, "{metric: rowCount, mustBeBetween: [9, 1]}", 22, ("[9, 1]", "the smaller number first"),
                     id="interval upside down"),
        pytest.param(COUNT, "{metric: rowCount, mustBe: 5, unit: percent}", 22, ("'percent'", "expected rows"),
                     id="percent of nothing"),
        pytest.param(RULE, "{metric: nulls, mustBe: 0}", 20, ('"nulls"', "nullValues, missingValues"),
                     id="unknown metric"),
        pytest.param(RULE, "{rule: minCheck, mustBe: 0}", 20, ('"minCheck"', "nullValues, missingValues"),
                     id="a v3.0 rule that no metric equals"),
        pytest.param(COUNT, "{metric: nullValues, mustBe: 0}", 22, ("at the schema object", "under a column"),
                     id="column metric at the schema object"),
        pytest.param(COUNT, "{metric: duplicateValues, mustBe: 0}", 22, ("arguments.properties",),
                     id="duplicates of what"),
        pytest.param(COUNT, "{metric: duplicateValues, mustBe: 0, arguments: {properties: [ids]}}", 22,
                     ("'ids'", "one of id, seq, price"), id="duplicates of a missing column"),
        pytest.param(COUNT, "{type: sql, mustBe: 0}", 22, ("the key query",), id="sql without query"),
        pytest.param(COUNT, '{type: sql, query: "SELECT COUNT(*) FROM shops WHERE seq < 0", mustBe: 0}', 22,
                     ("FROM shops", "${object}"), id="query of a table by name"),
        pytest.param(COUNT, '{type: sql, query: "SELECT COUNT(*) FROM ${object} WHERE ${property} < 0", mustBe: 0}', 22,
                     ("${property} in a rule of the dataset", "the column's own name"), id="query of no column"),
        pytest.param(COUNT, '{type: sql, query: "SELECT COUNT(*) FROM ${object} WHERE x < ${limit}", mustBe: 0}', 22,
                     ("${limit}", "${object} for the dataset"), id="unknown placeholder"),
        pytest.param(COUNT, "{type: custom, engine: soda, implementation: {type: expect_x}}", 22,
                     ("'soda'", "greatExpectations"), id="bad custom engine"),
        pytest.param(COUNT, "{type: custom, engine: greatExpectations, implementation: row_count > 5}", 22,
                     ("'row_count > 5'", "a mapping such as {type: expect_"), id="custom rule that is no expectation"),
        pytest.param(COUNT, "{type: custom, engine: greatExpectations, implementation: "
                     "{type: expect_column_values_to_be_null, kwargs: {column: prize}}}", 22,
                     ("'prize'", "one of id, seq, price"), id="expectation of a missing column"),
        pytest.param("      - name: price", "      - name: 单价", 16, ("'单价'", "into businessName"),
                     id="Chinese column name"),
        pytest.param(PRICE, "      - name: SEQ\n", 16, ("'SEQ' a second time", "different names"),
                     id="two columns that differ in capitals"),
        pytest.param("version: 1.0.0", "version: 1.0", 4, ("found 1.0", "text: put it in quotes"),
                     id="version 1.0 unquoted"),
        pytest.param("version: 1.0.0", "version: v1", 4, ("'v1'", "such as 1.0.0"), id="version that is no number"),
        pytest.param("apiVersion: v3.1.0", "apiVersion: v4.0.0", 1, ('"v4.0.0"', "one of v3.2.0"),
                     id="a standard of the future"),
        pytest.param("id: shops\n", "", 1, ("the key id in it",), id="a required key is missing"),
        pytest.param("status: active", "true: active", 5, ("key true is not text", "quotes"), id="key that is no text"),
        pytest.param("status: active", "status: a: b", 5, ("not YAML", "quote the text"), id="not YAML"),
        pytest.param("status: active", "status: \u0001", 5, ("not YAML", "Remove the character"),
                     id="control character"),
        pytest.param("status: active", "status: 0b_", 1, ("not YAML",), id="number that is none"),
    ],
)  # fmt: skip
def test_refusal_names_line_finding_and_what_is_accepted(old: str, new: str, line: int, says: tuple[str, ...]) -> None:
    error = refusal(changed(old, new))
    assert f"shops.yaml:{line}: " in error.en
    assert f"shops.yaml:{line}: " in error.zh
    for fragment in says:
        assert fragment in error.en
    for sentence in error.zh.splitlines():
        assert re.search("[\u4e00-\u9fff]", sentence.removeprefix("shops.yaml").replace("单价", "")), sentence


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_empty_file_is_called_empty(text: str) -> None:
    error = refusal(text)
    if text == "---\n":
        assert "expected a contract" in error.en
    else:
        assert "shops.yaml:1: the file is empty" in error.en
        assert "文件为空" in error.zh


@pytest.mark.parametrize("text", ["- a list", "just text", "3"])
def test_yaml_that_is_no_mapping_is_refused(text: str) -> None:
    assert "shops.yaml:1: found" in refusal(text).en


def test_all_problems_are_reported_together_in_the_order_of_the_file() -> None:
    text = (
        changed("value: seq", "value: nothing").replace("decimal(9,2)", "decimal").replace("- name: id", "- name: 号")
    )
    lines = [int(line.split(":")[1]) for line in refusal(text).en.splitlines()]
    assert lines == sorted(lines)
    assert {9, 18, 24} <= set(lines)


def test_alias_that_contains_itself_is_refused_by_its_line() -> None:
    text = changed("      - name: price\n", "      - &me\n        name: tree\n        logicalType: object\n"
                   "        properties: [*me]\n      - name: price\n")  # fmt: skip
    error = refusal(text)
    assert "shops.yaml:16: an alias contains itself" in error.en
    assert "别名包含自身" in error.zh


def test_aliases_that_expand_exponentially_are_refused() -> None:
    levels = "".join(f"  l{i + 1}: &l{i + 1} [{', '.join([f'*l{i}'] * 10)}]\n" for i in range(9))
    error = refusal(f"x:\n  l0: &l0 [a]\n{levels}")
    assert "more than 100,000 values" in error.en


def test_alias_used_twice_stands_for_two_columns() -> None:
    text = changed("      - name: price\n        logicalType: number\n" + DECIMAL,
                   "      - name: note\n        logicalTypeOptions: &limit {maxLength: 5}\n        logicalType: string\n"
                   "      - name: price\n        logicalTypeOptions: *limit\n        logicalType: string\n")  # fmt: skip
    dataset = parse_contract(text, "shops.yaml")
    assert dataset.field("note").limits == dataset.field("price").limits
    assert dataset.field("price").limits.max_length == 5


def test_yaml_nested_too_deeply_is_refused() -> None:
    assert "nested deeper than" in refusal("x: " + "[" * 100 + "]" * 100).en
    assert "nested deeper than" in refusal("x: " + "[\n" * 100_000).en


def test_invalid_utf8_is_refused_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "shops.yaml"
    path.write_bytes(BASE.replace("status: active", "status: 有效").encode("gb18030"))
    with pytest.raises(ContractError) as caught:
        load_contract(path)
    assert f"{path}:5: found byte 0xD3, which is not UTF-8" in caught.value.en
    assert f"{path}:5: 字节 0xD3 不是 UTF-8" in caught.value.zh


def test_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "shops.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + BASE.replace("\n", "\r\n").encode())
    assert load_contract(path).text == BASE


def test_missing_file_is_refused_in_both_languages(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="cannot be read") as caught:
        load_contract(tmp_path / "none.yaml")
    assert "无法读取数据契约" in caught.value.zh


# ---- many files


def test_of_one_dataset_in_two_files_the_first_is_kept_and_both_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(BASE, "utf-8")
    (tmp_path / "b.yaml").write_text(BASE.replace("name: shops", "name: Shops"), "utf-8")
    found, (error,) = load_contracts([tmp_path])
    assert found["shops.v1"].path == str(tmp_path / "a.yaml")
    assert str(tmp_path / "a.yaml") in error.en
    assert str(tmp_path / "b.yaml") in error.en
    assert "已由" in error.zh


def test_copy_of_a_contract_is_no_conflict(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(BASE, "utf-8")
    (tmp_path / "b.yml").write_text(BASE, "utf-8")
    assert [len(part) for part in load_contracts([tmp_path])] == [1, 0]


def test_a_broken_contract_does_not_stop_others_from_being_served(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("nonsense", "utf-8")
    (tmp_path / "b.yaml").write_text(BASE, "utf-8")
    found, refused = load_contracts([tmp_path])
    assert list(found) == ["shops.v1"]
    assert len(refused) == 1


def test_newest_major_of_a_dataset_is_found_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(BASE.replace("version: 1.0.0", "version: 10.0.0"), "utf-8")
    (tmp_path / "b.yaml").write_text(BASE.replace("version: 1.0.0", "version: 9.0.0"), "utf-8")
    assert find_dataset("shops", [tmp_path]).major == 10
    assert find_dataset("shops.v9", [tmp_path]).major == 9


def test_the_error_for_an_unknown_dataset_lists_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(BASE, "utf-8")
    with pytest.raises(InputError, match="Contracts found: shops") as caught:
        find_dataset("shop", [tmp_path])
    assert "已有契约：shops" in caught.value.zh


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_contract_is_served(path: Path) -> None:
    assert load_contract(path).name == path.stem


# ---- what a data engineer writes


def test_a_v3_0_document_is_served() -> None:
    dataset = load_contract(CONTRACTS / "as_v3_0.yaml")
    assert {f.name: f.type_name for f in dataset.fields} == {
        "rcvr_id": "string",
        "txn_ref_dt": "date",
        "changed_at": "timestamp",
        "country": "string",
        "amount": "decimal(18,2)",
    }
    assert dataset.field("rcvr_id").limits.max_length == 18
    assert dataset.sequence == "changed_at"
    found = {r.name: (r.metric, r.arguments, r.operator, r.threshold, r.unit) for r in dataset.rules}
    assert found == {
        "country_nullValues": ("nullValues", {}, "mustBe", 0, "rows"),
        "country_invalidValues": ("invalidValues", {"validValues": ["CN", "US"]}, "mustBe", 0, "rows"),
        "few repeat": ("duplicateValues", {}, "mustBeLessThan", 10, "percent"),
        "row count range": ("rowCount", {}, "mustBeBetween", [100, 120], "rows"),
        "sql": (None, {}, "mustBe", 0, "rows"),
    }


def test_a_v3_1_document_is_served() -> None:
    dataset = load_contract(CONTRACTS / "as_v3_1.yaml")
    assert {f.name: f.type_name for f in dataset.fields} == {
        "order_id": "long",
        "ordered_at": "timestamp",
        "shop": "string",
        "total": "decimal(18,2)",
        "lines": "array<record<sku:string>>",
        "notes": "array<string>",
    }
    assert dataset.field("ordered_at").limits.minimum == datetime(2019, 12, 31, 16, tzinfo=UTC)
    assert dataset.field("total").limits.maximum == Decimal("99999.99")
    assert dataset.field("shop").limits.max_length == 20
    assert (dataset.sharing, dataset.freshness) == ("unconditional", timedelta(hours=4))
    assert [r.severity for r in dataset.rules] == ["warning", "critical", "critical", "info", "critical"]
    assert dataset.rules[-1].expectation == {
        "type": "expect_column_values_to_be_between",
        "kwargs": {"column": "total", "min_value": 0},
    }


def test_own_properties_may_be_in_the_schema_object() -> None:
    facts = BASE[BASE.index("customProperties") :]
    moved = BASE.removesuffix(facts) + "".join(f"    {line}\n" for line in facts.splitlines())
    assert moved != BASE
    assert parse_contract(moved).sequence == parse_contract(BASE).sequence == "seq"
    assert parse_contract(moved).freshness == timedelta(days=1)


def test_a_text_rule_is_not_checked() -> None:
    text = changed(COUNT, "{type: text, description: Reconciled by hand.}")
    assert [r.metric for r in parse_contract(text).rules] == ["nullValues"]


def test_a_key_column_is_required_by_default() -> None:
    text = changed("        required: true\n        primaryKey", "        primaryKey")
    assert parse_contract(text).field("id").required


def test_key_columns_follow_their_positions() -> None:
    dataset = load_contract(CONTRACTS / "every_type.yaml")
    assert dataset.key == ("day", "id")
    assert [f.name for f in dataset.table_fields[:4]] == ["day", "id", "seq", "a_string"]


def test_two_rules_of_one_name_stay_two_rules() -> None:
    text = changed(RULE, RULE + "\n          - {metric: nullValues, mustBeLessThan: 5, unit: percent}")
    names = [r.name for r in parse_contract(text).rules if r.metric == "nullValues"]
    assert names == ["price_nullValues", "price_nullValues_2"]


@pytest.mark.parametrize(
    ("duration", "length"),
    [("P2W", timedelta(weeks=2)), ("P1DT12H", timedelta(hours=36)), ("PT90M", timedelta(minutes=90)),
     ("PT1H30S", timedelta(seconds=3630))],
)  # fmt: skip
def test_an_iso_8601_duration_is_read(duration: str, length: timedelta) -> None:
    assert parse_contract(changed("value: P1D", f"value: {duration}")).freshness == length


@pytest.mark.parametrize("duration", ["P", "PT", "P1DT", "1D", "-P1D", "P1Y", "PT5", "p1d", "P1.5D", "P１D"])
def test_a_text_that_is_no_duration_is_refused(duration: str) -> None:
    assert "expected an ISO 8601 duration" in refusal(changed("value: P1D", f"value: {duration}")).en


# ---- types


@pytest.mark.parametrize(
    ("logical", "physical", "kind"),
    [
        ("integer", None, "long"), ("number", None, "double"), ("string", None, "string"),
        ("boolean", "BOOLEAN", "boolean"), ("integer", "INT", "int"), ("integer", "BigInt", "long"),
        ("integer", "int(11)", "int"), ("number", "DOUBLE PRECISION", "double"), ("number", "REAL", "float"),
        ("number", "DECIMAL(18, 2)", "decimal(18,2)"), ("number", "numeric( 10 )", "decimal(10,0)"),
        ("string", "VARCHAR(200)", "string"), ("string", "varchar(max)", "string"),
        ("string", "character varying(20)", "string"), ("string", "BYTEA", "bytes"), ("date", "DATE", "date"),
        ("date", "timestamp", "timestamp"), ("timestamp", "TIMESTAMP WITH TIME ZONE", "timestamp"),
        ("timestamp", "timestamp(6) with time zone", "timestamp"), ("timestamp", "Timestamp_LTZ", "timestamp"),
        (None, "bigint", "long"), (None, "text", "string"),
    ],
)  # fmt: skip
def test_type_is_read_in_any_capitals_and_spacing(logical: str | None, physical: str | None, kind: str) -> None:
    given_types = {"logicalType": logical, "physicalType": physical}
    assert column(**{k: v for k, v in given_types.items() if v}).type_name == kind


@pytest.mark.parametrize("physical", ["timestamp_ntz", "TIMESTAMP WITHOUT TIME ZONE", "timestamp(6) without time zone"])
def test_time_without_zone_is_refused_with_the_reason(physical: str) -> None:
    with pytest.raises(ContractError) as caught:
        column(logicalType="timestamp", physicalType=physical)
    assert repr(physical) in caught.value.en
    assert "names no instant" in caught.value.en
    assert "不指明确定的时刻" in caught.value.zh or "不指明" in caught.value.zh


@pytest.mark.parametrize(
    ("logical", "format_", "kind"),
    [("integer", "i32", "int"), ("integer", "u16", "int"), ("integer", "i64", "long"), ("integer", "u32", "long"),
     ("number", "f32", "float"), ("number", "f64", "double"), ("string", "byte", "bytes"), ("string", "email", "string")],
)  # fmt: skip
def test_format_chooses_the_type_where_no_physical_type_does(logical: str, format_: str, kind: str) -> None:
    assert column(logicalType=logical, logicalTypeOptions={"format": format_}).kind == kind


@pytest.mark.parametrize("format_", ["u64", "i128", "u128"])
def test_an_integer_wider_than_64_bits_is_refused_with_the_remedy(format_: str) -> None:
    with pytest.raises(ContractError, match=r"decimal\(38,0\)"):
        column(logicalType="integer", logicalTypeOptions={"format": format_})


def test_a_date_with_a_time_of_day_is_refused_with_the_remedy() -> None:
    with pytest.raises(ContractError, match="use logicalType timestamp"):
        column(logicalType="date", logicalTypeOptions={"format": "yyyy-MM-dd HH:mm:ss"})
    assert column(logicalType="date", logicalTypeOptions={"format": "yyyy年MM月dd日"}).kind == "date"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"logicalType": "array"}, "an array without items"),
        ({"logicalType": "object"}, "a record without properties"),
        ({"logicalType": "string", "items": {"logicalType": "string"}}, "found items in a string"),
        ({"logicalType": "object", "items": {"logicalType": "string"}}, "found items in a record"),
        ({"logicalType": "array", "items": {"logicalType": "string", "itmes": {}}}, "did you mean items"),
        ({"logicalType": "array", "items": {"logicalType": "string", "enum": [{"value": "a"}]}}, "write a sql rule"),
        (
            {"logicalType": "array", "items": {"logicalType": "timestamp", "physicalType": "timestamp_ntz"}},
            "no instant",
        ),
    ],
)
def test_nested_type_says_what_it_holds(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ContractError, match=says):
        column(**options)


def test_nesting_deeper_than_eight_levels_is_refused() -> None:
    def nested(levels: int) -> dict[str, Any]:
        inner: dict[str, Any] = {"logicalType": "string"}
        for _ in range(levels):
            inner = {"logicalType": "array", "items": inner}
        return inner

    assert column(**nested(8)).type_name.count("array") == 8
    with pytest.raises(ContractError, match="nested deeper than 8 levels"):
        column(**nested(9))


# ---- limits


@pytest.mark.parametrize(
    ("types", "options", "limits"),
    [
        ({"logicalType": "string"}, {"minLength": 1, "maxLength": 9, "pattern": "^[A-Z]+$"},
         {"min_length": 1, "max_length": 9, "pattern": "^[A-Z]+$"}),
        ({"logicalType": "string", "physicalType": "varchar(5)"}, {"maxLength": 9}, {"max_length": 5}),
        ({"logicalType": "string", "physicalType": "varbinary(16)"}, {}, {"max_length": 16}),
        ({"logicalType": "integer"}, {"minimum": 0, "exclusiveMaximum": 10, "multipleOf": 5},
         {"minimum": 0, "exclusive_maximum": 10, "multiple_of": 5}),
        ({"logicalType": "integer"}, {"minimum": 0.5, "maximum": 9.0}, {"minimum": Decimal("0.5"), "maximum": 9}),
        ({"logicalType": "number", "physicalType": "decimal(5,2)"}, {"exclusiveMinimum": 0, "maximum": 99.99},
         {"exclusive_minimum": Decimal(0), "maximum": Decimal("99.99")}),
        ({"logicalType": "number"}, {"minimum": 0.3}, {"minimum": 0.3}),
        ({"logicalType": "number", "physicalType": "float"}, {"maximum": 0.1}, {"maximum": 0.10000000149011612}),
        ({"logicalType": "date"}, {"minimum": "2020-01-01"}, {"minimum": date(2020, 1, 1)}),
        ({"logicalType": "timestamp"}, {"maximum": "2030-01-01T08:00:00+08:00", "timezone": True},
         {"maximum": datetime(2030, 1, 1, tzinfo=UTC)}),
        ({"logicalType": "array", "items": {"logicalType": "string"}}, {"minItems": 1, "maxItems": 3, "uniqueItems": False},
         {"min_length": 1, "max_length": 3}),
    ],
)  # fmt: skip
def test_a_limit_is_converted_to_the_columns_type(types: dict[str, Any], options: Any, limits: dict[str, Any]) -> None:
    found = column(**types, logicalTypeOptions=options).limits
    assert {k: v for k, v in vars(found).items() if v is not None} == limits
    assert {k: type(v) for k, v in vars(found).items() if v is not None} == {k: type(v) for k, v in limits.items()}


@pytest.mark.parametrize(
    ("types", "options", "says"),
    [
        ({"logicalType": "array", "items": {"logicalType": "string"}}, {"uniqueItems": True}, "uniqueItems, which is not"),
        ({"logicalType": "object", "properties": [{"name": "a", "logicalType": "string"}]}, {"minProperties": 1},
         "minProperties, which is not supported for record"),
        ({"logicalType": "number"}, {"multipleOf": 0.1}, "multipleOf, which is not supported for double"),
        ({"logicalType": "string", "physicalType": "bytes"}, {"pattern": "a"}, "pattern, which is not supported for bytes"),
        ({"logicalType": "boolean"}, {"minimum": 0}, "minimum, which is not supported for boolean; supported are: none"),
        ({"logicalType": "timestamp"}, {"timezone": False}, "a time without zone"),
        ({"logicalType": "timestamp"}, {"minimum": "2020-01-01T00:00:00"}, "expected a timestamp, with its zone"),
        ({"logicalType": "date"}, {"minimum": "1 May"}, "found '1 May', expected a date"),
        ({"physicalType": "int"}, {"minimum": "few"}, "found 'few', expected a int"),
        ({"physicalType": "decimal(5,2)"}, {"maximum": "1e9999999999"}, "expected a decimal"),
        ({"logicalType": "number"}, {"maximum": float("inf")}, "found inf, expected a double"),
        ({"logicalType": "number", "physicalType": "float"}, {"maximum": 1e300}, "expected a float"),
        ({"physicalType": "int"}, {"multipleOf": 0}, "found 0, expected a int"),
        ({"physicalType": "text"}, {"maxLength": "9"}, "found '9', expected a length"),
        ({"logicalType": "string", "physicalType": "varchar(3)"}, {"minLength": 5}, "no row could pass"),
        ({"logicalType": "integer"}, {"minimum": 5, "maximum": 3}, "no row could pass"),
    ],
)  # fmt: skip
def test_a_limit_that_cannot_apply_is_refused(types: dict[str, Any], options: dict[str, Any], says: str) -> None:
    with pytest.raises(ContractError) as caught:
        column(**types, logicalTypeOptions=options)
    assert says in caught.value.en


@pytest.mark.parametrize(
    "pattern",
    ["[", "(?P<year>x)", r"\Z", "a{,3}", "{", "[[a]", "[a&&b]", "(?#x)", r"[\b]", "[]a]", "(?x)a", r"\0", r"\v"],
)
def test_pattern_that_python_and_java_read_differently_is_refused(pattern: str) -> None:
    with pytest.raises(ContractError, match="ECMA-262") as caught:
        column(logicalType="string", logicalTypeOptions={"pattern": pattern})
    assert "ECMA-262" in caught.value.zh


PORTABLE = [
    "^[0-9A-HJ-NPQRTUWXY]{18}$", r"^\d{4}-\d{2}$", "^[一-龥]+$", "(?:a|b)+?", "^(?!x)(?=y)y{2,}$", r"\{\[\]\\", r"[\w.\-\]\[]+@",
    "(?i)abc", "(?<=a)b", "[^,]*", r"\u4e00", "a{2}", "x|",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PORTABLE)
def test_pattern_of_ecma_262_is_accepted(pattern: str) -> None:
    assert column(logicalType="string", logicalTypeOptions={"pattern": pattern}).limits.pattern == pattern


# ---- values


@pytest.mark.parametrize(
    ("types", "values"),
    [
        ({"logicalType": "string"}, ["a", 1]),
        ({"logicalType": "string"}, [True]),
        ({"logicalType": "string"}, ["a", None]),
        ({"logicalType": "integer"}, ["1"]),
        ({"logicalType": "integer"}, [1.5]),
        ({"logicalType": "boolean"}, ["yes"]),
        ({"logicalType": "date"}, ["2020-02-30"]),
        ({"logicalType": "timestamp"}, ["2020-01-01T00:00:00"]),
        ({"logicalType": "number"}, [float("nan")]),
        ({"logicalType": "string", "physicalType": "bytes"}, ["abc"]),
        ({"logicalType": "string"}, []),
        ({"logicalType": "string"}, "abc"),
    ],
)
def test_value_that_no_row_of_the_type_can_hold_is_refused(types: dict[str, Any], values: Any) -> None:
    rule = {"metric": "invalidValues", "arguments": {"validValues": values}, "mustBe": 0}
    error = refusal(with_rule(rule, **types))
    assert "expected a" in error.en
    assert re.search("应为", error.zh)


def test_number_among_codes_of_text_is_refused_with_the_remedy() -> None:
    rule = {"metric": "invalidValues", "arguments": {"validValues": [440106]}, "mustBe": 0}
    error = refusal(with_rule(rule, logicalType="string"))
    assert "found 440106, expected a string: put it in quotes" in error.en
    assert "请加引号" in error.zh


@pytest.mark.parametrize(
    ("types", "values", "held"),
    [
        ({"logicalType": "date"}, ["2020-01-01"], [date(2020, 1, 1)]),
        ({"logicalType": "number", "physicalType": "decimal(5,2)"}, [0.1], [Decimal("0.1")]),
        ({"logicalType": "timestamp"}, ["2020-01-01T08:00:00+08:00"], [datetime(2020, 1, 1, tzinfo=UTC)]),
        ({"logicalType": "integer"}, [1, 2], [1, 2]),
    ],
)
def test_listed_values_are_converted_to_the_columns_type(
    types: dict[str, Any], values: list[Any], held: list[Any]
) -> None:
    rule = {"metric": "invalidValues", "arguments": {"validValues": values}, "mustBe": 0}
    assert parse_contract(with_rule(rule, **types)).rules[1].arguments == {"validValues": held}
    assert column(**types, enum=[{"value": v} for v in values]).allowed == tuple(held)


def test_enumeration_is_a_rule_of_its_own() -> None:
    (rule,) = load_contract(CONTRACTS / "every_type.yaml").rules
    assert (rule.name, rule.metric, rule.operator, rule.threshold) == ("an_enum_allowed", "invalidValues", "mustBe", 0)
    assert rule.arguments == {"validValues": ["存续", "注销"]}


@pytest.mark.parametrize(
    ("types", "missing"), [({"logicalType": "string"}, [None, ""]), ({"logicalType": "integer"}, [None])]
)
def test_missing_means_null_and_empty_text_where_nothing_is_said(types: dict[str, Any], missing: list[Any]) -> None:
    text = with_rule({"metric": "missingValues", "mustBe": 0}, **types)
    assert next(r for r in parse_contract(text).rules if r.metric == "missingValues").arguments == {
        "missingValues": missing
    }


@pytest.mark.parametrize(
    ("rule", "types", "says"),
    [
        (
            {"metric": "missingValues", "arguments": {"missingValues": []}},
            {"logicalType": "string"},
            "a list of values",
        ),
        (
            {"metric": "missingValues", "arguments": {"missingValues": [None, ""]}},
            {"logicalType": "integer"},
            "found ''",
        ),
        ({"metric": "invalidValues"}, {"logicalType": "string"}, "expected arguments.validValues or"),
        (
            {"metric": "invalidValues", "arguments": {"validvalues": ["a"]}},
            {"logicalType": "string"},
            "argument validvalues",
        ),
        ({"metric": "invalidValues", "arguments": {"pattern": "["}}, {"logicalType": "string"}, "ECMA-262"),
        ({"metric": "invalidValues", "arguments": {"pattern": "1"}}, {"logicalType": "integer"}, "for a string only"),
        ({"metric": "nullValues", "arguments": {"x": 1}}, {"logicalType": "string"}, "found argument x, expected none"),
    ],
)
def test_an_argument_that_would_check_nothing_is_refused(
    rule: dict[str, Any], types: dict[str, Any], says: str
) -> None:
    assert says in refusal(with_rule({**rule, "mustBe": 0}, **types)).en


# ---- the page


@pytest.mark.parametrize(
    "path", [*sorted(SHIPPED.glob("*.yaml")), *sorted(CONTRACTS.glob("*.yaml"))], ids=lambda p: p.stem
)
def test_page_has_one_line_for_each_column_and_each_rule(path: Path) -> None:
    dataset = load_contract(path)
    first_cells = re.findall(r"^\| (\S.*?) \|", page(dataset), re.MULTILINE)
    heads = [cell for cell in first_cells if cell in ("column 列", "rule 规则")]
    assert len(heads) == 1 + bool(dataset.rules)
    assert [c for c in first_cells if c not in heads] == [f.name for f in dataset.fields] + [
        r.name for r in dataset.rules
    ]


def test_page_shows_what_a_rule_counts() -> None:
    text = page(load_contract(CONTRACTS / "as_v3_1.yaml"))
    assert "missingValues (missingValues null, '', N/A) mustBeLessThan 5 % | warning" in text
    assert "`SELECT COUNT(*) FROM ${object} WHERE ${column} % 0.5 <> 0` mustBe 0 | critical" in text
    assert "expect_column_values_to_be_between (column total, min_value 0) | critical" in text
    assert "an_enum_allowed | an_enum | invalidValues (validValues 存续, 注销) mustBe 0" in page(
        load_contract(CONTRACTS / "every_type.yaml")
    )


def test_bar_and_line_end_in_a_page_stay_in_their_cell() -> None:
    text = changed("      - name: price\n", '      - name: price\n        description: "a | b\\nc"\n')
    assert "| a \\| b c |" in page(parse_contract(text))


# ---- any other content of a file

_DOCUMENT = yaml.safe_load(BASE)
_WORDS = sorted({*re.findall(r"[\w.]+", BASE), "map", "sql", "custom", "enum", "items", "array", "object", "<<"})
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(_WORDS) | st.text(max_size=5)
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_WORDS) | st.integers(), inner, max_size=3)
    ),
    max_leaves=5,
)


def _places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(p for k, v in items for p in _places(v, (*place, k)))]


@given(st.data())
def test_any_document_is_served_or_refused_and_never_crashes(data: st.DataObject) -> None:
    document = deepcopy(_DOCUMENT)
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from(_places(document)[1:]))
        holder = document
        for step in way:
            holder = holder[step]
        if isinstance(holder, dict) and data.draw(st.booleans()):
            holder[data.draw(st.sampled_from(_WORDS))] = data.draw(_VALUES)
        else:
            holder[last] = data.draw(_VALUES)
    try:
        assert isinstance(parse_contract(yaml.safe_dump(document, allow_unicode=True), "f.yaml"), Dataset)
    except ContractError as error:
        assert all(re.match(r"f\.yaml:\d+: ", line) for line in error.en.splitlines() if line.startswith("f.yaml"))  # noqa: PT017
        assert error.en.startswith("f.yaml:")  # noqa: PT017


@given(st.text(max_size=60))
def test_any_text_is_served_or_refused_and_never_crashes(text: str) -> None:
    with pytest.raises(ContractError, match=r"f\.yaml:\d+: "):
        parse_contract(text, "f.yaml")
