"""From bronze to silver: one row a key, the latest sequence, ties by offset; deletes stay as tombstones.

One commit of silver carries the rows, which bronze versions it holds, and the account of every event: none of the three can be
there without the others.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.fates import COUNTED
from pipelines.lake.bronze import is_quarantined, portions
from pipelines.lake.commit_notes import GateChange, MergeNote, dump_note
from pipelines.lake.delta import FILE_AND_ROW
from pipelines.lake.lake import Lake
from pipelines.lake.progress import merge_application, merged_version
from pipelines.lake.table import Table
from pipelines.lake.table_log import AddedFile, count_rows
from pipelines.lake.table_schemas import EVENT
from pipelines.merge.gate_counts import count_changes
from pipelines.merge.winner import BROADCAST_KEYS, FLAGS, decide, with_hash_and_rules
from quality.rules import rules_hash
from schemas.dataset import Dataset
from schemas.errors import StateError

_ROWS_A_FILE = 250_000


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


def _merge(dataset: Dataset, bronze: Table, silver: Table, first: int, last: int, files: list[AddedFile]) -> int:
    """Merge the rows of these bronze files in one commit of silver; its version.

    The columns that decide are few and kept in memory; the rows themselves go from file to file, without a shuffle between.
    """
    change = silver.change()
    good, bad = ([file for file in files if is_quarantined(file) == kind] for kind in (False, True))
    count = count_rows(good)
    events = with_hash_and_rules(bronze.rows(good), dataset)
    decided = decide(events, count, dataset, change).persist()
    try:
        account, sums = _account(decided, bronze.rows(bad) if bad else None, count, dataset)
        winners, changed = decided.where("_won"), sums["_won"]
        if changed < count:
            taken = winners.select(*EVENT)
            events = events.dropDuplicates(list(EVENT)) if sums["_copy"] else events
            events = events.join(F.broadcast(taken) if changed <= BROADCAST_KEYS else taken, list(EVENT), "leftsemi")
        gate = GateChange(rules_hash(dataset), count_changes(winners) if sums["_broke"] else {}, sums["_unknown"])
        note = MergeNote(first, last, bronze.id, account, gate)
        added = _sorted(change.with_table_columns(events), changed, dataset) if changed else None
        removed, gone = winners.where("_replaces").select(*FILE_AND_ROW), sums["_replaces"]
        version = change.commit(added, removed, gone, merge_application(bronze), last, dump_note(note), count)
        silver.keep(change.files)
        return version
    finally:
        decided.unpersist()


def _account(
    decided: DataFrame, quarantined: DataFrame | None, count: int, dataset: Dataset
) -> tuple[dict[str, dict[str, int]], Counter[str]]:
    """The account of each district, and the sum over all districts of what was seen of the events."""
    events = decided.select("_district", "_fate", *FLAGS)
    if quarantined is not None:
        events = events.unionAll(quarantined.select("_district", F.lit("quarantined"), *[F.lit(False)] * len(FLAGS)))
    counts = (F.count_if(name).alias(name) for name in FLAGS)
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
        sums.update({name: row[name] for name in FLAGS})
    return account, sums


def _sorted(rows: DataFrame, count: int, dataset: Dataset) -> DataFrame:
    """A file for every `_ROWS_A_FILE`, of rows that lay together in bronze, by key, so that statistics tell its keys."""
    return rows.coalesce(-(-count // _ROWS_A_FILE)).sortWithinPartitions(*dataset.key)
