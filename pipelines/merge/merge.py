"""From bronze to silver: one row a key, the latest sequence, ties by offset; deletes stay as tombstones.

The order of two versions of a key is total and made of the events themselves (`tables.ORDER`), so any order and
any duplication of the same events gives the same silver. One commit of silver carries the rows, which bronze versions it
holds, and the account of every event: none of the three can be there without the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from functools import reduce
from operator import or_
from typing import Any

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pipelines.lake.delta import PLACE, Change, Delta
from pipelines.lake.lake import COUNTED, EVENT, NOT_ANSI, ORDER, Lake, count_rows, spark_schema
from quality.rules import composing_rules, rules_hash
from schemas.dataset import Dataset
from schemas.errors import StateError

EVENTS = 2_000_000  # in one commit, more only where one batch is larger: what is in hand at a time
_SMALL = 100_000  # so many events or fewer are decided in one task, without a shuffle, their keys looked up one by one
_READ_WHOLE = 100_000  # so many rows of silver are sooner read than the keys that would tell which of its files to read
_HELD = 4_000_000  # so many keys or fewer, each core gets all of them, and silver is not shuffled
_ROWS_A_FILE = 250_000
_DECIDES = ("_deleted", "_hash", "_broken", "_rules", "_district", *ORDER)  # what a merge reads beside the key


def merged_version(dataset: Dataset, lake: Lake) -> int:
    """The newest version of bronze that silver holds, -1 if none; of this bronze, not of one that was set aside."""
    silver = lake.silver(dataset)
    done = lake.transaction(silver, merge_application(dataset, lake))
    return (
        done
        if done >= 0 or any(c.startswith("merge:") for c in lake.applications(silver))
        else lake.transaction(silver, "merge")
    )


def merge_application(dataset: Dataset, lake: Lake) -> str:
    """The Delta transaction application id of the merge, in silver."""
    return f"merge:{lake.table_id(lake.bronze(dataset))}"


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
    done, newest = merged_version(dataset, lake), lake.version(bronze)
    start = max(done + 1, 1)  # version 0 made the table and has no rows
    if newest < start:
        return None
    lake.check_own(bronze, done)
    lake.check_own(silver)
    version = -1
    for first, last, files in _portions(lake, bronze, start, newest):
        version = _merge(dataset, lake, first, last, files)
    return MergeInfo(dataset.id, start, newest, version)


def bronze_files(lake: Lake, bronze: str, first: int, last: int, quarantined: bool) -> list[dict[str, Any]]:
    """The files that the bronze versions from `first` to `last` appended, of the quarantined records or of the others."""
    portions = _portions(lake, bronze, first, last)
    return [file for _, _, files in portions for file in files if _quarantined(file) == quarantined]


def bronze_rows(lake: Lake, bronze: str, files: Iterable[dict[str, Any]]) -> DataFrame:
    """The rows of such files."""
    table = Delta(lake.spark, bronze)
    return table.read(map(table.file, files))


def _quarantined(file: dict[str, Any]) -> bool:
    return bool(file["partitionValues"]["_quarantined"] == "true")


def latest(events: DataFrame, dataset: Dataset) -> DataFrame:
    """Of each key the version that is last in the total order, as silver holds it."""
    return _ranked(_hashed(_marked(events, dataset), dataset), dataset).where("_rank = 1")


def _hashed(rows: DataFrame, dataset: Dataset) -> DataFrame:
    """Rows with a number for their key: numbers are looked up and sorted faster than the texts that a key may be of."""
    return rows.withColumn("_hashed", F.xxhash64(*dataset.key))


def _marked(events: DataFrame, dataset: Dataset) -> DataFrame:
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

    A contract's own SQL may fail for a row, of which the mark is the rule's name and "?"; what Spark cannot even read is left
    to the gate, which says so.
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


def _portions(lake: Lake, bronze: str, first: int, last: int) -> Iterator[tuple[int, int, list[dict[str, Any]]]]:
    """The files that the bronze versions added, so many versions at a time that they hold EVENTS rows or a little more."""
    files: list[dict[str, Any]] = []
    begin = first
    for version in range(first, last + 1):
        files += lake.commit(bronze, version).added
        if version == last or count_rows(files) >= EVENTS:
            yield begin, version, files
            begin, files = version + 1, []


def _merge(dataset: Dataset, lake: Lake, first: int, last: int, files: list[dict[str, Any]]) -> int:
    """Merge the rows of these bronze files in one commit of silver; its version.

    What decides is narrow and kept in hand; the rows themselves go from file to file, without a shuffle between.
    """
    bronze, path = lake.bronze(dataset), lake.silver(dataset)
    silver = Delta(lake.spark, path).change(lake.files.get(path))
    good, bad = ([file for file in files if _quarantined(file) == kind] for kind in (False, True))
    count = count_rows(good)
    events = _marked(bronze_rows(lake, bronze, good), dataset)
    narrow = _hashed(events.select(*dataset.key, *_DECIDES), dataset)
    narrow = narrow.coalesce(1) if count <= _SMALL else narrow
    decided = _decided(_ranked(narrow, dataset), _old(narrow, count, dataset, silver), dataset).persist()
    try:
        account, sums = _account(decided, bronze_rows(lake, bronze, bad) if bad else None, count, dataset)
        winners, changed = decided.where("_won"), sums["_won"]
        if changed < count:
            taken = winners.select(*EVENT)
            events = events.dropDuplicates(list(EVENT)) if sums["_copy"] else events
            events = events.join(F.broadcast(taken) if changed <= _HELD else taken, list(EVENT), "leftsemi")
        metadata = {
            "bronze": [first, last, lake.table_id(bronze)],
            "account": account,
            "gate": {
                "rules": rules_hash(dataset),
                "counts": _differences(winners) if sums["_marks"] else {},
                "unknown": sums["_unknown"],  # rows it replaced that were held against other rules
            },
        }
        added = _sorted(silver.shaped(events), changed, dataset) if changed else None
        removed = winners.where("_replaces").select(*PLACE)
        application = merge_application(dataset, lake)
        version = silver.commit(added, removed, sums["_replaces"], application, last, metadata, count)
        lake.files[path] = silver.files
        return version
    finally:
        decided.unpersist()


def _old(events: DataFrame, count: int, dataset: Dataset, silver: Change) -> DataFrame:
    """What silver has of the events' keys, and perhaps of others whose hash is the same: only what decides is read."""
    key = list(dataset.key)
    kept = list(silver.files.files.values())
    kind = dataset.field(key[0]).kind
    rows = sum(file.stats.get("numRecords", _READ_WHOLE) for file in kept)
    if count and rows > _READ_WHOLE and kind in ("string", "int", "long", "date"):
        few = count <= _SMALL
        first = events.select(key[0]) if few else events.agg(F.min(key[0]), F.max(key[0]))
        values = {v.isoformat() if isinstance(v, date) else v for row in first.collect() for v in row}
        kept = silver.holding(key[0], sorted(values), between=not few)
    there = _hashed(silver.rows(kept if count else []), dataset)
    keys = events.select("_hashed")
    found = there.join(F.broadcast(keys) if count <= _HELD else keys, "_hashed", "leftsemi")
    found = found.select("_hashed", *key, F.struct(*_DECIDES, *silver.place()).alias("_old"))
    return F.broadcast(found) if count <= _SMALL else found


def _ranked(events: DataFrame, dataset: Dataset) -> DataFrame:
    """Each event with its place among those of its key, whether it is a copy of another, and the key's last one."""
    newest_first = Window.partitionBy("_hashed", *dataset.key).orderBy(*(F.desc(c) for c in ORDER))
    event = F.struct(*EVENT)
    top = F.first(F.struct(*ORDER, "_district")).over(newest_first)
    copy = F.coalesce(event == F.lag(event).over(newest_first), F.lit(False))
    rank = F.row_number().over(newest_first)
    return events.withColumns({"_rank": rank, "_copy": copy, "_top": top})


_SEEN = ("_lost", "_took", "_won", "_replaces", "_copy", "_marks", "_unknown")  # of an event, beside its fate


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
        *(old_[name].alias(name) for name in PLACE),
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
