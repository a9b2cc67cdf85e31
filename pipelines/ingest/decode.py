"""Kafka records of one dataset as bronze rows: decoded once, held against every row rule in one pass."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from secrets import token_bytes
from typing import NamedTuple

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from pipelines.ingest.offsets import Range
from pipelines.ingest.strict_avro import (
    END,
    MARK,
    can_be_unreadable,
    either,
    narrowed,
    outside_of_years,
    strict_avro,
    text,
    tree,
)
from pipelines.lake.delta import cause
from pipelines.lake.lake import ENVELOPE, NOT_ANSI, REASON, bronze_schema, sequence_type
from quality.rules import row_rules
from schemas.dataset import UP_PREFIX, Dataset
from schemas.errors import InputError
from schemas.store import ContractStore
from schemas.wire.agreement import agreed_schema
from schemas.wire.avro import FRAME, LARGEST, MAGIC, avro_schema
from schemas.wire.registry import Registry

log = logging.getLogger(__name__)
ANSWERS = 300  # characters kept of the header that names a receipt: more than the longest id
SHOWN = 1_000  # characters of what was found that a reason keeps
REGISTRY_IDS = 1_000  # looked up a dataset and batch: made-up ids must not become a flood of calls


def change_log(
    records: DataFrame, dataset: Dataset, store: ContractStore, registry: Registry | None = None
) -> DataFrame:
    """Kafka records of one dataset as bronze rows: decoded once, held against every row rule in one pass."""
    conf, mark = records.sparkSession.conf, token_bytes(MARK)
    read = _decoded(records, dataset, store, registry, mark)
    reason = ""
    # How a plan counts is settled as it is made. Under ANSI a rule that overflows, or casts what cannot be cast, fails
    # and says so. One that compares unlike types can only be run without, where what fails is null.
    for ansi in ((NOT_ANSI[0], "true"), NOT_ANSI):
        conf.set(*ansi)
        try:
            return _bronze(_checked(read, dataset), dataset)
        except AnalysisException as error:  # a rule with broken SQL stops its own dataset only
            reason = cause(error)
        finally:
            conf.set(*NOT_ANSI)
    return refused(records, dataset, reason)


def refused(records: DataFrame, dataset: Dataset, reason: str) -> DataFrame:
    """Bronze rows of a dataset whose rules Spark cannot run: all quarantined."""
    log.error("dataset=%s: its rules cannot be run: %s", dataset.id, reason)
    en = f"The contract's rules cannot be run: {reason}"
    zh = f"契约中的规则无法执行：{reason}"
    return _bronze(_all_quarantined(records, "contract", en, zh), dataset)


def unread(spark: SparkSession, place: Range, dataset: Dataset, reason: str) -> DataFrame:
    """Bronze rows for offsets that cannot be read from Kafka at all: quarantined, without their bytes."""
    log.error("dataset=%s: %s cannot be read: %s", dataset.id, place, reason)
    offsets = spark.range(place.start, place.end, numPartitions=1).select(
        F.lit(place.topic).alias("topic"), F.lit(place.partition).alias("partition"), F.col("id").alias("offset"),
        *(F.lit(None).cast(kind).alias(name) for name, kind in _KAFKA.items()),
    )  # fmt: skip
    en, zh = f"The record cannot be read from Kafka: {reason}", f"无法从 Kafka 读取该记录：{reason}"
    return _bronze(_all_quarantined(offsets, "unread", en, zh), dataset)


_KAFKA = {
    "timestamp": "timestamp",
    "key": "binary",
    "value": "binary",
    "headers": "array<struct<key:string,value:binary>>",
}


def _bronze(rows: DataFrame, dataset: Dataset) -> DataFrame:
    shown = {  # so that any reader can show it
        "_key": "make_valid_utf8(_key)",
        "_timestamp": f"CASE WHEN NOT {outside_of_years('_timestamp')} THEN _timestamp END",
    }
    there = set(rows.columns)
    columns = []
    for f in bronze_schema(dataset).fields:
        found = shown.get(f.name, f"`{f.name}`") if f.name in there else f"CAST(NULL AS {f.dataType.simpleString()})"
        columns.append(f"{found} AS `{f.name}`")
    return rows.selectExpr(*columns)


def _decoded(
    records: DataFrame, dataset: Dataset, store: ContractStore, registry: Registry | None, mark: bytes
) -> DataFrame:
    """Envelope, key, `_read`: the record as `strict_avro` gives it, null of an unknown writer, and whether it is `_whole`.

    `from_avro` with the wrong writer schema returns wrong values and no error, so the frame is checked first and
    each writer schema decodes only its own records. What is larger than the bus takes is not decoded at all: a
    record of a few megabytes can hold objects of a hundred times its size.
    """
    reader = avro_schema(dataset)
    size = "(coalesce(length(key), 0) + coalesce(length(value), 0))"
    fits = f"{size} <= {LARGEST}"
    number = (
        f"CASE WHEN {fits} AND substring(value, 1, 1) = X'00' AND length(value) > 5 "
        "THEN CAST(conv(hex(substring(value, 2, 4)), 16, 10) AS bigint) END"
    )
    reads, body = [], f"substring(value, {FRAME + 1})"
    for known, schema in store.writer_schemas(dataset.id).items():
        frame = f"substring(value, 1, {FRAME}) = X'{(MAGIC + known).hex()}'"
        reads.append(f"WHEN {fits} AND {frame} THEN {strict_avro(body, schema, reader, mark)}")
    refusals = []
    if registry:
        agreed, refused = _registry_schemas(records, F.expr(number), dataset, registry)
        for schema_text, ids in agreed.items():
            decoded = strict_avro("substring(value, 6)", json.loads(schema_text), reader, mark)
            reads.append(f"WHEN {number} IN ({', '.join(map(str, ids))}) THEN {decoded}")
        for told, ids in refused.items():
            refusals.append(f"WHEN {number} IN ({', '.join(map(str, ids))}) THEN {_texts(told)}")
    refusals.append(f"WHEN {number} IS NOT NULL THEN {_texts(_NO_SUCH_ID if registry else _NO_REGISTRY)}")
    writer = (
        f"CASE WHEN {fits} AND substring(value, 1, 2) = X'{MAGIC.hex()}' "
        f"THEN lower(hex(substring(value, 3, {FRAME - len(MAGIC)}))) "
        f"ELSE concat('registry:', CAST({number} AS string)) END"
    )
    headers = "filter(headers, h -> h.key = 'sequence').value"
    kinds = ((name, dataset.field(name).kind) for name in dataset.key)
    key_ddl = ", ".join(f"`{name}` {'STRING' if kind == 'string' else 'BIGINT'}" for name, kind in kinds)
    deleted = "value IS NULL"
    return records.selectExpr(
        *_ENVELOPE,
        f"CASE WHEN NOT {fits} THEN {size} END AS _size",
        f"{writer} AS _writer",
        "value AS _value",
        f"CASE WHEN {deleted} AND size({headers}) = 1 THEN CAST({headers}[0] AS string) END AS _header",
        f"CASE WHEN {deleted} AND {fits} THEN from_json(CAST(key AS string), {text(key_ddl)}) END AS _keys",
        f"CASE {' '.join(reads)} END AS _read",
        f"CASE {' '.join(refusals)} END AS _refusal",
        f"X'{mark.hex()}' AS _mark",
    )


_UNREGISTERED = (
    "The schema that wrote the record is not registered for this dataset.",
    "写入该记录的模式未在此数据集登记。",
)
_NO_SUCH_ID = ("The schema registry has no schema of this id.", "模式注册中心没有此编号的模式。")
_NO_REGISTRY = (
    "The record names a schema registry's id, and no registry is configured at the city: set SUIBUS_REGISTRY_URL there.",
    "记录引用了模式注册中心的编号，但市级未配置注册中心：请在市级设置 SUIBUS_REGISTRY_URL。",
)
_ANSWERS = "get(filter(headers, h -> h.key = 'answers'), 0).value"
_ENVELOPE = (
    "topic AS _topic",
    "partition AS _partition",
    "offset AS _offset",
    "timestamp AS _timestamp",
    f"substring_index(substring(topic, {len(UP_PREFIX) + 1}, 9), '.', 1) AS _district",
    "CAST(key AS string) AS _key",
    "value IS NULL AS _deleted",
    f"CASE WHEN size(headers) > 0 THEN left(make_valid_utf8(CAST({_ANSWERS} AS string)), {ANSWERS}) END AS _answers",
)


def _texts(told: tuple[str, str]) -> str:
    return f"named_struct('en', {text(told[0])}, 'zh', {text(told[1])})"


def _registry_schemas(
    records: DataFrame, number: Column, dataset: Dataset, registry: Registry
) -> tuple[dict[str, list[int]], dict[tuple[str, str], list[int]]]:
    """The registry ids of a batch by the schema that decodes them, and the others by why they cannot be decoded.

    The most frequent ids are asked for first. UnavailableError if the registry is away.
    """
    reader = avro_schema(dataset)
    agreed: dict[str, list[int]] = defaultdict(list)
    refused: dict[tuple[str, str], list[int]] = defaultdict(list)
    counted = records.groupBy(number.alias("id")).count().where("id IS NOT NULL").orderBy(F.desc("count"))
    for found in counted.limit(REGISTRY_IDS).collect():
        if (text := registry.schema(found["id"])) is None:
            continue
        try:
            agreed[json.dumps(agreed_schema(text, reader))].append(found["id"])
        except InputError as error:
            en = f"The registry's schema does not agree with the contract: {error.en}."
            refused[en, f"注册中心的模式与契约不一致：{error.zh}。"].append(found["id"])
    return agreed, refused


def _checked(rows: DataFrame, dataset: Dataset) -> DataFrame:
    """Columns out of the record (keys out of the key for a delete), sequence, and every reason against the row.

    Whether any holds is one compiled condition. Only a row that it holds for has its reasons put together, which Spark
    does by walking the expressions: for each row it would cost several times all the rest. Each step writes every column
    of a wide row once more, which is most of what a batch costs: so the record as it was read goes on only where a part
    of it is unreadable.
    """
    values = {f.name: narrowed(f, _raw(f.name, dataset)) for f in dataset.table_fields}
    unreadable = [f.name for f in dataset.table_fields if can_be_unreadable(f)]
    given, kept = (
        tree(["0", *(f"int({value} IS NOT NULL)" for value in found)], "+")
        for found in ([_raw(name, dataset) for name in unreadable], [values[name] for name in unreadable])
    )
    flat = rows.selectExpr(
        *(f"`{name}`" for name in rows.columns if name not in ("_read", "_mark")),
        *(f"{value} AS `{name}`" for name, value in values.items()),
        "_read IS NOT NULL AS _known",
        f"_read.{END} IS NOT NULL AS {_DECODED}",
        f"_read.{END} = _mark AS _whole",
        f"coalesce(_key = {_canonical_key(dataset)}, false) AS _right_key",
        f"CASE WHEN {given} <> {kept} THEN _read END AS _read",
        f"{given} <> {kept} AS _unreadable",
    )
    kind = sequence_type(dataset).simpleString()
    reasons = _reasons(dataset)
    judged = flat.selectExpr("*", f"CAST({_sequence(dataset)} AS {kind}) AS _sequence").selectExpr(
        "*", f"{_any(reasons)} AS _quarantined"
    )
    whens = ", ".join(f"CASE WHEN {r.holds} THEN {r.told} END" for r in reasons)
    told = f"CASE WHEN _quarantined THEN filter(array({whens}), r -> r IS NOT NULL) END"
    value = "CASE WHEN _quarantined THEN _value END"
    return judged.selectExpr(
        *(f"`{c}`" for c in judged.columns if c != "_value"), f"{told} AS _reasons", f"{value} AS _value"
    )


def _raw(name: str, dataset: Dataset) -> str:
    """A column as the bytes hold it."""
    read = f"_read.`{name}`"
    return f"CASE WHEN _deleted THEN {_from_key(name, dataset)} ELSE {read} END" if name in dataset.key else read


def _from_key(name: str, dataset: Dataset) -> str:
    part = f"_keys.`{name}`"
    return f"timestamp_micros({part})" if dataset.field(name).kind == "timestamp" else part


def _canonical_key(dataset: Dataset) -> str:
    """The one key that a node gives the record, as `schemas.wire.avro.Encoder.key` writes it; null if a part is missing.

    Another spelling of it would lie in another partition, and the order of its changes would be lost.
    """
    parts: list[str] = []
    for name in dataset.key:
        part, kind = _raw(name, dataset), dataset.field(name).kind
        value = _quoted(part) if kind == "string" else f"unix_micros({part})" if kind == "timestamp" else part
        parts += [text(f'{"," if parts else "{"}"{name}":'), f"CAST({value} AS string)"]
    return f"concat({', '.join(parts)}, '}}')"


_ESCAPED = {c: json.dumps(c)[1:-1] for c in ("\\", '"', *map(chr, range(32)))}


def _quoted(value: str) -> str:
    """A string as Python's json writes it without ensure_ascii."""
    special = r'[\x00-\x1f"\\]'
    escapes = ", ".join(text(part) for pair in _ESCAPED.items() for part in pair)
    runs = f"regexp_extract_all({value}, {text(rf'{special}|[^{special[1:]}+')}, 0)"
    escaped = f"array_join(transform({runs}, run -> coalesce(try_element_at(map({escapes}), run), run)), '')"
    return f"""concat('"', CASE WHEN {value} RLIKE {text(special)} THEN {escaped} ELSE {value} END, '"')"""


def _sequence(dataset: Dataset) -> str:
    if dataset.sequence is None:
        return f"CASE WHEN NOT {outside_of_years('_timestamp')} THEN _timestamp END"
    field = dataset.field(dataset.sequence)
    number = "try_cast(_header AS bigint)"
    number = f"CASE WHEN CAST({number} AS string) = _header THEN {number} END"  # ' 1', '+1' and '1.0' are none
    raw = {"string": "_header", "timestamp": f"timestamp_micros({number})"}.get(field.kind, number)
    return f"CASE WHEN _deleted THEN {narrowed(field, f'({raw})')} ELSE `{field.name}` END"


class _Reason(NamedTuple):
    """When it holds (null is no), and what is told then; `risky`: that of a contract's SQL, which can fail, alone;
    `among`: true where this or one of others holds.
    """

    holds: str
    told: str
    risky: str | None = None
    among: str | None = None


def _any(reasons: list[_Reason]) -> str:
    """Whether any of them holds, or cannot be evaluated."""
    conditions = [*dict.fromkeys(f"coalesce({r.among or r.holds}, false)" for r in reasons if r.risky is None)]
    if risky := [f"coalesce(({r.risky}), false)" for r in reasons if r.risky is not None]:
        conditions.append(f"coalesce({_tried(either(risky))} <> {_HOLDS_NOT}, false)")
    return either(conditions)


_DECODED = "_decoded"
_HOLDS_NOT, _FAILS = "X'30'", "X'3F'"


def _tried(broken: str) -> str:
    """What becomes of a contract's condition for a row that was decoded; null for another.

    A `try_` function is null where anything inside of it fails. It stands in a branch, so that Spark computes nothing of
    it ahead and outside of it.
    """
    tried = f"try_to_binary(CASE WHEN ({broken}) THEN '1' ELSE '0' END, 'utf-8')"
    return f"(CASE WHEN {_DECODED} THEN coalesce({tried}, {_FAILS}) END)"


def _reasons(dataset: Dataset) -> list[_Reason]:
    """Every reason there is to quarantine a row."""
    fits = "_size IS NULL"
    upsert = f"NOT _deleted AND {fits}"
    en, zh = (f"coalesce(_refusal.{n}, {text(t)})" for n, t in zip(("en", "zh"), _UNREGISTERED, strict=True))
    reasons = [
        _reason(
            f"NOT ({fits})", "size", None, "_size",
            f"Key and value are larger than the {LARGEST} bytes the bus takes; they were not decoded.",
            f"键与值超过总线可接收的 {LARGEST} 字节，未解码。",
        ),
        _reason(
            f"{upsert} AND _writer IS NULL", "framing", None, "hex(substring(_value, 1, 2))",
            "The value is neither Avro single-object encoding nor a registry's frame.",
            "记录值既不是 Avro 单对象编码，也不是注册中心格式。",
        ),
        _Reason(
            f"{upsert} AND _writer IS NOT NULL AND NOT _known", _told("schema", None, "_writer", en, zh)
        ),
        _reason(
            f"{upsert} AND _known AND NOT ({_DECODED})", "malformed", None, "length(_value)",
            "The bytes do not hold a record of their schema.", "字节内容与其模式不符，无法解码。",
        ),
        _reason(
            f"{_DECODED} AND NOT _whole", "trailing", None, "length(_value)",
            "Bytes follow the record: they are lost if the record is right, and it is wrong if they belong to it.",
            "记录之后还有多余字节：若记录无误，这些字节会丢失；若它们属于记录，则记录有误。",
        ),
        _reason(
            f"{fits} AND (_deleted OR {_DECODED} OR _key IS NULL) AND NOT _right_key",
            "key", ",".join(dataset.key), "_key",
            "The key is missing, or is not byte for byte the key that the contract gives the record.",
            "缺少主键，或键与契约为该记录规定的键不逐字节一致。",
        ),
        _reason(
            outside_of_years("_timestamp"), "timestamp", None, "_timestamp",
            "Kafka's timestamp of the record lies outside of years 1 to 9999.",
            "记录的 Kafka 时间戳不在公元 1 至 9999 年之间。",
        ),
    ]  # fmt: skip
    if dataset.sequence:
        reasons.append(
            _reason(
                f"_sequence IS NULL AND (({fits} AND _deleted) OR {_DECODED})",
                "sequence",
                dataset.sequence,
                "_header",
                "A delete must carry its sequence, as the node writes it, in one header 'sequence'.",
                "删除记录必须在唯一的消息头 sequence 中携带版本序列，写法与节点一致。",
            )
        )
    if dataset.district:
        reasons.append(
            _reason(
                f"{_DECODED} AND `{dataset.district}` <> _district",
                "district",
                dataset.district,
                f"`{dataset.district}`",
                "The record claims another district than its topic's.",
                "记录声明的区与其主题所属的区不一致。",
            )
        )
    for field in filter(can_be_unreadable, dataset.table_fields):
        raw = _raw(field.name, dataset)
        shown = "NULL" if field.item or field.fields else f"hex({raw})" if field.kind == "boolean" else raw
        reason = _reason(
            f"{raw} IS NOT NULL AND `{field.name}` IS NULL", "unreadable", field.name, shown,
            f"{field.name} holds what is no {field.type_name}: text that is not UTF-8, a day outside of years 1 to "
            "9999, a number that is too large, or a boolean that is neither 0 nor 1.",
            f"{field.name} 含有不属于 {field.type_name} 的内容：非 UTF-8 文本、年份不在 1 至 9999 之间的日期、"
            "超出范围的数值，或既非 0 也非 1 的布尔值。",
        )  # fmt: skip
        reasons.append(reason._replace(among="_unreadable"))
    can_fail = {rule.name for rule in dataset.rules if rule.type == "sql"}
    for rule in row_rules(dataset):
        found = f"`{rule.column}`" if rule.column else "NULL"
        if rule.name not in can_fail:
            holds = f"{_DECODED} AND ({rule.broken})"
            reasons.append(_reason(holds, rule.name, rule.column, found, rule.en, rule.zh))
            continue
        tried = _tried(rule.broken)
        en = f"The rule {rule.name} cannot be evaluated for this row: {_FAILED[0]}"
        zh = f"规则 {rule.name} 无法对该行求值：{_FAILED[1]}"
        en, zh = (
            f"CASE WHEN {tried} = {_FAILS} THEN {text(failed)} ELSE {text(told)} END"
            for failed, told in ((en, rule.en), (zh, rule.zh))
        )
        told = _told(rule.name, rule.column, found, en, zh)
        reasons.append(_Reason(f"{tried} <> {_HOLDS_NOT}", told, risky=rule.broken))
    return reasons


_FAILED = (
    "a value that is cast is not of the type, a number overflows, or is divided by zero.",
    "被转换的值不符合目标类型、数值溢出或除数为零。",
)


def _reason(holds: str, rule: str, column: str | None, found: str, en: str, zh: str) -> _Reason:
    return _Reason(holds, _told(rule, column, found, text(en), text(zh)))


def _told(rule: str, column: str | None, found: str, en: str, zh: str) -> str:
    shown = f"left(make_valid_utf8(CAST({found} AS string)), {SHOWN})"
    parts = [text(rule), text(column) if column else "CAST(NULL AS string)", shown, en, zh]
    named = (f"'{f.name}', {part}" for part, f in zip(parts, REASON.fields, strict=True))
    return f"named_struct({', '.join(named)})"


def _all_quarantined(records: DataFrame, rule: str, en: str, zh: str) -> DataFrame:
    told = _told(rule, None, "NULL", text(en), text(zh))
    columns = {"_quarantined": "true", "_writer": "NULL", "_reasons": f"array({told})", "_value": "value"}
    return records.selectExpr(*_ENVELOPE, *(f"{c} AS {n}" for n, c in columns.items())).selectExpr(
        *(f"CAST({f.name} AS {f.dataType.simpleString()}) AS {f.name}" for f in ENVELOPE)
    )
