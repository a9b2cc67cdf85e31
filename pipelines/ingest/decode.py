"""Kafka records of one dataset as bronze rows: decoded once, held against every row rule in one pass."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from secrets import token_bytes

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from pipelines.ingest.columns import canonical_key, raw_column, sequence_column
from pipelines.ingest.offsets import Range
from pipelines.ingest.quarantine_reasons import DECODED, any_applies, reason_struct, reasons_to_quarantine
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
from schemas.errors import InputError
from schemas.store import ContractStore
from schemas.wire.avro import FRAME, LARGEST, MAGIC, avro_schema
from schemas.wire.registry import Registry
from schemas.wire.registry_agreement import agreed_schema

log = logging.getLogger(__name__)
ANSWERS = 300  # characters kept of the header that names a receipt: more than the longest id
REGISTRY_IDS = 1_000  # looked up a dataset and batch: made-up ids must not become a flood of calls


def bronze_rows(
    records: DataFrame, dataset: Dataset, store: ContractStore, registry: Registry | None = None
) -> DataFrame:
    """Kafka records of one dataset as bronze rows: decoded once, held against every row rule in one pass."""
    conf, end_mark = records.sparkSession.conf, token_bytes(END_MARK_BYTES)
    read = _decoded(records, dataset, store, registry, end_mark)
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
    return quarantine_all(records, dataset, reason)


def quarantine_all(records: DataFrame, dataset: Dataset, reason: str) -> DataFrame:
    """Bronze rows of a dataset whose rules Spark cannot run: all quarantined."""
    log.error("dataset=%s: its rules cannot be run: %s", dataset.id, reason)
    en = f"The contract's rules cannot be run: {reason}"
    zh = f"契约中的规则无法执行：{reason}"
    return _bronze(_all_quarantined(records, "contract", en, zh), dataset)


def quarantine_unreadable(spark: SparkSession, place: Range, dataset: Dataset, reason: str) -> DataFrame:
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
    records: DataFrame, dataset: Dataset, store: ContractStore, registry: Registry | None, end_mark: bytes
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
        reads.append(f"WHEN {fits} AND {frame} THEN {strict_avro(body, schema, reader, end_mark)}")
    refusals = []
    if registry:
        agreed, refused = _registry_schemas(records, F.expr(number), dataset, registry)
        for schema_text, ids in agreed.items():
            decoded = strict_avro("substring(value, 6)", json.loads(schema_text), reader, end_mark)
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
        f"X'{end_mark.hex()}' AS _mark",
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
    told = f"CASE WHEN _quarantined THEN filter(array({whens}), r -> r IS NOT NULL) END"
    value = "CASE WHEN _quarantined THEN _value END"
    return judged.selectExpr(
        *(f"`{c}`" for c in judged.columns if c != "_value"), f"{told} AS _reasons", f"{value} AS _value"
    )


def _all_quarantined(records: DataFrame, rule: str, en: str, zh: str) -> DataFrame:
    told = reason_struct(rule, None, "NULL", text(en), text(zh))
    columns = {"_quarantined": "true", "_writer": "NULL", "_reasons": f"array({told})", "_value": "value"}
    return records.selectExpr(*_ENVELOPE, *(f"{c} AS {n}" for n, c in columns.items())).selectExpr(
        *(f"CAST({f.name} AS {f.dataType.simpleString()}) AS {f.name}" for f in ENVELOPE)
    )
