"""What each hop costs, in counts that are the same on every machine: Spark jobs, commits, rows read. A higher count is a regression."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.merge.account import account_pending
from pipelines.merge.merge import merge_pending
from pipelines.release.release import release_version
from pipelines.release.release_table import last_records
from tests.integration.conftest import Road


@pytest.fixture(autouse=True)
def _tables_count_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.merge.winner.READ_WHOLE", 0)


def cost(spark: Any, call: Callable[[], object]) -> tuple[int, int]:
    """The Spark jobs of a call, and the rows that they read from files."""
    context, tracker = spark.sparkContext._jsc.sc(), spark.sparkContext.statusTracker()
    store = context.statusStore()

    def jobs() -> dict[int, Any]:
        context.listenerBus().waitUntilEmpty(60_000)
        listed = store.jobsList(None)
        return {job.jobId(): job for job in (listed.apply(i) for i in range(listed.size()))}

    before = jobs()
    call()
    new = [job for number, job in jobs().items() if number not in before]
    stages = {job.stageIds().apply(i) for job in new for i in range(job.stageIds().size())}
    kept = filter(tracker.getStageInfo, stages)  # Spark forgets skipped stages first; they read nothing
    return len(new), sum(store.lastStageAttempt(stage).inputRecords() for stage in kept)


def filled(road: Road, files: range = range(3), rows: int = 40) -> None:
    """Make one file of silver for each number, with its own keys."""
    for file in files:
        road.publish(*({"id": f"k{file}{i:04}", "seq": 1, "amount": i} for i in range(rows)))
        road.sync()


def test_what_a_batch_costs_from_ingest_to_release(road: Road, spark: Any) -> None:
    filled(road)
    road.publish({"id": "k10003", "seq": 2, "amount": 7}, {"id": "k10004", "seq": 2, "amount": 8})
    dataset, lake = road.dataset, road.lake
    last = last_records(lake)[dataset.id]
    found = {
        "ingest": cost(spark, road.ingest),
        "merge": cost(spark, lambda: merge_pending(dataset, lake)),
        "account": cost(spark, lambda: account_pending(dataset, lake)),
        "release": cost(spark, lambda: release_version(dataset, lake, last, changed=True)),
    }
    assert {hop: jobs for hop, (jobs, _) in found.items()} == {"ingest": 1, "merge": 8, "account": 0, "release": 0}
    assert 40 < found["merge"][1] < 80, "reads the events and the one file of silver that holds their keys"
    assert found["release"][1] == 0, "reads the candidate although every rule composes"


def test_a_merge_costs_no_more_jobs_when_silver_has_more_files(road: Road, spark: Any) -> None:
    counts = []
    for files in (range(2), range(2, 5)):
        filled(road, files)
        road.publish({"id": f"k{files.stop - 1}0001", "seq": 8})  # so that the file already has a deletion vector
        road.sync()
        road.publish({"id": f"k{files.stop - 1}0000", "seq": 9})
        assert road.ingest() == 1
        counts.append(cost(spark, lambda: merge_pending(road.dataset, road.lake)))
        account_pending(road.dataset, road.lake)
    assert counts[0][0] == counts[1][0], "jobs at two and at five files"
    assert max(rows for _, rows in counts) < 80, counts


def test_a_pass_starts_no_other_process(road: Road, spark: Any) -> None:
    filled(road)
    road.publish({"id": "k10003", "seq": 2, "amount": 7})
    before = faults_of_children(spark)
    road.sync()
    assert faults_of_children(spark) - before < 300  # one chmod has 100; Spark may remove a session's folder meanwhile


def test_a_merge_keeps_no_more_of_sparks_memory_than_its_rows_take(road: Road, spark: Any) -> None:
    memory = spark._jvm.org.apache.spark.SparkEnv.get().memoryManager()
    filled(road)
    road.publish({"id": "k10003", "seq": 2, "amount": 7})
    road.ingest()
    before = memory.storageMemoryUsed()
    merge_pending(road.dataset, road.lake)
    assert memory.storageMemoryUsed() - before < 16 << 20  # for three broadcasts; Spark's default is 64 MB each


def faults_of_children(spark: Any) -> int:
    """Minor page faults of all processes that Spark's JVM has started and that have ended: every process has some."""
    text = Path(f"/proc/{spark.sparkContext._gateway.proc.pid}/stat").read_text()
    return int(text.rsplit(")", 1)[1].split()[8])
