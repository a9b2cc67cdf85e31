"""Which version of a key wins, and the fate of every event: decided from the columns that order versions, not from the rows themselves.

The order of two versions of a key is total and made of the events themselves (`lake.tables.ORDER`), so any order and any
duplication of the same events gives the same silver.
"""

from __future__ import annotations

from datetime import date

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pipelines.lake.delta import FILE_AND_ROW, Change
from pipelines.lake.table_schemas import EVENT, NOT_ANSI, ORDER, spark_schema
from pipelines.merge.gate_counts import counting_rules
from quality.rules import rules_hash
from schemas.dataset import Dataset

ONE_TASK = 100_000  # events; fewer are decided in one task, without a shuffle, their keys looked up one by one
READ_WHOLE = 100_000  # rows of silver; fewer are read sooner than the keys that would tell which of its files to read
BROADCAST_KEYS = 4_000_000  # keys; fewer are sent whole to each core, and silver is not shuffled
_DECIDES = ("_deleted", "_hash", "_broken", "_rules", "_district", *ORDER)  # what is read beside the key
# What is counted of an event beside its fate: it lost to another district, it took a key from another district, it goes into silver,
# it replaces a row of silver, it is a copy of another event, a gate rule counts it or the row it replaces, the row it replaces
# was counted by other rules.
FLAGS = ("_lost", "_took", "_won", "_replaces", "_copy", "_broke", "_unknown")


def latest(events: DataFrame, dataset: Dataset) -> DataFrame:
    """The version of each key that is last in the total order, as silver holds it."""
    return _ranked(_hashed(with_hash_and_rules(events, dataset), dataset), dataset).where("_rank = 1")


def with_hash_and_rules(events: DataFrame, dataset: Dataset) -> DataFrame:
    """Events with what silver keeps of each row beside its values: their hash, and which of the gate's rules count it."""
    events.sparkSession.conf.set(*NOT_ANSI)
    parts = []
    for field in spark_schema(dataset).fields:
        if field.name not in dataset.key:
            value = F.col(f"`{field.name}`")
            nested = isinstance(field.dataType, (T.ArrayType, T.StructType))
            parts += [value.isNull(), F.to_json(value, {"ignoreNullFields": "false"}) if nested else value]
    return events.withColumns(
        {
            "_hash": F.xxhash64(*parts, F.lit(0)),  # the literal: a dataset may be all key
            "_broken": counting_rules(events, dataset),
            "_rules": F.lit(rules_hash(dataset)),
        }
    )


def decide(events: DataFrame, count: int, dataset: Dataset, change: Change) -> DataFrame:
    """Each of the `count` events with its fate, what is counted of it (`FLAGS`), and which row of silver it replaces."""
    narrow = _hashed(events.select(*dataset.key, *_DECIDES), dataset)
    narrow = narrow.coalesce(1) if count <= ONE_TASK else narrow
    return _decided(_ranked(narrow, dataset), _silver_rows(narrow, count, dataset, change), dataset)


def _hashed(rows: DataFrame, dataset: Dataset) -> DataFrame:
    """Rows with a number for their key: numbers are looked up and sorted faster than the texts that a key may be of."""
    return rows.withColumn("_hashed", F.xxhash64(*dataset.key))


def _silver_rows(events: DataFrame, count: int, dataset: Dataset, change: Change) -> DataFrame:
    """The rows of silver with the events' keys, and perhaps with others of the same hash: only the columns that decide are read."""
    key = list(dataset.key)
    kept = list(change.files.files.values())
    kind = dataset.field(key[0]).kind
    rows = sum(file.stats.get("numRecords", READ_WHOLE) for file in kept)
    if count and rows > READ_WHOLE and kind in ("string", "int", "long", "date"):
        few = count <= ONE_TASK
        first = events.select(key[0]) if few else events.agg(F.min(key[0]), F.max(key[0]))
        values = {v.isoformat() if isinstance(v, date) else v for row in first.collect() for v in row}
        kept = change.files_that_may_hold(key[0], sorted(values), between=not few)
    there = _hashed(change.rows(kept if count else []), dataset)
    keys = events.select("_hashed")
    found = there.join(F.broadcast(keys) if count <= BROADCAST_KEYS else keys, "_hashed", "leftsemi")
    found = found.select("_hashed", *key, F.struct(*_DECIDES, *change.file_and_row()).alias("_old"))
    return F.broadcast(found) if count <= ONE_TASK else found


def _ranked(events: DataFrame, dataset: Dataset) -> DataFrame:
    """Each event with its rank among those of its key, whether it is a copy of another, and the key's last one."""
    newest_first = Window.partitionBy("_hashed", *dataset.key).orderBy(*(F.desc(c) for c in ORDER))
    event = F.struct(*EVENT)
    top = F.first(F.struct(*ORDER, "_district")).over(newest_first)
    copy = F.coalesce(event == F.lag(event).over(newest_first), F.lit(False))
    rank = F.row_number().over(newest_first)
    return events.withColumns({"_rank": rank, "_copy": copy, "_top": top})


def _decided(ranked: DataFrame, old: DataFrame, dataset: Dataset) -> DataFrame:
    """Each event with its fate, what else is counted of it, and which row of silver it replaces."""
    joined = ranked.join(old, ["_hashed", *dataset.key], "left")
    order = [F.struct(*(F.col(f"{side}.{name}") for name in ORDER)) for side in ("_top", "_old")]
    held, event, first = F.col("_old"), F.struct(*EVENT), F.col("_rank") == 1
    joined = joined.withColumn("_wins", held.isNull() | (order[0] > order[1]))
    wins, won, deleted = F.col("_wins"), F.col("_wins") & first, F.col("_deleted")
    same = event == F.struct(*(held[name] for name in EVENT))
    merged = (
        F.when(held.isNull(), F.when(deleted, "unchanged").otherwise("inserted"))
        .when(deleted, F.when(held["_deleted"], "unchanged").otherwise("deleted"))
        .when(held["_deleted"], "inserted")
        .when(held["_hash"] == F.col("_hash"), "unchanged")
        .otherwise("updated")
    )
    fate = F.when(F.col("_copy") | (first & ~wins & same), "duplicate").when(won, merged).otherwise("superseded")
    holder = F.when(wins, F.col("_top._district")).otherwise(held["_district"])
    replaces = won & held.isNotNull()
    flags = (
        (fate == "superseded") & (holder != F.col("_district")),
        replaces & (held["_district"] != F.col("_district")),
        won,
        replaces,
        F.col("_copy"),
        won & (F.col("_broken").isNotNull() | held["_broken"].isNotNull()),
        replaces & ~held["_deleted"] & ~held["_rules"].eqNullSafe(F.col("_rules")),
    )
    return joined.select(
        *EVENT,
        "_district",
        fate.alias("_fate"),
        *(F.coalesce(column, F.lit(False)).alias(name) for name, column in zip(FLAGS, flags, strict=True)),
        "_broken",
        held["_broken"].alias("_was_broken"),
        *(held[name].alias(name) for name in FILE_AND_ROW),
    )
