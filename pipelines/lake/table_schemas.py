"""What the tables of the lake look like: the columns of each, in order, and the Spark type of a contract's column.

Columns that begin with _ are Suibus's; a contract's columns cannot.
"""

from __future__ import annotations

from pyspark.sql import types as T

from pipelines.fates import COUNTED
from schemas.dataset import Dataset, Field

_SCALARS: dict[str, T.DataType] = {
    "string": T.StringType(),
    "boolean": T.BooleanType(),
    "int": T.IntegerType(),
    "long": T.LongType(),
    "float": T.FloatType(),
    "double": T.DoubleType(),
    "date": T.DateType(),
    "timestamp": T.TimestampType(),
    "bytes": T.BinaryType(),
}
REASON = T.StructType(
    [T.StructField(name, T.StringType()) for name in ("rule", "column", "found", "reason", "reason_zh")]
)
NOT_ANSI = ("spark.sql.ansi.enabled", "false")  # where rules run: a cast of a bad value is null, not a dead job
EVENT = ("_topic", "_partition", "_offset")  # what identifies one record for ever
ORDER = ("_sequence", "_offset", "_topic", "_partition")  # what decides between two versions of a key


def spark_type(field: Field) -> T.DataType:
    """The Spark type a column has in every table; what is nested is nullable, as its Avro schema already holds it."""
    if field.kind == "decimal":
        return T.DecimalType(field.precision, field.scale)
    if field.kind == "array" and field.item:
        return T.ArrayType(spark_type(field.item), containsNull=True)
    if field.kind == "record":
        return T.StructType([T.StructField(f.name, spark_type(f)) for f in field.fields])
    return _SCALARS[field.kind]


def spark_schema(dataset: Dataset) -> T.StructType:
    """The columns a department sees: keys, sequence and district first, then the contract's order."""
    return T.StructType(
        [
            T.StructField(f.name, spark_type(f), not f.required, {"comment": f.title or f.description})
            for f in dataset.table_fields
        ]
    )


def ddl(dataset: Dataset) -> str:
    """The shared table as a CREATE TABLE statement, for people and other engines."""
    columns = []
    for field, column in zip(dataset.table_fields, spark_schema(dataset), strict=True):
        null = "" if column.nullable else " NOT NULL"
        comment = f" COMMENT '{field.title.replace(chr(39), chr(39) * 2)}'" if field.title else ""
        columns.append(f"  {field.name} {column.dataType.simpleString().upper()}{null}{comment}")
    columns.append(f"  PRIMARY KEY ({', '.join(dataset.key)})")
    return f"CREATE TABLE {dataset.name} (\n" + ",\n".join(columns) + "\n) USING DELTA"


def sequence_type(dataset: Dataset) -> T.DataType:
    """The type versions of a key are ordered by; the record's Kafka timestamp where the contract names no column."""
    return spark_type(dataset.field(dataset.sequence)) if dataset.sequence else T.TimestampType()


def _nullable(fields: list[T.StructField]) -> list[T.StructField]:
    return [T.StructField(f.name, f.dataType, True, f.metadata) for f in fields]


ENVELOPE = [
    T.StructField("_quarantined", T.BooleanType()),
    T.StructField("_topic", T.StringType()),
    T.StructField("_partition", T.IntegerType()),
    T.StructField("_offset", T.LongType()),
    T.StructField("_timestamp", T.TimestampType()),
    T.StructField("_district", T.StringType()),
    T.StructField("_key", T.StringType()),
    T.StructField("_deleted", T.BooleanType()),
    T.StructField("_writer", T.StringType()),
    T.StructField("_reasons", T.ArrayType(REASON)),
    T.StructField("_value", T.BinaryType()),  # kept of quarantined records only
    T.StructField("_answers", T.StringType()),  # the receipt that the record answers, as its sender says
]


def bronze_schema(dataset: Dataset) -> T.StructType:
    """Envelope, sequence, then the record's columns, all nullable: a quarantined record may lack any."""
    sequence = T.StructField("_sequence", sequence_type(dataset))
    return T.StructType([*ENVELOPE, sequence, *_nullable(spark_schema(dataset).fields)])


def silver_schema(dataset: Dataset) -> T.StructType:
    """Keys first (Delta keeps statistics of the first 32 columns), what orders and explains a row, then the rest."""
    columns = {f.name: f for f in _nullable(spark_schema(dataset).fields)}
    first = [columns.pop(name) for name in dataset.key]
    state = [
        T.StructField("_deleted", T.BooleanType()),
        T.StructField("_hash", T.LongType()),  # of the columns that are not keys: the same values, the same hash
        T.StructField("_broken", T.ArrayType(T.StringType())),  # the composing rules that count the row, null: none
        T.StructField("_rules", T.StringType()),  # the hash of those rules
        T.StructField("_district", T.StringType()),
        T.StructField("_sequence", sequence_type(dataset)),
        T.StructField("_offset", T.LongType()),
        T.StructField("_topic", T.StringType()),
        T.StructField("_partition", T.IntegerType()),
    ]
    return T.StructType([*first, *state, *columns.values()])


RELEASE = T.StructType(
    [
        T.StructField("dataset", T.StringType()),  # <dataset>.vN
        T.StructField("release", T.LongType()),  # 1, 2, 3 … of the dataset, held ones counted
        T.StructField("status", T.StringType()),  # released or held
        T.StructField("silver_version", T.LongType()),
        T.StructField("silver_id", T.StringType()),  # Delta's id of the silver table that version is of
        T.StructField("rows", T.LongType()),
        T.StructField("contract_version", T.StringType()),
        T.StructField("contract_sha256", T.StringType()),
        T.StructField("verdict_sha256", T.StringType()),
        T.StructField("failed", T.ArrayType(T.StringType())),  # critical rules that failed
        T.StructField("warnings", T.ArrayType(T.StringType())),
        T.StructField("decided_at", T.TimestampType()),
        T.StructField("verdict", T.StringType()),  # canonical JSON
    ]
)
ACCOUNT = T.StructType(
    [
        T.StructField("dataset", T.StringType()),
        T.StructField("district", T.StringType()),
        T.StructField("bronze_from", T.LongType()),  # first and last bronze version of the merge
        T.StructField("bronze_to", T.LongType()),
        T.StructField("bronze_id", T.StringType()),  # Delta's id of the bronze table those versions are of
        T.StructField("silver_version", T.LongType()),
        *(T.StructField(name, T.LongType()) for name in COUNTED),  # lost: of the superseded; took: of those merged
        T.StructField("at", T.TimestampType()),
    ]
)
