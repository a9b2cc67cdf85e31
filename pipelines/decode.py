"""Kafka records of one dataset as bronze rows: decoded once, held against every row rule in one pass."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from functools import reduce
from operator import or_

from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.avro.functions import from_avro

from pipelines.tables import ENVELOPE, NOT_ANSI, REASON, bronze_schema, sequence_type, spark_type
from quality.rules import row_rules
from schemas.avro import FRAME, MAGIC, avro_schema
from schemas.dataset import Dataset, Field
from schemas.errors import InputError, first_line
from schemas.registry import Registry, agreed_schema
from schemas.store import ContractStore

log = logging.getLogger(__name__)
REGISTRY_IDS = 1_000  # looked up a dataset and batch: made-up ids must not become a flood of calls


def change_log(
    records: DataFrame, dataset: Dataset, store: ContractStore, registry: Registry | None = None
) -> DataFrame:
    """Kafka records of one dataset as bronze rows: decoded once, held against every row rule in one pass."""
    records.sparkSession.conf.set(*NOT_ANSI)
    try:
        rows = _checked(_decoded(records, dataset, store, registry), dataset)
        _ = rows.schema  # analysed here, so that a rule with broken SQL stops its own dataset only
    except AnalysisException as error:
        return refused(records, dataset, cause(error))
    return _bronze(rows, dataset)


def refused(records: DataFrame, dataset: Dataset, reason: str) -> DataFrame:
    """Bronze rows of a dataset whose rules Spark cannot run: all quarantined."""
    log.error("dataset=%s: its rules cannot be run: %s", dataset.id, reason)
    en = f"The contract's rules cannot be run: {reason}"
    zh = f"契约中的规则无法执行：{reason}"
    return _bronze(_all_quarantined(records, "contract", en, zh), dataset)


def _bronze(rows: DataFrame, dataset: Dataset) -> DataFrame:
    columns = [
        F.col(f.name) if f.name in rows.columns else F.lit(None).cast(f.dataType).alias(f.name)
        for f in bronze_schema(dataset).fields
    ]
    return rows.select(columns)


def _decoded(records: DataFrame, dataset: Dataset, store: ContractStore, registry: Registry | None) -> DataFrame:
    """Envelope, key, and the record as one struct `_record`, null where it could not be decoded.

    `from_avro` with the wrong writer schema returns wrong values and no error, so the frame is checked first and
    each writer schema decodes only its own records.
    """
    reader = json.dumps(avro_schema(dataset))
    value = F.col("value")
    single = F.substring(value, 1, 2) == F.lit(bytearray(MAGIC))
    fingerprint = F.lower(F.hex(F.substring(value, 3, FRAME - len(MAGIC))))
    writer: Column = F.when(single, fingerprint)
    record: Column = F.lit(None)
    body = F.expr(f"substring(value, {FRAME + 1})")
    for known, schema in store.writer_schemas(dataset.id).items():
        decoded = from_avro(body, json.dumps(schema), {"avroSchema": reader, "mode": "PERMISSIVE"})
        record = F.when(writer == known.hex(), decoded).otherwise(record)
    confluent = (F.substring(value, 1, 1) == F.lit(bytearray(1))) & (F.length(value) > 5)
    number = F.when(confluent, F.conv(F.hex(F.substring(value, 2, 4)), 16, 10).cast("long"))
    writer = F.coalesce(writer, F.concat(F.lit("registry:"), number.cast("string")))
    refusal: Column = F.when(number.isNotNull(), _texts(*_NO_SUCH_ID if registry else _NO_REGISTRY))
    if registry:
        agreed, refused = _registry_schemas(records, number, dataset, registry)
        for text, ids in agreed.items():
            decoded = from_avro(F.expr("substring(value, 6)"), text, {"avroSchema": reader, "mode": "PERMISSIVE"})
            record = F.when(number.isin(ids), decoded).otherwise(record)
        for (en, zh), ids in refused.items():
            refusal = F.when(number.isin(ids), _texts(en, zh)).otherwise(refusal)
    header = F.expr("element_at(filter(headers, h -> h.key = 'sequence'), 1).value").cast("string")
    kinds = {"date": "INT", "timestamp": "BIGINT"}
    parts = [(n, dataset.field(n).kind) for n in dataset.key]
    key_ddl = ", ".join(f"`{n}` {kinds.get(k, 'STRING' if k == 'string' else k)}" for n, k in parts)
    return records.select(
        *_envelope(),
        writer.alias("_writer"),
        F.when(value.isNotNull(), value).alias("_value"),
        header.alias("_header"),
        F.from_json(F.col("key").cast("string"), key_ddl).alias("_keys"),
        record.alias("_record"),
        refusal.alias("_refusal"),
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


def _texts(en: str, zh: str) -> Column:
    return F.struct(F.lit(en).alias("en"), F.lit(zh).alias("zh"))


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


def _envelope() -> list[Column]:
    return [
        F.col("topic").alias("_topic"),
        F.col("partition").alias("_partition"),
        F.col("offset").alias("_offset"),
        F.col("timestamp").alias("_timestamp"),
        F.split("topic", r"\.")[2].alias("_district"),
        F.col("key").cast("string").alias("_key"),
        F.col("value").isNull().alias("_deleted"),
    ]


def _checked(rows: DataFrame, dataset: Dataset) -> DataFrame:
    """Columns out of the record (keys out of the key for a delete), sequence, and every reason against the row."""
    columns = []
    for field in dataset.table_fields:
        column = F.col(f"_record.{field.name}")
        if field.name in dataset.key:
            column = F.when(F.col("_deleted"), _from_key(field.name, dataset)).otherwise(column)
        columns.append(column.cast(spark_type(field)).alias(field.name))
    flat = rows.select("*", *columns)
    sequence = _sequence(dataset)
    flat = flat.withColumn("_sequence", sequence.cast(sequence_type(dataset)))
    checked = flat.withColumn("_reasons", _reasons(dataset))
    broken = F.size("_reasons") > 0
    held = {f.name: F.when(~F.coalesce(bad, F.lit(False)), F.col(f.name)) for f, bad in _unreadable(dataset)}
    if dataset.sequence in held:
        held["_sequence"] = F.when(F.col("_deleted") | held[dataset.sequence].isNotNull(), F.col("_sequence"))
    return checked.withColumns(
        {
            **held,
            "_quarantined": broken,
            "_reasons": F.when(broken, F.col("_reasons")),
            "_value": F.when(broken, F.col("_value")),
        }
    )


def _from_key(name: str, dataset: Dataset) -> Column:
    part = F.col(f"_keys.{name}")
    kind = dataset.field(name).kind
    if kind == "date":
        return F.date_from_unix_date(part)
    return F.timestamp_micros(part) if kind == "timestamp" else part


def _sequence(dataset: Dataset) -> Column:
    if dataset.sequence is None:
        return F.col("_timestamp")
    kind = dataset.field(dataset.sequence).kind
    header: Column = F.col("_header")
    if kind == "date":
        header = F.date_from_unix_date(header.try_cast("int"))
    elif kind == "timestamp":
        header = F.timestamp_micros(header.try_cast("long"))
    elif kind in ("int", "long"):
        header = header.try_cast(kind if kind == "int" else "bigint")
    if (bad := _cannot_be_read(dataset.field(dataset.sequence), header)) is not None:
        header = F.when(~bad, header)
    return F.when(F.col("_deleted"), header).otherwise(F.col(dataset.sequence))


def _unreadable(dataset: Dataset) -> list[tuple[Field, Column]]:
    """The columns that can hold what no reader reads, and the condition that they do."""
    found = ((f, _cannot_be_read(f, F.col(f.name))) for f in dataset.table_fields)
    return [(field, bad) for field, bad in found if bad is not None]


def _cannot_be_read(field: Field, value: Column) -> Column | None:
    """True for text that is not UTF-8 and for days outside of years 1 to 9999, anywhere in the value.

    Avro's bytes can hold both; a reader would change the one in silence and fail at the other.
    """
    if field.kind == "string":
        return ~F.is_valid_utf8(value)
    if field.kind == "date":
        return ~value.between(F.expr("DATE'0001-01-01'"), F.expr("DATE'9999-12-31'"))
    if field.kind == "timestamp":
        first, last = "TIMESTAMP'0001-01-01T00:00:00Z'", "TIMESTAMP'9999-12-31T23:59:59.999999Z'"
        return ~value.between(F.expr(first), F.expr(last))
    if field.kind == "array" and field.item:
        item = field.item
        return None if _cannot_be_read(item, value) is None else F.exists(value, lambda v: _any_of(item, v))
    members = [_cannot_be_read(f, value[f.name]) for f in field.fields]
    return reduce(or_, [m for m in members if m is not None]) if any(m is not None for m in members) else None


def _any_of(field: Field, value: Column) -> Column:
    found = _cannot_be_read(field, value)
    return F.lit(False) if found is None else found


def _reasons(dataset: Dataset) -> Column:
    """An array of every reason that holds, empty for a good row."""
    upsert = ~F.col("_deleted")
    decoded = F.col("_record").isNotNull() & F.col(f"_record.{dataset.key[0]}").isNotNull()
    writer = F.col("_writer")
    known_writer = F.col("_record").isNotNull()
    same_key = F.lit(True)
    for name in dataset.key:
        same_key = same_key & F.col(name).eqNullSafe(_from_key(name, dataset))
    key_given = F.lit(True)
    for name in dataset.key:
        key_given = key_given & F.col(f"_keys.{name}").isNotNull()
    reasons = [
        _reason(
            upsert & writer.isNull(), "framing", None, F.hex(F.substring("_value", 1, 2)),
            "The value is neither Avro single-object encoding nor a registry's frame.",
            "记录值既不是 Avro 单对象编码，也不是注册中心格式。",
        ),
        _reason(
            upsert & writer.isNotNull() & ~known_writer, "schema", None, writer,
            *(F.coalesce(f"_refusal.{n}", F.lit(t)) for n, t in zip(("en", "zh"), _UNREGISTERED, strict=True)),
        ),
        _reason(
            upsert & known_writer & ~decoded, "malformed", None, F.length("_value").cast("string"),
            "The bytes do not hold a record of their schema.", "字节内容与其模式不符，无法解码。",
        ),
        _reason(
            ~key_given | (upsert & decoded & ~same_key), "key", ",".join(dataset.key), F.col("_key"),
            "The key is missing or is not the record's key.", "缺少主键，或键与记录不一致。",
        ),
        _reason(
            F.col("_sequence").isNull() & (~upsert | decoded), "sequence", dataset.sequence, F.col("_header"),
            "A delete must carry its sequence in the header 'sequence'.", "删除记录必须在消息头 sequence 中携带版本序列。",
        ),
    ]  # fmt: skip
    if dataset.district:
        reasons.append(
            _reason(
                upsert & decoded & (F.col(dataset.district) != F.col("_district")),
                "district",
                dataset.district,
                F.col(dataset.district),
                "The record claims another district than its topic's.",
                "记录声明的区与其主题所属的区不一致。",
            )
        )
    for field, bad in _unreadable(dataset):
        shown = F.make_valid_utf8(F.col(field.name).cast("string")) if not (field.item or field.fields) else F.lit(None)
        reasons.append(
            _reason(
                bad, "unreadable", field.name, shown,
                f"{field.name} holds text that is not UTF-8, or a day outside of years 1 to 9999.",
                f"{field.name} 含有非 UTF-8 文本，或年份不在 1 至 9999 之间的日期。",
            )
        )  # fmt: skip
    for rule in row_rules(dataset):
        found = F.col(rule.column).cast("string") if rule.column else F.lit(None)
        reasons.append(_reason(upsert & decoded & F.expr(rule.broken), rule.name, rule.column, found, rule.en, rule.zh))
    return F.filter(F.array(*reasons), lambda r: r.isNotNull())


def _reason(holds: Column, rule: str, column: str | None, found: Column, en: Column | str, zh: Column | str) -> Column:
    parts = [F.lit(rule), F.lit(column), found, F.lit(en), F.lit(zh)]
    named = [p.cast("string").alias(f.name) for p, f in zip(parts, REASON.fields, strict=True)]
    return F.when(F.coalesce(holds, F.lit(False)), F.struct(*named))


def _all_quarantined(records: DataFrame, rule: str, en: str, zh: str) -> DataFrame:
    reason = _reason(F.lit(True), rule, None, F.lit(None), en, zh)
    columns = {
        "_quarantined": F.lit(True), "_writer": F.lit(None), "_reasons": F.array(reason), "_value": F.col("value"),
    }  # fmt: skip
    return records.select(*_envelope(), *(c.alias(n) for n, c in columns.items())).select(
        *(F.col(f.name).cast(f.dataType) for f in ENVELOPE)
    )


def cause(error: Exception) -> str:
    """What Spark's or Java's error says first of all, on one line."""
    if isinstance(error, Py4JJavaError):
        cause = error.java_exception
        while (deeper := cause.getCause()) is not None:
            cause = deeper
        return str(cause.toString()).splitlines()[0]
    return first_line(error)
