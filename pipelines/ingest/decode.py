"""Kafka records of one dataset as bronze rows: each is decoded once and checked against every row rule in one pass."""

from __future__ import annotations

import json
import logging
from secrets import token_bytes

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipelines.ingest.columns import canonical_key, raw_column, sequence_column
from pipelines.ingest.offsets import Range
from pipelines.ingest.quarantine_reasons import DECODED, any_applies, reason_struct, reasons_to_quarantine
from pipelines.ingest.registry_ids import group_by_schema
from pipelines.ingest.strict_avro import (
    END,
    END_MARK_BYTES,
    can_be_unreadable,
    narrowed,
    outside_of_years,
    strict_avro,
    text,
    tree,
)
from pipelines.lake.spark_jvm import cause
from pipelines.lake.table_schemas import ENVELOPE, NOT_ANSI, bronze_schema, sequence_type
from schemas.dataset import UP_PREFIX, Dataset
from schemas.store import ContractStore
from schemas.wire.avro import FRAME, LARGEST, MAGIC, avro_schema
from schemas.wire.registry import Registry

log = logging.getLogger(__name__)
ANSWERS = 300  # the most characters kept of the header that names a receipt; every id is shorter


def bronze_rows(
    records: DataFrame, dataset: Dataset, store: ContractStore, registry: Registry | None = None
) -> DataFrame:
    """Kafka records of one dataset as bronze rows: each is decoded once and checked against every row rule in one pass.

    If Spark cannot run the contract's rules at all (broken SQL), all records are quarantined. UnavailableError if the registry is
    needed and unavailable.
    """
    conf, end_mark = records.sparkSession.conf, token_bytes(END_MARK_BYTES)
    read = _decoded(records, dataset, store, registry, end_mark)
    reason = ""
    # ANSI mode is fixed when the plan is made. With ANSI a rule fails on an overflow or a bad cast, and `_evaluated` sees it.
    # A rule that compares unlike types is rejected with ANSI; it runs without, where a bad cast gives null.
    for ansi in ((NOT_ANSI[0], "true"), NOT_ANSI):
        conf.set(*ansi)
        try:
            return _bronze(_checked(read, dataset), dataset)
        except AnalysisException as error:  # broken SQL in a rule affects only its own dataset
            reason = cause(error)
        finally:
            conf.set(*NOT_ANSI)
    return quarantine_all(records, dataset, reason)


def quarantine_all(records: DataFrame, dataset: Dataset, reason: str) -> DataFrame:
    """Bronze rows for records on which Spark cannot run the contract's rules: all quarantined, with their bytes."""
    log.error("dataset=%s: its rules cannot be run: %s", dataset.id, reason)
    en = f"The contract's rules cannot be run: {reason}"
    zh = f"契约中的规则无法执行：{reason}"
    return _bronze(_all_quarantined(records, "contract", en, zh), dataset)


def quarantine_unreadable(spark: SparkSession, unread: Range, dataset: Dataset, reason: str) -> DataFrame:
    """Bronze rows for offsets that cannot be read from Kafka: quarantined, without their bytes."""
    log.error("dataset=%s: %s cannot be read: %s", dataset.id, unread, reason)
    offsets = spark.range(unread.start, unread.end, numPartitions=1).select(
        F.lit(unread.topic).alias("topic"), F.lit(unread.partition).alias("partition"), F.col("id").alias("offset"),
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
    shown = {  # changed so that every reader can display it
        "_key": "make_valid_utf8(_key)",
        "_timestamp": f"CASE WHEN NOT {outside_of_years('_timestamp')} THEN _timestamp END",
    }
    there = set(rows.columns)
    columns = []
    for f in bronze_schema(dataset).fields:
        value = shown.get(f.name, f"`{f.name}`") if f.name in there else f"CAST(NULL AS {f.dataType.simpleString()})"
        columns.append(f"{value} AS `{f.name}`")
    return rows.selectExpr(*columns)


def _decoded(
    records: DataFrame, dataset: Dataset, store: ContractStore, registry: Registry | None, end_mark: bytes
) -> DataFrame:
    """Kafka records with the envelope's columns and what was decoded, in working columns:

    `_read` the record from `strict_avro`, null if its writer schema is unknown; `_refusal` why a registry id cannot be decoded;
    `_keys` and `_header` a delete's key and sequence; `_size` the bytes of a record that is too large; `_mark` the end mark.

    `from_avro` with the wrong writer schema gives wrong values and no error. So the framing is checked first, and each writer
    schema decodes only its own records. A record larger than the bus accepts is not decoded: a few megabytes can unpack to a
    hundred times as much memory.
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
        reads.append(f"WHEN {fits} AND {frame} THEN {strict_avro(body, schema, reader, end_mark)}")
    refusals = []
    if registry:
        agreed, refused = group_by_schema(records, F.expr(number), dataset, registry)
        for schema_text, ids in agreed.items():
            decoded = strict_avro("substring(value, 6)", json.loads(schema_text), reader, end_mark)
            reads.append(f"WHEN {number} IN ({', '.join(map(str, ids))}) THEN {decoded}")
        for message, ids in refused.items():
            refusals.append(f"WHEN {number} IN ({', '.join(map(str, ids))}) THEN {_texts(message)}")
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
        f"X'{end_mark.hex()}' AS _mark",
    )


_NO_SUCH_ID = ("The schema registry has no schema with this id.", "模式注册中心没有此编号的模式。")
_NO_REGISTRY = (
    "The record names a schema by its registry id, but the city has no registry configured: set SUIBUS_REGISTRY_URL there.",
    "记录以模式注册中心的编号引用模式，但市级未配置注册中心：请在市级设置 SUIBUS_REGISTRY_URL。",
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


def _texts(message: tuple[str, str]) -> str:
    return f"named_struct('en', {text(message[0])}, 'zh', {text(message[1])})"


def _checked(rows: DataFrame, dataset: Dataset) -> DataFrame:
    """Decoded records with the contract's columns, the sequence, and every reason to quarantine.

    One compiled condition finds the rows to quarantine. Only for these does Spark collect the reasons, since it interprets that
    expression: for every row it would take several times as long as all the rest. Each step copies every column of a wide row,
    which is most of the cost of a batch. So the raw record is passed on only where a value in it is unreadable.
    """
    values = {f.name: narrowed(f, raw_column(f.name, dataset)) for f in dataset.table_fields}
    unreadable = [f.name for f in dataset.table_fields if can_be_unreadable(f)]
    given, kept = (
        tree(["0", *(f"int({value} IS NOT NULL)" for value in found)], "+")
        for found in ([raw_column(name, dataset) for name in unreadable], [values[name] for name in unreadable])
    )
    flat = rows.selectExpr(
        *(f"`{name}`" for name in rows.columns if name not in ("_read", "_mark")),
        *(f"{value} AS `{name}`" for name, value in values.items()),
        "_read IS NOT NULL AS _known",
        f"_read.{END} IS NOT NULL AS {DECODED}",
        f"_read.{END} = _mark AS _whole",
        f"coalesce(_key = {canonical_key(dataset)}, false) AS _right_key",
        f"CASE WHEN {given} <> {kept} THEN _read END AS _read",
        f"{given} <> {kept} AS _unreadable",
    )
    kind = sequence_type(dataset).simpleString()
    reasons = reasons_to_quarantine(dataset)
    judged = flat.selectExpr("*", f"CAST({sequence_column(dataset)} AS {kind}) AS _sequence").selectExpr(
        "*", f"{any_applies(reasons)} AS _quarantined"
    )
    whens = ", ".join(f"CASE WHEN {r.applies} THEN {r.struct} END" for r in reasons)
    collected = f"CASE WHEN _quarantined THEN filter(array({whens}), r -> r IS NOT NULL) END"
    value = "CASE WHEN _quarantined THEN _value END"
    return judged.selectExpr(
        *(f"`{c}`" for c in judged.columns if c != "_value"), f"{collected} AS _reasons", f"{value} AS _value"
    )


def _all_quarantined(records: DataFrame, rule: str, en: str, zh: str) -> DataFrame:
    reason = reason_struct(rule, None, "NULL", text(en), text(zh))
    columns = {"_quarantined": "true", "_writer": "NULL", "_reasons": f"array({reason})", "_value": "value"}
    return records.selectExpr(*_ENVELOPE, *(f"{c} AS {n}" for n, c in columns.items())).selectExpr(
        *(f"CAST({f.name} AS {f.dataType.simpleString()}) AS {f.name}" for f in ENVELOPE)
    )
