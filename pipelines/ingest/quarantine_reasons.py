"""Every reason to quarantine a row: its condition as SQL text over the decoded record, its message in English and Chinese."""

from __future__ import annotations

from typing import NamedTuple

from pipelines.ingest.columns import raw_column
from pipelines.ingest.strict_avro import can_be_unreadable, either, outside_of_years, text
from pipelines.lake.table_schemas import REASON
from quality.conditions import FAILED, FALSE, tried
from quality.row_rules import row_rules
from schemas.dataset import Dataset
from schemas.wire.avro import LARGEST

SHOWN = 1_000  # the most characters of the offending value that a reason keeps
DECODED = "_decoded"  # the column that says whether the bytes could be decoded
UNREGISTERED = (
    "The schema that wrote the record is not registered for this dataset.",
    "写入该记录所用的模式未在此数据集登记。",
)
_IS_FALSE, _CANNOT_BE_EVALUATED = f"X'{FALSE.hex()}'", f"X'{FAILED.hex()}'"  # results of `_evaluated`
_FITS = "_size IS NULL"  # the record is not larger than the bus accepts


class Reason(NamedTuple):
    """A reason to quarantine, as SQL text."""

    applies: str  # the condition; null counts as false
    struct: str  # what bronze keeps of the reason: see `reason_struct`
    contract_sql: str | None = (
        None  # the contract's own condition, whose evaluation can fail; None for all other reasons
    )
    prefilter: str | None = (
        None  # a cheaper condition, shared by several reasons, that is true whenever one of them applies
    )


def any_applies(reasons: list[Reason]) -> str:
    """Whether any reason applies or cannot be evaluated, as one condition."""
    conditions = [
        *dict.fromkeys(f"coalesce({r.prefilter or r.applies}, false)" for r in reasons if r.contract_sql is None)
    ]
    if contract_sql := [f"coalesce(({r.contract_sql}), false)" for r in reasons if r.contract_sql is not None]:
        conditions.append(f"coalesce({_evaluated(either(contract_sql))} <> {_IS_FALSE}, false)")
    return either(conditions)


def _evaluated(broken: str) -> str:
    """A contract's condition that cannot fail the job (see `tried`); null for a row that was not decoded."""
    return f"(CASE WHEN {DECODED} THEN {tried(broken)} END)"


def reasons_to_quarantine(dataset: Dataset) -> list[Reason]:
    """Every reason to quarantine a row of the dataset, in the order in which a row's reasons are kept."""
    return [*_not_decodable(), *_wrong_keys_and_values(dataset), *_broken_rules(dataset)]


def _not_decodable() -> list[Reason]:
    """The record's bytes are too large, in no known framing or of no known schema, or are not exactly one record."""
    upsert = f"NOT _deleted AND {_FITS}"
    en, zh = (f"coalesce(_refusal.{n}, {text(t)})" for n, t in zip(("en", "zh"), UNREGISTERED, strict=True))
    return [
        _reason(
            f"NOT ({_FITS})", "size", None, "_size",
            f"Key and value together are larger than the {LARGEST} bytes that the bus accepts; they were not decoded.",
            f"键与值合计超过总线可接收的 {LARGEST} 字节，未解码。",
        ),
        _reason(
            f"{upsert} AND _writer IS NULL", "framing", None, "hex(substring(_value, 1, 2))",
            "The value is neither in Avro single-object encoding nor in a schema registry's framing.",
            "记录值既不是 Avro 单对象编码，也不是模式注册中心的封装格式。",
        ),
        Reason(
            f"{upsert} AND _writer IS NOT NULL AND NOT _known", reason_struct("schema", None, "_writer", en, zh)
        ),
        _reason(
            f"{upsert} AND _known AND NOT ({DECODED})", "malformed", None, "length(_value)",
            "The bytes are not a record of the schema they name.", "字节内容与其所注明的模式不符，无法解码。",
        ),
        _reason(
            f"{DECODED} AND NOT _whole", "trailing", None, "length(_value)",
            "Extra bytes follow the record, so it cannot be told whether the record is complete.",
            "记录之后还有多余字节，无法判断记录是否完整。",
        ),
    ]  # fmt: skip


def _wrong_keys_and_values(dataset: Dataset) -> list[Reason]:
    """The key, the timestamp, a delete's sequence or the district is wrong, or a value is not one of its column's type."""
    reasons = [
        _reason(
            f"{_FITS} AND (_deleted OR {DECODED} OR _key IS NULL) AND NOT _right_key",
            "key", ",".join(dataset.key), "_key",
            "The key is missing, or differs from the key that the contract defines for the record, which must match byte for byte.",
            "缺少主键，或主键与契约为该记录规定的不一致（须逐字节相同）。",
        ),
        _reason(
            outside_of_years("_timestamp"), "timestamp", None, "_timestamp",
            "The record's Kafka timestamp is outside the years 1 to 9999.",
            "记录的 Kafka 时间戳不在公元 1 至 9999 年之间。",
        ),
    ]  # fmt: skip
    if dataset.sequence:
        reasons.append(
            _reason(
                f"_sequence IS NULL AND (({_FITS} AND _deleted) OR {DECODED})",
                "sequence",
                dataset.sequence,
                "_header",
                "A delete must carry its sequence in exactly one header 'sequence', written as the node writes it.",
                "删除记录必须在唯一的消息头 sequence 中携带顺序值，写法须与节点一致。",
            )
        )
    if dataset.district:
        reasons.append(
            _reason(
                f"{DECODED} AND `{dataset.district}` <> _district",
                "district",
                dataset.district,
                f"`{dataset.district}`",
                "The record names another district than its topic.",
                "记录中的区与其主题所属的区不一致。",
            )
        )
    for field in filter(can_be_unreadable, dataset.table_fields):
        raw = raw_column(field.name, dataset)
        shown = "NULL" if field.item or field.fields else f"hex({raw})" if field.kind == "boolean" else raw
        reason = _reason(
            f"{raw} IS NOT NULL AND `{field.name}` IS NULL", "unreadable", field.name, shown,
            f"{field.name} has a value that is not a valid {field.type_name}: text that is not UTF-8, a date outside the years "
            "1 to 9999, a number that is too large, or a boolean that is neither 0 nor 1.",
            f"{field.name} 的值不是有效的 {field.type_name}：非 UTF-8 文本、年份不在 1 至 9999 之间的日期、"
            "超出范围的数值，或既非 0 也非 1 的布尔值。",
        )  # fmt: skip
        reasons.append(reason._replace(prefilter="_unreadable"))
    return reasons


def _broken_rules(dataset: Dataset) -> list[Reason]:
    """A row rule of the contract is broken, or cannot be evaluated for the row."""
    reasons = []
    can_fail = {rule.name for rule in dataset.rules if rule.type == "sql"}
    for rule in row_rules(dataset):
        value = f"`{rule.column}`" if rule.column else "NULL"
        if rule.name not in can_fail:
            holds = f"{DECODED} AND ({rule.broken})"
            reasons.append(_reason(holds, rule.name, rule.column, value, rule.en, rule.zh))
            continue
        tried = _evaluated(rule.broken)
        en = f"The rule {rule.name} cannot be evaluated for this row: {_WHY_NOT_EVALUATED[0]}"
        zh = f"规则 {rule.name} 无法对该行求值：{_WHY_NOT_EVALUATED[1]}"
        en, zh = (
            f"CASE WHEN {tried} = {_CANNOT_BE_EVALUATED} THEN {text(if_failed)} ELSE {text(if_broken)} END"
            for if_failed, if_broken in ((en, rule.en), (zh, rule.zh))
        )
        struct = reason_struct(rule.name, rule.column, value, en, zh)
        reasons.append(Reason(f"{tried} <> {_IS_FALSE}", struct, contract_sql=rule.broken))
    return reasons


_WHY_NOT_EVALUATED = (
    "a value cannot be cast to the type, a number overflows, or a number is divided by zero.",
    "某个值无法转换为目标类型、数值溢出或除数为零。",
)


def _reason(applies: str, rule: str, column: str | None, found: str, en: str, zh: str) -> Reason:
    return Reason(applies, reason_struct(rule, column, found, text(en), text(zh)))


def reason_struct(rule: str, column: str | None, found: str, en: str, zh: str) -> str:
    """One reason as bronze keeps it, a struct of type REASON; `found`, `en` and `zh` are SQL text."""
    shown = f"left(make_valid_utf8(CAST({found} AS string)), {SHOWN})"
    parts = [text(rule), text(column) if column else "CAST(NULL AS string)", shown, en, zh]
    named = (f"'{f.name}', {part}" for part, f in zip(parts, REASON.fields, strict=True))
    return f"named_struct({', '.join(named)})"
