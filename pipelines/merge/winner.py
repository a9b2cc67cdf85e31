"""Decide which version of a key wins, and the fate of every event. Only key, order and hash columns are read, not whole rows.

Versions of a key have a total order that depends on the events alone (`pipelines.lake.table_schemas.ORDER`). So the same events in any
order, and with any duplicates, give the same silver.
"""

from __future__ import annotations

from datetime import date

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pipelines.lake.row_replacement import FILE_AND_ROW, Change
from pipelines.lake.table_schemas import EVENT, NOT_ANSI, ORDER, spark_schema
from pipelines.merge.gate_counts import counting_rules
from quality.gate_rules import rules_hash
from schemas.dataset import Dataset

ONE_TASK = 100_000  # events: up to this many are decided in one task without a shuffle, and their keys are looked up one by one
READ_WHOLE = (
    100_000  # rows of silver: up to this many are read whole, which is faster than finding the files that hold the keys
)
BROADCAST_KEYS = 4_000_000  # keys: up to this many are broadcast, so that silver is not shuffled
_DECIDES = ("_deleted", "_hash", "_broken", "_rules", "_district", *ORDER)  # the columns that are read besides the key
# The flags of an event, besides its fate: _lost: superseded by another district's version; _took: replaces another district's row;
# _won: is written to silver; _replaces: replaces a row of silver; _copy: is a copy of another event of the batch; _broke: a gate rule
# counts it or the row it replaces; _unknown: the row it replaces was counted with other rules.
FLAGS = ("_lost", "_took", "_won", "_replaces", "_copy", "_broke", "_unknown")


def latest(events: DataFrame, dataset: Dataset) -> DataFrame:
    """The last version of each key in the total order, as silver rows."""
    return _ranked(_hashed(with_hash_and_rules(events, dataset), dataset), dataset).where("_rank = 1")


def with_hash_and_rules(events: DataFrame, dataset: Dataset) -> DataFrame:
    """Events with the columns that silver adds: the hash of the values, and the gate's rules that count the row."""
    events.sparkSession.conf.set(*NOT_ANSI)
    parts = []
    for field in spark_schema(dataset).fields:
        if field.name not in dataset.key:
            value = F.col(f"`{field.name}`")
            nested = isinstance(field.dataType, (T.ArrayType, T.StructType))
            parts += [value.isNull(), F.to_json(value, {"ignoreNullFields": "false"}) if nested else value]
    return events.withColumns(
        {
            "_hash": F.xxhash64(*parts, F.lit(0)),  # the literal: all columns of a dataset may belong to the key
            "_broken": counting_rules(events, dataset),
            "_rules": F.lit(rules_hash(dataset)),
        }
    )


def decide(events: DataFrame, count: int, dataset: Dataset, change: Change) -> DataFrame:
    """Each of the `count` events with its fate, its `FLAGS`, and the row of silver that it replaces (`FILE_AND_ROW`)."""
    narrow = _hashed(events.select(*dataset.key, *_DECIDES), dataset)
    narrow = narrow.coalesce(1) if count <= ONE_TASK else narrow
    return _decided(_ranked(narrow, dataset), _silver_rows(narrow, count, dataset, change), dataset)


def _hashed(rows: DataFrame, dataset: Dataset) -> DataFrame:
    """Rows with a hash of their key, which is joined and sorted faster than text."""
    return rows.withColumn("_hashed", F.xxhash64(*dataset.key))


def _silver_rows(events: DataFrame, count: int, dataset: Dataset, change: Change) -> DataFrame:
    """The rows of silver that have the hash of an event's key: its columns that decide (`_DECIDES`), as the struct `_old`."""
    key = list(dataset.key)
    files = list(change.files.files.values())
    kind = dataset.field(key[0]).kind
    rows = sum(file.stats.get("numRecords", READ_WHOLE) for file in files)
    if count and rows > READ_WHOLE and kind in ("string", "int", "long", "date"):
        few = count <= ONE_TASK
        first = events.select(key[0]) if few else events.agg(F.min(key[0]), F.max(key[0]))
        values = {v.isoformat() if isinstance(v, date) else v for row in first.collect() for v in row}
        files = change.files_that_may_hold(key[0], sorted(values), between=not few)
    silver = _hashed(change.rows(files if count else []), dataset)
    keys = events.select("_hashed")
    matching = silver.join(F.broadcast(keys) if count <= BROADCAST_KEYS else keys, "_hashed", "leftsemi")
    matching = matching.select("_hashed", *key, F.struct(*_DECIDES, *change.file_and_row()).alias("_old"))
    return F.broadcast(matching) if count <= ONE_TASK else matching


def _ranked(events: DataFrame, dataset: Dataset) -> DataFrame:
    """Each event with its rank among the events of its key (1: the last), whether it is a copy, and the key's last event (`_top`)."""
    newest_first = Window.partitionBy("_hashed", *dataset.key).orderBy(*(F.desc(c) for c in ORDER))
    event = F.struct(*EVENT)
    top = F.first(F.struct(*ORDER, "_district")).over(newest_first)
    copy = F.coalesce(event == F.lag(event).over(newest_first), F.lit(False))
    rank = F.row_number().over(newest_first)
    return events.withColumns({"_rank": rank, "_copy": copy, "_top": top})


def _decided(ranked: DataFrame, old: DataFrame, dataset: Dataset) -> DataFrame:
    """Each event with its fate, its flags, and the row of silver that it replaces.

        event                                          silver's row of its key       fate
        a copy of another event of the batch           any or none                   duplicate
        followed in the batch by a later event         any or none                   superseded
        last, and the event that the row came from     any                           duplicate
        last, and older than the row                   any                           superseded
        last and newer: a delete                       none, or a tombstone          unchanged
        last and newer: a delete                       a row with values             deleted
        last and newer: values                         none, or a tombstone          inserted
        last and newer: values                         with the same hash            unchanged
        last and newer: values                         with another hash             updated

    The first line that applies decides. Working columns: `_rank`, `_copy` and `_top` are described at `_ranked`; `_old` is silver's
    row of the key, null if there is none; `_wins`, the same for all events of a key, says whether the last of them is newer than
    that row, so that it is written to silver.
    """
    joined = ranked.join(old, ["_hashed", *dataset.key], "left")
    top_order, current_order = (F.struct(*(F.col(f"{side}.{name}") for name in ORDER)) for side in ("_top", "_old"))
    current, event, first = F.col("_old"), F.struct(*EVENT), F.col("_rank") == 1
    joined = joined.withColumn("_wins", current.isNull() | (top_order > current_order))
    wins, won, deleted = F.col("_wins"), F.col("_wins") & first, F.col("_deleted")
    same = event == F.struct(*(current[name] for name in EVENT))
    merged = (
        F.when(current.isNull(), F.when(deleted, "unchanged").otherwise("inserted"))
        .when(deleted, F.when(current["_deleted"], "unchanged").otherwise("deleted"))
        .when(current["_deleted"], "inserted")
        .when(current["_hash"] == F.col("_hash"), "unchanged")
        .otherwise("updated")
    )
    fate = F.when(F.col("_copy") | (first & ~wins & same), "duplicate").when(won, merged).otherwise("superseded")
    winning_district = F.when(wins, F.col("_top._district")).otherwise(current["_district"])
    replaces = won & current.isNotNull()
    flags = (
        (fate == "superseded") & (winning_district != F.col("_district")),
        replaces & (current["_district"] != F.col("_district")),
        won,
        replaces,
        F.col("_copy"),
        won & (F.col("_broken").isNotNull() | current["_broken"].isNotNull()),
        replaces & ~current["_deleted"] & ~current["_rules"].eqNullSafe(F.col("_rules")),
    )
    return joined.select(
        *EVENT,
        "_district",
        fate.alias("_fate"),
        *(F.coalesce(column, F.lit(False)).alias(name) for name, column in zip(FLAGS, flags, strict=True)),
        "_broken",
        current["_broken"].alias("_was_broken"),
        *(current[name].alias(name) for name in FILE_AND_ROW),
    )
