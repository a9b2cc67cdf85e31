"""The schemas of the lake's tables, and the Spark type of a contract's column.

Column names that begin with _ are reserved for Suibus; a contract cannot use them.
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
# Set where rules run: casting a bad value then gives null instead of failing the job.
NOT_ANSI = ("spark.sql.ansi.enabled", "false")
EVENT = ("_topic", "_partition", "_offset")  # identifies a record for ever
ORDER = ("_sequence", "_offset", "_topic", "_partition")  # the total order of the versions of a key


def spark_type(field: Field) -> T.DataType:
    """The Spark type of a column, the same in every table. Nested members are nullable: Avro has checked them already."""
    if field.kind == "decimal":
        return T.DecimalType(field.precision, field.scale)
    if field.kind == "array" and field.item:
        return T.ArrayType(spark_type(field.item), containsNull=True)
    if field.kind == "record":
        return T.StructType([T.StructField(f.name, spark_type(f)) for f in field.fields])
    return _SCALARS[field.kind]


def spark_schema(dataset: Dataset) -> T.StructType:
    """The columns that a department sees: key, sequence and district first, then the others in the contract's order."""
    return T.StructType(
        [
            T.StructField(f.name, spark_type(f), not f.required, {"comment": f.title or f.description})
            for f in dataset.table_fields
        ]
    )


def ddl(dataset: Dataset) -> str:
    """The shared table as a CREATE TABLE statement, for people and for other engines."""
    columns = []
    for field, column in zip(dataset.table_fields, spark_schema(dataset), strict=True):
        null = "" if column.nullable else " NOT NULL"
        comment = f" COMMENT '{field.title.replace(chr(39), chr(39) * 2)}'" if field.title else ""
        columns.append(f"  {field.name} {column.dataType.simpleString().upper()}{null}{comment}")
    columns.append(f"  PRIMARY KEY ({', '.join(dataset.key)})")
    return f"CREATE TABLE {dataset.name} (\n" + ",\n".join(columns) + "\n) USING DELTA"


def sequence_type(dataset: Dataset) -> T.DataType:
    """The type of `_sequence`, which orders the versions of a key: a timestamp (Kafka's) if the contract names no sequence column."""
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
    T.StructField("_value", T.BinaryType()),  # the record's bytes, kept for quarantined records only
    T.StructField("_answers", T.StringType()),  # the id of the receipt that this record corrects, from its header
]


def bronze_schema(dataset: Dataset) -> T.StructType:
    """Envelope, sequence, then the contract's columns. All are nullable: a quarantined record may lack any of them."""
    sequence = T.StructField("_sequence", sequence_type(dataset))
    return T.StructType([*ENVELOPE, sequence, *_nullable(spark_schema(dataset).fields)])


def silver_schema(dataset: Dataset) -> T.StructType:
    """Key columns first (Delta keeps statistics for the first 32 columns), then Suibus's columns, then the rest."""
    columns = {f.name: f for f in _nullable(spark_schema(dataset).fields)}
    first = [columns.pop(name) for name in dataset.key]
    state = [
        T.StructField("_deleted", T.BooleanType()),
        T.StructField(
            "_hash", T.LongType()
        ),  # of all columns outside the key; tells whether a new version changes anything
        T.StructField(
            "_broken", T.ArrayType(T.StringType())
        ),  # the names of the composing rules that count the row; null if none does
        T.StructField("_rules", T.StringType()),  # the hash of the composing rules that were applied
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
        T.StructField("release", T.LongType()),  # 1, 2, 3 … per dataset, held ones included
        T.StructField("status", T.StringType()),  # released or held
        T.StructField("silver_version", T.LongType()),
        T.StructField("silver_id", T.StringType()),  # Delta's id of the silver table that has this version
        T.StructField("rows", T.LongType()),
        T.StructField("contract_version", T.StringType()),
        T.StructField("contract_sha256", T.StringType()),
        T.StructField("verdict_sha256", T.StringType()),
        T.StructField("failed", T.ArrayType(T.StringType())),  # the critical rules that failed
        T.StructField("warnings", T.ArrayType(T.StringType())),
        T.StructField("decided_at", T.TimestampType()),
        T.StructField("verdict", T.StringType()),  # canonical JSON
    ]
)
ACCOUNT = T.StructType(
    [
        T.StructField("dataset", T.StringType()),
        T.StructField("district", T.StringType()),
        T.StructField("bronze_from", T.LongType()),  # the first bronze version of the merge
        T.StructField("bronze_to", T.LongType()),  # the last
        T.StructField("bronze_id", T.StringType()),  # Delta's id of the bronze table that has these versions
        T.StructField("silver_version", T.LongType()),
        *(
            T.StructField(name, T.LongType()) for name in COUNTED
        ),  # `lost_…` are among the superseded, `took_…` among the merged
        T.StructField("at", T.TimestampType()),
    ]
)
