"""Kafka records of one dataset as bronze rows: decoded once, held against every row rule in one pass."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from secrets import token_bytes

from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from pipelines.avro import MARK, narrowed, outside_of_years, strict_avro, unreadable
from pipelines.offsets import Range
from pipelines.tables import ENVELOPE, NOT_ANSI, REASON, bronze_schema, sequence_type
from quality.rules import row_rules
from schemas.avro import FRAME, LARGEST, MAGIC, avro_schema
from schemas.dataset import Dataset, Field
from schemas.errors import InputError, first_line
from schemas.registry import Registry, agreed_schema
from schemas.store import ContractStore

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
            return _bronze(_checked(read, dataset, mark), dataset)
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
    moment = F.col("_timestamp")
    shown = {"_key": F.make_valid_utf8("_key"), "_timestamp": F.when(~outside_of_years(moment), moment)}  # any can read
    columns = [
        shown.get(f.name, F.col(f.name) if f.name in rows.columns else F.lit(None).cast(f.dataType)).alias(f.name)
        for f in bronze_schema(dataset).fields
    ]
    return rows.select(columns)


def _decoded(
    records: DataFrame, dataset: Dataset, store: ContractStore, registry: Registry | None, mark: bytes
) -> DataFrame:
    """Envelope, key, and `_read`: the record and what follows it, as `strict_avro` gives them; null of an unknown writer.

    `from_avro` with the wrong writer schema returns wrong values and no error, so the frame is checked first and
    each writer schema decodes only its own records. What is larger than the bus takes is not decoded at all: a
    record of a few megabytes can hold objects of a hundred times its size.
    """
    reader = avro_schema(dataset)
    size = F.coalesce(F.length("key"), F.lit(0)) + F.coalesce(F.length("value"), F.lit(0))
    fits = size <= LARGEST
    value = F.when(fits, F.col("value"))
    single = F.substring(value, 1, 2) == F.lit(bytearray(MAGIC))
    fingerprint = F.lower(F.hex(F.substring(value, 3, FRAME - len(MAGIC))))
    writer: Column = F.when(single, fingerprint)
    read: Column = F.lit(None)
    body = F.expr(f"substring(value, {FRAME + 1})")
    for known, schema in store.writer_schemas(dataset.id).items():
        read = F.when(writer == known.hex(), strict_avro(body, schema, reader, mark)).otherwise(read)
    confluent = (F.substring(value, 1, 1) == F.lit(bytearray(1))) & (F.length(value) > 5)
    number = F.when(confluent, F.conv(F.hex(F.substring(value, 2, 4)), 16, 10).cast("long"))
    writer = F.coalesce(writer, F.concat(F.lit("registry:"), number.cast("string")))
    refusal: Column = F.when(number.isNotNull(), _texts(*_NO_SUCH_ID if registry else _NO_REGISTRY))
    if registry:
        agreed, refused = _registry_schemas(records, number, dataset, registry)
        for text, ids in agreed.items():
            decoded = strict_avro(F.expr("substring(value, 6)"), json.loads(text), reader, mark)
            read = F.when(number.isin(ids), decoded).otherwise(read)
        for (en, zh), ids in refused.items():
            refusal = F.when(number.isin(ids), _texts(en, zh)).otherwise(refusal)
    headers = F.filter("headers", lambda header: header.key == "sequence").value
    kinds = ((name, dataset.field(name).kind) for name in dataset.key)
    key_ddl = ", ".join(f"`{name}` {'STRING' if kind == 'string' else 'BIGINT'}" for name, kind in kinds)
    deleted = F.col("value").isNull()
    return records.select(
        *_envelope(),
        F.when(~fits, size).alias("_size"),
        writer.alias("_writer"),
        F.when(~deleted, F.col("value")).alias("_value"),
        F.when(F.size(headers) == 1, headers[0].cast("string")).alias("_header"),
        F.when(deleted & fits, F.from_json(F.col("key").cast("string"), key_ddl)).alias("_keys"),
        read.alias("_read"),
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
    answers = F.expr("get(filter(headers, h -> h.key = 'answers'), 0).value")
    return [
        F.col("topic").alias("_topic"),
        F.col("partition").alias("_partition"),
        F.col("offset").alias("_offset"),
        F.col("timestamp").alias("_timestamp"),
        F.split("topic", r"\.")[2].alias("_district"),
        F.col("key").cast("string").alias("_key"),
        F.col("value").isNull().alias("_deleted"),
        F.left(F.make_valid_utf8(answers.cast("string")), F.lit(ANSWERS)).alias("_answers"),
    ]


def _checked(rows: DataFrame, dataset: Dataset, mark: bytes) -> DataFrame:
    """Columns out of the record (keys out of the key for a delete), sequence, and every reason against the row."""
    raw = {field.name: F.col(f"_read.record.{field.name}") for field in dataset.table_fields}
    for name in dataset.key:
        raw[name] = F.when(F.col("_deleted"), _from_key(name, dataset)).otherwise(raw[name])
    rows = rows.select("*", *(column.alias(f"_raw_{name}") for name, column in raw.items()))
    flat = rows.select("*", *(narrowed(f, F.col(f"_raw_{f.name}")).alias(f.name) for f in dataset.table_fields))
    sequence = _sequence(dataset)
    flat = flat.withColumn("_sequence", sequence.cast(sequence_type(dataset)))
    checked = flat.withColumn("_reasons", _reasons(dataset, mark))
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
    return F.timestamp_micros(part) if dataset.field(name).kind == "timestamp" else part


def _canonical_key(dataset: Dataset) -> Column:
    """The one key that a node gives the record, as `schemas.avro.Encoder.key` writes it; null if a part is missing.

    Another spelling of it would lie in another partition, and the order of its changes would be lost.
    """
    parts: list[Column] = []
    for name in dataset.key:
        part, kind = F.col(f"_raw_{name}"), dataset.field(name).kind
        text = _quoted(part) if kind == "string" else F.unix_micros(part) if kind == "timestamp" else part
        parts += [F.lit(f'{"," if parts else "{"}"{name}":'), text.cast("string")]
    return F.concat(*parts, F.lit("}"))


_ESCAPED = {c: json.dumps(c)[1:-1] for c in ("\\", '"', *map(chr, range(32)))}


def _quoted(text: Column) -> Column:
    """A string as Python's json writes it without ensure_ascii."""
    special = r'[\x00-\x1f"\\]'
    escapes = F.create_map(*(F.lit(part) for pair in _ESCAPED.items() for part in pair))
    runs = F.regexp_extract_all(text, F.lit(rf"{special}|[^{special[1:]}+"), F.lit(0))
    escaped = F.array_join(F.transform(runs, lambda run: F.coalesce(F.try_element_at(escapes, run), run)), "")
    return F.concat(F.lit('"'), F.when(text.rlike(special), escaped).otherwise(text), F.lit('"'))


def _sequence(dataset: Dataset) -> Column:
    if dataset.sequence is None:
        return F.when(~outside_of_years(F.col("_timestamp")), F.col("_timestamp"))
    field, header = dataset.field(dataset.sequence), F.col("_header")
    number = header.try_cast("bigint")
    number = F.when(number.cast("string") == header, number)  # ' 1', '+1' and '1.0' are none
    raw = {"string": header, "timestamp": F.timestamp_micros(number)}.get(field.kind, number)
    bad = unreadable(field, raw)
    good = raw if bad is None else F.when(~bad, raw)
    return F.when(F.col("_deleted"), narrowed(field, good)).otherwise(F.col(dataset.sequence))


def _unreadable(dataset: Dataset) -> list[tuple[Field, Column]]:
    """The columns that can hold what no reader reads, and the condition that they do."""
    found = ((f, unreadable(f, F.col(f"_raw_{f.name}"))) for f in dataset.table_fields)
    return [(field, bad) for field, bad in found if bad is not None]


def _reasons(dataset: Dataset, mark: bytes) -> Column:
    """An array of every reason that holds, empty for a good row."""
    fits = F.col("_size").isNull()
    upsert = ~F.col("_deleted") & fits
    known_writer = F.col("_read").isNotNull()
    decoded = F.col("_read.record").isNotNull()
    writer = F.col("_writer")
    right_key = F.coalesce(F.col("_key") == _canonical_key(dataset), F.lit(False))
    reasons = [
        _reason(
            ~fits, "size", None, F.col("_size"),
            f"Key and value are larger than the {LARGEST} bytes the bus takes; they were not decoded.",
            f"键与值超过总线可接收的 {LARGEST} 字节，未解码。",
        ),
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
            upsert & known_writer & ~decoded, "malformed", None, F.length("_value"),
            "The bytes do not hold a record of their schema.", "字节内容与其模式不符，无法解码。",
        ),
        _reason(
            upsert & decoded & (F.col("_read.end") != F.lit(bytearray(mark))), "trailing", None, F.length("_value"),
            "Bytes follow the record: they are lost if the record is right, and it is wrong if they belong to it.",
            "记录之后还有多余字节：若记录无误，这些字节会丢失；若它们属于记录，则记录有误。",
        ),
        _reason(
            fits & (F.col("_deleted") | decoded | F.col("_key").isNull()) & ~right_key,
            "key", ",".join(dataset.key), F.col("_key"),
            "The key is missing, or is not byte for byte the key that the contract gives the record.",
            "缺少主键，或键与契约为该记录规定的键不逐字节一致。",
        ),
        _reason(
            F.lit(dataset.sequence is not None) & F.col("_sequence").isNull() & ((fits & F.col("_deleted")) | decoded),
            "sequence", dataset.sequence, F.col("_header"),
            "A delete must carry its sequence, as the node writes it, in one header 'sequence'.",
            "删除记录必须在唯一的消息头 sequence 中携带版本序列，写法与节点一致。",
        ),
        _reason(
            outside_of_years(F.col("_timestamp")), "timestamp", None, F.col("_timestamp"),
            "Kafka's timestamp of the record lies outside of years 1 to 9999.",
            "记录的 Kafka 时间戳不在公元 1 至 9999 年之间。",
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
        raw = F.col(f"_raw_{field.name}")
        shown = (
            F.lit(None) if field.item or field.fields else F.hex(raw) if field.kind in ("boolean", "decimal") else raw
        )
        reasons.append(
            _reason(
                bad, "unreadable", field.name, shown,
                f"{field.name} holds what is no {field.type_name}: text that is not UTF-8, a day outside of years 1 to "
                "9999, a number that is too large, or a boolean that is neither 0 nor 1.",
                f"{field.name} 含有不属于 {field.type_name} 的内容：非 UTF-8 文本、年份不在 1 至 9999 之间的日期、"
                "超出范围的数值，或既非 0 也非 1 的布尔值。",
            )
        )  # fmt: skip
    can_fail = {rule.name for rule in dataset.rules if rule.type == "sql"}
    for rule in row_rules(dataset):
        found = F.col(rule.column).cast("string") if rule.column else F.lit(None)
        broken, en, zh = F.expr(rule.broken), F.lit(rule.en), F.lit(rule.zh)
        if rule.name in can_fail:
            # A `try_` function is null where anything inside of it fails. It stands in a branch, so that Spark computes
            # nothing of it ahead and outside of it.
            tried = F.try_to_binary(F.when(broken, "1").otherwise("0"), F.lit("utf-8"))
            tried = F.when(upsert & decoded, F.coalesce(tried, F.lit(bytearray(b"?"))))
            broken, failed = tried != F.lit(bytearray(b"0")), tried == F.lit(bytearray(b"?"))
            en = F.when(failed, f"The rule {rule.name} cannot be evaluated for this row: {_FAILED[0]}").otherwise(en)
            zh = F.when(failed, f"规则 {rule.name} 无法对该行求值：{_FAILED[1]}").otherwise(zh)
        reasons.append(_reason(upsert & decoded & broken, rule.name, rule.column, found, en, zh))
    return F.filter(F.array(*reasons), lambda r: r.isNotNull())


_FAILED = (
    "a value that is cast is not of the type, a number overflows, or is divided by zero.",
    "被转换的值不符合目标类型、数值溢出或除数为零。",
)


def _reason(holds: Column, rule: str, column: str | None, found: Column, en: Column | str, zh: Column | str) -> Column:
    shown = F.left(F.make_valid_utf8(found.cast("string")), F.lit(SHOWN))
    texts = (F.lit(text) if isinstance(text, str) else text for text in (en, zh))
    parts = [F.lit(rule), F.lit(column), shown, *texts]
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
