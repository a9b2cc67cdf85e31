"""From bronze to silver: one row per key, the one with the highest sequence (ties: the highest offset); deletes stay as tombstones.

One commit of silver holds the rows, the range of bronze versions merged, and the account of every event, so the three always agree.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.fates import COUNTED
from pipelines.lake.bronze import is_quarantined, portions
from pipelines.lake.commit_notes import GateChange, MergeNote, dump_note
from pipelines.lake.lake import Lake
from pipelines.lake.progress import merge_application, merged_version
from pipelines.lake.row_replacement import FILE_AND_ROW
from pipelines.lake.table import Table
from pipelines.lake.table_log import AddedFile, count_rows
from pipelines.lake.table_schemas import EVENT
from pipelines.merge.gate_counts import count_changes
from pipelines.merge.winner import BROADCAST_KEYS, FLAGS, decide, with_hash_and_rules
from quality.gate_rules import rules_hash
from schemas.dataset import Dataset
from schemas.errors import StateError

_FILE_ROWS = 250_000  # rows in each file that a merge writes


@dataclass(frozen=True)
class MergeInfo:
    """One merge: the first and last bronze version merged, and silver's version after it."""

    dataset: str
    bronze_from: int
    bronze_to: int
    silver_version: int


def merge_pending(dataset: Dataset, lake: Lake) -> MergeInfo | None:
    """Merge every bronze version that is not in silver yet; None if there is none.

    Killed half way, it continues where it stopped; doing it again changes nothing. StateError if another program has written to
    bronze or silver since the last merge, or if silver holds a key twice.
    """
    bronze, silver = lake.bronze(dataset), lake.silver(dataset)
    done, newest = merged_version(dataset, lake), bronze.version
    start = max(done + 1, 1)  # version 0 created the table and has no rows
    if newest < start:
        return None
    bronze.check_own(done)
    version = -1
    for first, last, files in portions(bronze, start, newest):
        version = _merge(dataset, bronze, silver, first, last, files)
    return MergeInfo(dataset.id, start, newest, version)


def _merge(dataset: Dataset, bronze: Table, silver: Table, first: int, last: int, files: list[AddedFile]) -> int:
    """Merge the records of these bronze files in one commit of silver; its version.

    The few columns that decide which version wins are kept in memory; the full rows go from file to file without a shuffle.
    """
    change = silver.change()
    silver.check_own()  # after the transaction began: what another program commits from here on makes the commit fail
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
        removed, removed_rows = winners.where("_replaces").select(*FILE_AND_ROW), sums["_replaces"]
        version = change.commit(added, removed, removed_rows, merge_application(bronze), last, dump_note(note), count)
        silver.keep(change.files)
        return version
    finally:
        decided.unpersist()


def _account(
    decided: DataFrame, quarantined: DataFrame | None, count: int, dataset: Dataset
) -> tuple[dict[str, dict[str, int]], Counter[str]]:
    """The account of each district, and by flag (`FLAGS`) the number of events that have it, over all districts."""
    events = decided.select("_district", "_fate", *FLAGS)
    if quarantined is not None:
        events = events.unionAll(quarantined.select("_district", F.lit("quarantined"), *[F.lit(False)] * len(FLAGS)))
    counts = (F.count_if(name).alias(name) for name in FLAGS)
    rows = events.groupBy("_district", "_fate").agg(F.count("*").alias("received"), *counts).collect()
    if sum(row["received"] for row in rows if row["_fate"] != "quarantined") != count:
        raise StateError(
            f"Silver of {dataset.id} holds a key more than once. Nothing was merged. Rebuild it with: suibus rebuild",
            f"{dataset.id} 的 silver 表中有重复的主键。未合并任何数据。请执行 suibus rebuild 重建该表。",
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
    """The rows in files of about `_FILE_ROWS`, without a shuffle, sorted by key within a file so that statistics can exclude files."""
    return rows.coalesce(-(-count // _FILE_ROWS)).sortWithinPartitions(*dataset.key)
