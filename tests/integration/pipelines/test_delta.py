"""What Suibus expects of Delta's internal classes: one commit removes rows by position and adds others."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from delta.tables import DeltaTable
from pyspark.sql import functions as F

from pipelines.lake.commit_notes import ReleaseNote, dump_note
from pipelines.lake.delta import Delta
from pipelines.lake.lake import Lake
from pipelines.lake.row_replacement import Change, Files
from pipelines.lake.side_by_side import side_by_side
from pipelines.lake.table import Table
from schemas.errors import StateError


@pytest.fixture
def table(spark: Any, tmp_path: Path) -> str:
    """A table with ids 0 to 99 in two files, at a path that must be URL-encoded."""
    path = str(tmp_path / "名 称%20 a")
    made = DeltaTable.create(spark).location(path).addColumn("id", "long").addColumn("word", "string")
    made.property("delta.enableDeletionVectors", "true").execute()
    for first in (0, 50):
        rows = spark.range(first, first + 50, 1, 1).withColumn("word", F.lit("old"))
        rows.write.format("delta").mode("append").save(path)
    return path


def replace(
    spark: Any, path: str, ids: list[int], version: int, word: str = "new", known: Files | None = None
) -> Change:
    """Replace the rows of these ids."""
    change = Change(Delta(spark, path), known)
    there = change.rows(change.files.files.values()).where(F.col("id").isin(ids))
    added = there.select("id", F.lit(word).alias("word"))
    added = change.with_table_columns(added).coalesce(1)
    note = dump_note(ReleaseNote(f"{version} 穗"))
    change.commit(added, there.select(*change.file_and_row()), len(ids), "test", version, note, len(ids))
    return change


def test_rows_are_replaced_by_row_number_in_one_commit_with_its_note(spark: Any, table: str) -> None:
    there = Table(spark, table)
    before = there.version
    replace(spark, table, [3, 4, 60], 7)
    assert there.version == before + 1
    assert there.transaction("test") == 7
    commit = there.commit(before + 1)
    assert (commit.note, commit.changes_rows, commit.operation) == (ReleaseNote("7 穗"), True, "MERGE")
    replace(spark, table, [4, 5], 8, "newer")  # the file already has a deletion vector
    words = {row["id"]: row["word"] for row in there.read().collect()}
    assert words == dict.fromkeys(range(100), "old") | {3: "new", 60: "new", 4: "newer", 5: "newer"}
    assert there.read(before).where("word = 'old'").count() == 100  # an older version stays as it was


def test_a_few_rows_are_appended_as_by_spark_but_without_a_job(spark: Any, tmp_path: Path) -> None:
    kinds = "word string, number long, at timestamp, many array<string>, long string"
    path, tracker = str(tmp_path / "名 称%20 a"), spark.sparkContext.statusTracker()
    at = datetime(2026, 2, 28, 23, 59, 59, 999999, UTC)
    rows: list[tuple[Any, ...]] = [("穗", 2**62, at, ["a", None], "x" * 99), ("a", -1, None, [], "b"), (None,) * 5]
    empty = spark.createDataFrame([], kinds)
    empty.write.format("delta").save(path)
    named = [dict(zip(empty.columns, row, strict=True)) for row in rows]
    spark.sparkContext.setJobGroup("few", "")
    table = Table(spark, path, empty.schema)
    assert table.append(named, "test", 7, ReleaseNote("穗")) == 1
    assert table.append(named, "test", 7, ReleaseNote("穗")) is None, "committed before"
    assert not tracker.getJobIdsForGroup("few")
    spark.createDataFrame(rows, kinds).coalesce(1).write.format("delta").mode("append").save(path)
    assert tracker.getJobIdsForGroup("few")
    spark.sparkContext.setLocalProperty("spark.jobGroup.id", None)
    ours, sparks = (table.read(version).collect() for version in (1, 2))
    assert sorted(map(str, ours * 2)) == sorted(map(str, sparks))
    commit, by_spark = table.commit(1), table.commit(2)
    assert (table.transaction("test"), commit.note, commit.changes_rows) == (7, ReleaseNote("穗"), True)
    said, says = (json.loads(c.added[0].action["stats"]) for c in (commit, by_spark))
    assert said["numRecords"] == says["numRecords"] == 3
    for bound in ("minValues", "maxValues"):
        assert said[bound] == {name: says[bound][name] for name in ("word", "number")}, (
            "statistics by which reading skips files"
        )


def test_a_file_leaves_the_table_when_all_its_rows_are_replaced(spark: Any, table: str) -> None:
    replace(spark, table, list(range(50)), 1)
    files = Change(Delta(spark, table)).files.files.values()
    assert sorted(f.action.numLogicalRecords().get() for f in files) == [50, 50]
    assert all(f.vector is None for f in files)


def test_files_are_skipped_by_their_statistics(spark: Any, table: str) -> None:
    change = Change(Delta(spark, table))
    assert len(change.files.files) == 2
    assert len(change.files_that_may_hold("id", [10])) == 1
    assert len(change.files_that_may_hold("id", [10, 60])) == 2
    assert len(change.files_that_may_hold("id", [-5, 200])) == 0
    assert len(change.files_that_may_hold("id", [-5, 200], between=True)) == 2
    assert len(change.files_that_may_hold("id", [70, 200], between=True)) == 1
    assert len(change.files_that_may_hold("word", ["none"])) == 0
    replace(spark, table, [0], 1)  # with a deletion vector the statistics are still bounds
    assert len(Change(Delta(spark, table)).files_that_may_hold("id", [0])) == 2


def test_a_commit_in_between_stops_the_change(spark: Any, table: str) -> None:
    change = Change(Delta(spark, table))
    there = change.rows(change.files.files.values()).where("id = 1")
    spark.range(200, 201, 1, 1).withColumn("word", F.lit("other")).write.format("delta").mode("append").save(table)
    with pytest.raises(StateError, match="Another Suibus writes"):
        change.commit(None, there.select(*change.file_and_row()), 1, "test", 1, "", 1)
    assert Table(spark, table).read().count() == 101


def test_a_commit_that_fails_for_another_reason_is_not_taken_for_a_conflict(spark: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "concurrent")  # the message names the table
    spark.range(3).write.format("delta").save(path)
    change = Change(Delta(spark, path))
    rows = change.rows(change.files.files.values()).where("id = 1").select(*change.file_and_row())
    shutil.rmtree(f"{path}/_delta_log")
    Path(path, "_delta_log").write_text("a file where the log should be")
    with pytest.raises(Exception, match=r"(?s).*") as failure:
        change.commit(None, rows, 1, "test", 1, "", 1)
    assert "Another Suibus" not in str(failure.value)


def test_the_files_after_a_change_are_those_of_its_version(spark: Any, table: str) -> None:
    files = replace(spark, table, [3, 4, 60], 7).files
    for version, ids in enumerate(([4, 5], list(range(50, 100)), [70]), 8):
        change = Change(Delta(spark, table), files)
        assert change.files is files, "asks Delta again although nobody else wrote"
        asked = Change(Delta(spark, table)).files
        assert [(f.address, f.stats, f.vector) for f in sorted(files.files.values(), key=lambda f: f.address)] == [
            (f.address, f.stats, f.vector) for f in sorted(asked.files.values(), key=lambda f: f.address)
        ]
        files = replace(spark, table, ids, version, "newer", files).files
    spark.range(200, 201, 1, 1).withColumn("word", F.lit("other")).write.format("delta").mode("append").save(table)
    assert len(Change(Delta(spark, table), files).files.files) == len(files.files) + 1


def test_a_row_that_cannot_be_found_stops_the_change(spark: Any, table: str) -> None:
    change = Change(Delta(spark, table))
    elsewhere = (
        change.rows(change.files.files.values())
        .where("id = 1")
        .select(*change.file_and_row())
        .withColumn("_file", F.col("_file") + 1)
    )
    with pytest.raises(StateError, match=r"0 rows of .* 1 were expected"):
        change.commit(None, elsewhere, 1, "test", 1, "", 1)


def test_calls_that_run_in_parallel_have_their_own_session_and_properties(spark: Any, tmp_path: Path) -> None:
    context, meet = spark.sparkContext, Barrier(2)
    context.setLocalProperty("suibus.outer", "inherited")

    def run(name: str, lake: Lake) -> tuple[str | None, Any, Any]:
        lake.spark.conf.set("suibus.test", name)
        context.setLocalProperty("suibus.test", name)
        meet.wait(60)
        outer = context.getLocalProperty("suibus.outer")
        return lake.spark.conf.get("suibus.test"), context.getLocalProperty("suibus.test"), outer

    try:
        found = side_by_side(Lake(spark, str(tmp_path)), run, ["a", "b"])
        assert found == [("a", "a", "inherited"), ("b", "b", "inherited")]
    finally:
        context.setLocalProperty("suibus.outer", None)


def test_after_a_ctrl_c_datasets_that_run_in_parallel_finish_their_jobs(spark: Any, tmp_path: Path) -> None:
    ended, tracker = list[str](), spark.sparkContext.statusTracker()
    before = signal.getsignal(signal.SIGINT)
    assert before.__module__ == "pyspark.core.context"

    def run(name: str, lake: Lake) -> None:
        if name == "a":
            while not tracker.getActiveJobsIds():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)
        else:
            lake.spark.range(500_000_000).agg(F.sum(F.hash("id"))).collect()
        ended.append(name)

    with pytest.raises(KeyboardInterrupt):
        side_by_side(Lake(spark, str(tmp_path)), run, ["a", "b"])
    assert sorted(ended) == ["a", "b"]
    assert signal.getsignal(signal.SIGINT) is before
