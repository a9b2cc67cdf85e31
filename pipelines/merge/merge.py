"""From bronze to silver: one row a key, the latest sequence, ties by offset; deletes stay as tombstones.

The order of two versions of a key is total and made of the events themselves (`lake.tables.ORDER`), so any order and
any duplication of the same events gives the same silver. One commit of silver carries the rows, which bronze versions it
holds, and the account of every event: none of the three can be there without the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from functools import reduce
from operator import or_

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pipelines.fates import COUNTED
from pipelines.lake.bronze import is_quarantined, portions
from pipelines.lake.delta import FILE_AND_ROW, Change
from pipelines.lake.lake import Lake
from pipelines.lake.log import AddedFile, count_rows
from pipelines.lake.notes import GateChange, MergeNote, dump_note
from pipelines.lake.progress import merge_application, merged_version
from pipelines.lake.table import Table
from pipelines.lake.tables import EVENT, NOT_ANSI, ORDER, spark_schema
from quality.rules import composing_rules, rules_hash
from schemas.dataset import Dataset
from schemas.errors import StateError

_SMALL = 100_000  # so many events or fewer are decided in one task, without a shuffle, their keys looked up one by one
READ_WHOLE = 100_000  # so many rows of silver are sooner read than the keys that would tell which of its files to read
_HELD = 4_000_000  # so many keys or fewer, each core gets all of them, and silver is not shuffled
_ROWS_A_FILE = 250_000
_DECIDES = ("_deleted", "_hash", "_broken", "_rules", "_district", *ORDER)  # what a merge reads beside the key


@dataclass(frozen=True)
class MergeInfo:
    """One merge: which bronze versions it took in, and silver's version after it."""

    dataset: str
    bronze_from: int
    bronze_to: int
    silver_version: int


def merge_pending(dataset: Dataset, lake: Lake) -> MergeInfo | None:
    """Bring silver up to the newest bronze version; None if it is there already.

    Doing it again, or after being killed half way, changes nothing more. StateError if another program wrote to bronze
    or silver since, or if silver holds a key twice.
    """
    bronze, silver = lake.bronze(dataset), lake.silver(dataset)
    done, newest = merged_version(dataset, lake), bronze.version
    start = max(done + 1, 1)  # version 0 made the table and has no rows
    if newest < start:
        return None
    bronze.check_own(done)
    silver.check_own()
    version = -1
    for first, last, files in portions(bronze, start, newest):
        version = _merge(dataset, bronze, silver, first, last, files)
    return MergeInfo(dataset.id, start, newest, version)


def latest(events: DataFrame, dataset: Dataset) -> DataFrame:
    """The version of each key that is last in the total order, as silver holds it."""
    return _ranked(_hashed(_counted(events, dataset), dataset), dataset).where("_rank = 1")


def _hashed(rows: DataFrame, dataset: Dataset) -> DataFrame:
    """Rows with a number for their key: numbers are looked up and sorted faster than the texts that a key may be of."""
    return rows.withColumn("_hashed", F.xxhash64(*dataset.key))


def _counted(events: DataFrame, dataset: Dataset) -> DataFrame:
    """Events with what silver keeps of each row beside its values: their hash, and which of the gate's rules count it."""
    events.sparkSession.conf.set(*NOT_ANSI)
    parts = []
    for field in spark_schema(dataset).fields:
        if field.name not in dataset.key:
            value = F.col(f"`{field.name}`")
            nested = isinstance(field.dataType, (T.ArrayType, T.StructType))
            parts += [value.isNull(), F.to_json(value, {"ignoreNullFields": "false"}) if nested else value]
    rules, broken = list(_counting(events, dataset)), F.lit(None)
    if rules:  # one condition for the many rows that break none
        any_broken = reduce(or_, (condition for _, condition in rules))
        named = F.array_compact(F.array(*(F.when(condition, F.lit(name)) for name, condition in rules)))
        broken = F.when(~F.col("_deleted") & any_broken, named)
    return events.withColumns(
        {
            "_hash": F.xxhash64(*parts, F.lit(0)),  # the literal: a dataset may be all key
            "_broken": broken.cast("array<string>"),
            "_rules": F.lit(rules_hash(dataset)),
        }
    )


def _counting(events: DataFrame, dataset: Dataset) -> Iterator[tuple[str, Column]]:
    """The composing rules, each with whether it counts a row.

    A contract's own SQL may fail for a row, which then counts for the rule's name followed by "?". SQL that Spark cannot parse
    is left to the gate, which says so.
    """
    risky = {rule.name for rule in dataset.rules if rule.type == "sql"}
    for name, condition in composing_rules(dataset):
        if name not in risky:
            yield name, F.coalesce(F.expr(condition), F.lit(False))
            continue
        tried = f"coalesce(try_to_binary(CASE WHEN ({condition}) THEN '1' ELSE '0' END, 'utf-8'), X'3F')"
        # In a branch, so that Spark computes nothing of it ahead and outside of the try.
        found = F.expr(f"CASE WHEN NOT _deleted THEN {tried} END")
        with suppress(AnalysisException):
            events.select(found)
            yield name, F.coalesce(found == F.lit(b"1"), F.lit(False))
            yield f"{name}?", F.coalesce(found == F.lit(b"?"), F.lit(False))


def _merge(dataset: Dataset, bronze: Table, silver: Table, first: int, last: int, files: list[AddedFile]) -> int:
    """Merge the rows of these bronze files in one commit of silver; its version.

    The columns that decide are few and kept in memory; the rows themselves go from file to file, without a shuffle between.
    """
    change = silver.change()
    good, bad = ([file for file in files if is_quarantined(file) == kind] for kind in (False, True))
    count = count_rows(good)
    events = _counted(bronze.rows(good), dataset)
    narrow = _hashed(events.select(*dataset.key, *_DECIDES), dataset)
    narrow = narrow.coalesce(1) if count <= _SMALL else narrow
    decided = _decided(_ranked(narrow, dataset), _old(narrow, count, dataset, change), dataset).persist()
    try:
        account, sums = _account(decided, bronze.rows(bad) if bad else None, count, dataset)
        winners, changed = decided.where("_won"), sums["_won"]
        if changed < count:
            taken = winners.select(*EVENT)
            events = events.dropDuplicates(list(EVENT)) if sums["_copy"] else events
            events = events.join(F.broadcast(taken) if changed <= _HELD else taken, list(EVENT), "leftsemi")
        gate = GateChange(rules_hash(dataset), _differences(winners) if sums["_broke"] else {}, sums["_unknown"])
        note = MergeNote(first, last, bronze.id, account, gate)
        added = _sorted(change.shaped(events), changed, dataset) if changed else None
        removed, gone = winners.where("_replaces").select(*FILE_AND_ROW), sums["_replaces"]
        version = change.commit(added, removed, gone, merge_application(bronze), last, dump_note(note), count)
        silver.keep(change.files)
        return version
    finally:
        decided.unpersist()


def _old(events: DataFrame, count: int, dataset: Dataset, change: Change) -> DataFrame:
    """What silver has of the events' keys, and perhaps of others whose hash is the same: only what decides is read."""
    key = list(dataset.key)
    kept = list(change.files.files.values())
    kind = dataset.field(key[0]).kind
    rows = sum(file.stats.get("numRecords", READ_WHOLE) for file in kept)
    if count and rows > READ_WHOLE and kind in ("string", "int", "long", "date"):
        few = count <= _SMALL
        first = events.select(key[0]) if few else events.agg(F.min(key[0]), F.max(key[0]))
        values = {v.isoformat() if isinstance(v, date) else v for row in first.collect() for v in row}
        kept = change.holding(key[0], sorted(values), between=not few)
    there = _hashed(change.rows(kept if count else []), dataset)
    keys = events.select("_hashed")
    found = there.join(F.broadcast(keys) if count <= _HELD else keys, "_hashed", "leftsemi")
    found = found.select("_hashed", *key, F.struct(*_DECIDES, *change.file_and_row()).alias("_old"))
    return F.broadcast(found) if count <= _SMALL else found


def _ranked(events: DataFrame, dataset: Dataset) -> DataFrame:
    """Each event with its place among those of its key, whether it is a copy of another, and the key's last one."""
    newest_first = Window.partitionBy("_hashed", *dataset.key).orderBy(*(F.desc(c) for c in ORDER))
    event = F.struct(*EVENT)
    top = F.first(F.struct(*ORDER, "_district")).over(newest_first)
    copy = F.coalesce(event == F.lag(event).over(newest_first), F.lit(False))
    rank = F.row_number().over(newest_first)
    return events.withColumns({"_rank": rank, "_copy": copy, "_top": top})


_SEEN = ("_lost", "_took", "_won", "_replaces", "_copy", "_broke", "_unknown")  # of an event, beside its fate


def _decided(ranked: DataFrame, old: DataFrame, dataset: Dataset) -> DataFrame:
    """Each event with its fate, what else is counted of it, and which row of silver it replaces."""
    joined = ranked.join(old, ["_hashed", *dataset.key], "left")
    order = [F.struct(*(F.col(f"{side}.{name}") for name in ORDER)) for side in ("_top", "_old")]
    old_, event, first = F.col("_old"), F.struct(*EVENT), F.col("_rank") == 1
    joined = joined.withColumn("_wins", old_.isNull() | (order[0] > order[1]))
    wins, won, deleted = F.col("_wins"), F.col("_wins") & first, F.col("_deleted")
    same = event == F.struct(*(old_[name] for name in EVENT))
    merged = (
        F.when(old_.isNull(), F.when(deleted, "unchanged").otherwise("inserted"))
        .when(deleted, F.when(old_["_deleted"], "unchanged").otherwise("deleted"))
        .when(old_["_deleted"], "inserted")
        .when(old_["_hash"] == F.col("_hash"), "unchanged")
        .otherwise("updated")
    )
    fate = F.when(F.col("_copy") | (first & ~wins & same), "duplicate").when(won, merged).otherwise("superseded")
    holder = F.when(wins, F.col("_top._district")).otherwise(old_["_district"])
    replaces = won & old_.isNotNull()
    seen = (
        (fate == "superseded") & (holder != F.col("_district")),
        replaces & (old_["_district"] != F.col("_district")),
        won,
        replaces,
        F.col("_copy"),
        won & (F.col("_broken").isNotNull() | old_["_broken"].isNotNull()),
        replaces & ~old_["_deleted"] & ~old_["_rules"].eqNullSafe(F.col("_rules")),
    )
    return joined.select(
        *EVENT,
        "_district",
        fate.alias("_fate"),
        *(F.coalesce(column, F.lit(False)).alias(name) for name, column in zip(_SEEN, seen, strict=True)),
        "_broken",
        old_["_broken"].alias("_was_broken"),
        *(old_[name].alias(name) for name in FILE_AND_ROW),
    )


def _account(
    decided: DataFrame, quarantined: DataFrame | None, count: int, dataset: Dataset
) -> tuple[dict[str, dict[str, int]], Counter[str]]:
    """The account of each district, and sums over all of them that say what is left to do."""
    events = decided.select("_district", "_fate", *_SEEN)
    if quarantined is not None:
        events = events.unionAll(quarantined.select("_district", F.lit("quarantined"), *[F.lit(False)] * len(_SEEN)))
    counts = (F.count_if(name).alias(name) for name in _SEEN)
    rows = events.groupBy("_district", "_fate").agg(F.count("*").alias("received"), *counts).collect()
    if sum(row["received"] for row in rows if row["_fate"] != "quarantined") != count:
        raise StateError(
            f"Silver of {dataset.id} holds a key more than once. Nothing was merged. Make it again with: suibus rebuild",
            f"{dataset.id} 的 silver 表中有主键重复。未合并任何数据。请用 suibus rebuild 重建。",
        )
    account: dict[str, dict[str, int]] = {}
    sums: Counter[str] = Counter()
    for row in sorted(rows):
        found = account.setdefault(row["_district"], dict.fromkeys(COUNTED, 0))
        found["received"] += row["received"]
        found[row["_fate"]] += row["received"]
        found["lost_to_other_district"] += row["_lost"]
        found["took_from_other_district"] += row["_took"]
        sums.update({name: row[name] for name in _SEEN})
    return account, sums


def _differences(winners: DataFrame) -> dict[str, int]:
    """By how much each of the gate's composing rules counts more rows than before."""
    brings = F.transform(
        F.coalesce("_broken", F.array()), lambda rule: F.struct(rule.alias("rule"), F.lit(1).alias("n"))
    )
    takes = F.transform(
        F.coalesce("_was_broken", F.array()), lambda rule: F.struct(rule.alias("rule"), F.lit(-1).alias("n"))
    )
    each = winners.select(F.inline(F.concat(brings, takes)))
    return {row["rule"]: row["n"] for row in each.groupBy("rule").agg(F.sum("n").alias("n")).collect() if row["n"]}


def _sorted(rows: DataFrame, count: int, dataset: Dataset) -> DataFrame:
    """A file for every `_ROWS_A_FILE`, of rows that lay together in bronze, by key, so that statistics tell its keys."""
    return rows.coalesce(-(-count // _ROWS_A_FILE)).sortWithinPartitions(*dataset.key)
