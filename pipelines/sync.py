"""One pass of the pipeline: ingest batch by batch to bronze, then merge, account and release each dataset that has changed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial

from pipelines.back.receipts import send_receipts
from pipelines.ingest.ingest import Batch, ingest_batch
from pipelines.ingest.topics import Topics, TopicState
from pipelines.lake.lake import Lake
from pipelines.lake.position import Position
from pipelines.lake.progress import accounted_version, merged_version
from pipelines.lake.side_by_side import side_by_side
from pipelines.lake.spark_jvm import cause
from pipelines.merge.account import account_pending
from pipelines.merge.merge import MergeInfo, merge_pending
from pipelines.merge.rebuild import rebuild_silver
from pipelines.release.release import ReleaseInfo, release_version
from pipelines.release.release_record import ReleaseRecord
from pipelines.release.release_table import last_records
from pipelines.sync_info import HopTime, SyncInfo
from schemas.dataset import Dataset
from schemas.errors import SuibusError, first_line
from schemas.log_context import log_context
from schemas.progress_messages import Tell, quiet
from schemas.store import ContractStore
from schemas.wire.registry import Registry

log = logging.getLogger(__name__)
SMALL_BACKLOG = 100_000  # records; a dataset with a larger backlog is processed alone


@dataclass(frozen=True)
class Inputs:
    """What a pass works with: the lake, the contracts in force, Kafka and, if configured, a schema registry."""

    lake: Lake
    store: ContractStore
    kafka: Topics
    registry: Registry | None = None


def sync(
    inputs: Inputs,
    only: Collection[str] | None = None,
    tell: Tell = quiet,
    refresh: Callable[[], object] = lambda: None,
    states: dict[str, TopicState] | None = None,
    taken: Position | None = None,
) -> SyncInfo:
    """Process all records published so far, up to the release of each dataset. With nothing new, it changes nothing.

    A pass that was killed is completed by the next. A dataset that fails is reported and does not stop the others; one that fails
    while others run in parallel, which may have used up its memory, is first retried alone.

    A pass consists of rounds. Each round ingests one batch of every dataset with waiting records: smallest backlog first, small
    datasets in parallel, large ones alone. A dataset is merged and judged as soon as all waiting records of one of its districts are
    ingested. So no dataset and no district with a long backlog delays another.

    `only`: merge and release these dataset ids, and those that have new records or whose contract changed since their last
    verdict; None: all. `refresh` puts the newest contracts in force; it is called after the end offsets are read, so that no
    record in the pass is newer than its contract. `states`: the topics, if the caller has read them and then put the newest
    contracts in force. `taken`: the last known positions, used only to order the datasets by backlog.
    """
    work = _PassWork(records=dict(last_records(inputs.lake)), taken=dict(taken or {}))
    goal: dict[str, TopicState] | None = None  # see `_Round.goal`; None before the first round
    # Ids of datasets that had a backlog above SMALL_BACKLOG in some round: they are processed alone until the pass ends.
    large: set[str] = set()
    while True:
        if goal is not None or states is None:
            states = inputs.kafka.states(
                topic for dataset in inputs.store.datasets().values() for topic in dataset.topics
            )
            refresh()
        first, goal = goal is None, goal or states
        current = _Round(inputs, states, goal, only, tell, work, first)
        datasets = [d for d in inputs.store.datasets().values() if d.id not in work.failures]
        backlogs = {dataset.id: _backlog(dataset, states, work.taken) for dataset in datasets}
        ordered = sorted(datasets, key=lambda dataset: backlogs[dataset.id])
        large |= {name for name, backlog in backlogs.items() if backlog > SMALL_BACKLOG}
        small = [dataset for dataset in ordered if dataset.id not in large]
        batches = side_by_side(inputs.lake, partial(current.process, alone=len(small) < 2), small)
        batches += [
            current.process(dataset, inputs.lake) for dataset in ordered if dataset.id in large | current.retry_alone
        ]
        if not any(_behind(batch.after, goal) for batch in batches if batch):
            return work.info()


@dataclass
class _PassWork:
    """The work that a pass has done so far. Threads of different datasets write to it, each under its dataset's id."""

    records: dict[str, ReleaseRecord]
    taken: Position
    ingested: dict[str, int] = field(default_factory=dict)
    merges: list[MergeInfo] = field(default_factory=list)
    releases: list[ReleaseInfo] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    seconds: list[HopTime] = field(default_factory=list)
    # Ids of datasets with records that were ingested in this pass and not merged since.
    unmerged: set[str] = field(default_factory=set)

    def log_hop(self, hop: str, dataset: Dataset, began: float, batch: str, event: str, *values: object) -> None:
        """Record how long a hop took since `began` (monotonic seconds), and write a line to the log."""
        seconds = time.monotonic() - began
        self.seconds.append(HopTime(hop, dataset.id, seconds))
        about = {"dataset": dataset.id, "batch": batch, "hop": hop, "seconds": round(seconds, 3)}
        log.info(event, *values, extra={"about": about})

    def info(self) -> SyncInfo:
        """The result of the pass."""
        return SyncInfo(
            self.ingested, tuple(self.merges), tuple(self.releases), self.failures, self.records, self.taken,
            tuple(self.seconds),
        )  # fmt: skip


@dataclass(frozen=True)
class _Round:
    """One round of a pass: what its datasets share. They are processed in parallel, each with the lake in its own session."""

    inputs: Inputs
    states: dict[str, TopicState]
    # The topics when the pass began: it ends when they are ingested up to these end offsets.
    goal: dict[str, TopicState]
    only: Collection[str] | None  # ids of the datasets to merge and judge even if nothing about them is new; None: all
    tell: Tell
    work: _PassWork
    is_first: bool
    # Ids of datasets that failed in this round while others ran in parallel; they are processed again, one at a time.
    retry_alone: set[str] = field(default_factory=set)

    def process(self, dataset: Dataset, lake: Lake, alone: bool = True) -> Batch | None:
        """Ingest one batch of the dataset, and merge and judge it if that is due; the batch.

        None if the dataset failed; `failures` then has the reason. With `alone` False an unexpected error is not a failure yet: the
        dataset is put in `retry_alone`, and the result is the batch, None if it was not ingested.
        """
        work, batch = self.work, None
        with log_context(dataset=dataset.id):
            try:
                began = time.monotonic()
                batch = ingest_batch(
                    dataset, lake, self.inputs.store, self.inputs.kafka, self.states, self.inputs.registry, alone
                )
                if batch.records:
                    version = f"bronze {lake.bronze(dataset).version}"
                    work.log_hop("ingest", dataset, began, version, "ingested %d records", batch.records)
                    work.unmerged.add(dataset.id)
                    self.tell(*_ingested(dataset, batch))
                work.taken.update(batch.after)
                work.ingested[dataset.id] = work.ingested.get(dataset.id, 0) + batch.records
                if self._is_due(dataset, batch):
                    self._merge_and_release(dataset, lake, alone)
                    work.unmerged.discard(dataset.id)
                return batch
            except Exception as error:  # no dataset may stop another
                en, zh = _reason(error)
                explained = isinstance(error, SuibusError)
                if not alone and not explained:
                    log.warning("failed while others ran in parallel, retrying alone: %s", cause(error))
                    self.retry_alone.add(dataset.id)
                    return batch
                log.error("stopped: %s", first_line(error) if explained else en, exc_info=not explained)
                work.failures[dataset.id] = en
                self.tell(f"{dataset.id}: stopped: {en}", f"{dataset.id}：已停止：{zh}")
                return None

    def _is_due(self, dataset: Dataset, batch: Batch) -> bool:
        """Whether to merge and judge the dataset now, after `batch` was ingested.

        On a retry: always, since the failed attempt may have been due. With unmerged records: once all waiting records of one of
        its districts are ingested, or all that the pass has to ingest. With none: only in the first round, if `only` has the
        dataset or its contract changed since the last verdict.
        """
        if dataset.id in self.retry_alone:
            return True
        if dataset.id in self.work.unmerged:
            return batch.drained or not _behind(batch.after, self.goal)
        record = self.work.records.get(dataset.id)
        changed = record is not None and record.contract_sha256 != dataset.hash
        return self.is_first and (self.only is None or dataset.id in self.only or changed)

    def _merge_and_release(self, dataset: Dataset, lake: Lake, alone: bool) -> None:
        """Merge, account and judge all records in bronze, finishing first what a killed pass left undone."""
        work = self.work
        if merged_version(dataset, lake) < accounted_version(dataset, lake):  # a rebuild was killed, or silver is gone
            rebuild_silver(dataset, lake)
        changed = self._account(dataset, lake)  # the account of a merge that a killed pass left unaccounted
        began = time.monotonic()
        if merged := merge_pending(dataset, lake):
            work.merges.append(merged)
            version = f"bronze {merged.bronze_from} to {merged.bronze_to}"
            work.log_hop("merge", dataset, began, version, "merged into silver version %d", merged.silver_version)
            changed += self._account(dataset, lake)
            self.tell(
                f"{dataset.name}: merged, {changed:,} rows changed (silver version {merged.silver_version})",
                f"{dataset.name}：已合并，{changed:,} 行有变化（silver 版本 {merged.silver_version}）",
            )
        began = time.monotonic()
        # The failed attempt may have written a record already.
        last = (last_records(lake) if dataset.id in self.retry_alone else work.records).get(dataset.id)
        if released := release_version(dataset, lake, last, changed > 0, alone):
            work.releases.append(released)
            work.records[dataset.id] = record = released.record
            version = f"silver {record.silver_version}"
            work.log_hop("release", dataset, began, version, "release %d: %s", record.release, record.status)
            self.tell(*_decision(dataset, released))

    def _account(self, dataset: Dataset, lake: Lake) -> int:
        """Send receipts for the quarantined records, then write the account; the number of silver rows that changed.

        Killed in between, the next pass sends the same receipts again, under the same ids.
        """
        done, merged = accounted_version(dataset, lake), merged_version(dataset, lake)
        if merged <= done:
            return 0
        first = max(done + 1, 1)
        batch, began = f"bronze {first} to {merged}", time.monotonic()
        if sent := send_receipts(dataset, lake, first, merged, self.inputs.kafka.access):
            self.work.log_hop("receipts", dataset, began, batch, "sent %d receipts", sent)
        began = time.monotonic()
        changed = account_pending(dataset, lake)
        self.work.log_hop("account", dataset, began, batch, "accounted, %d rows of silver changed", changed)
        return changed


def _backlog(dataset: Dataset, states: Mapping[str, TopicState], taken: Position) -> int:
    """How many offsets of the dataset's topics are not in bronze yet."""
    return sum(
        end - (taken[topic].next_offsets.get(p, first) if topic in taken else first)
        for topic in dataset.topics
        if topic in states
        for p, (first, end) in states[topic].partitions.items()
    )


def _behind(taken: Position, goal: Mapping[str, TopicState]) -> bool:
    """Whether the position is before the end of some topic in `goal`."""
    return any(
        at < goal[topic].partitions.get(p, (0, 0))[1]
        for topic, t in taken.items()
        if topic in goal
        for p, at in t.next_offsets.items()
    )


def _ingested(dataset: Dataset, batch: Batch) -> tuple[str, str]:
    en = f"{dataset.name}: ingested {batch.records:,} records into bronze"
    zh = f"{dataset.name}：已将 {batch.records:,} 条记录入库"
    if batch.waiting:
        en, zh = (
            f"{en}; {batch.waiting:,} offsets are left for the next batch",
            f"{zh}；还有 {batch.waiting:,} 个偏移量留待下一批处理",
        )
    return en, zh


def _reason(error: Exception) -> tuple[str, str]:
    """Why a dataset stopped and what to do, in English and Chinese."""
    if isinstance(error, SuibusError):
        return error.en, error.zh
    reason = cause(error)
    if "No space left on device" in reason:
        return (
            f"The lake's disk is full ({reason}). Nothing was lost. Free some space; the next pass continues from here.",
            f"数据湖的磁盘已满（{reason}）。数据没有丢失。请释放空间；下一轮将从此处继续。",
        )
    return (
        f"{reason}. Nothing was lost; the next pass retries this step. If it stops here again, see the log for the full error.",
        f"{reason}。数据没有丢失，下一轮将重试这一步。若再次停在此处，请查看日志中的完整错误信息。",
    )


def _decision(dataset: Dataset, released: ReleaseInfo) -> tuple[str, str]:
    verdict = released.verdict
    failures = "; ".join(f"{r.rule} ({r.severity}, observed {r.observed})" for r in verdict.failures)
    number, status = released.record.release, released.record.status
    en = f"{dataset.name}: release {number} {status}: {verdict.rows:,} rows, {len(verdict.results)} rules"
    word = {"released": "通过，已发布", "held": "未通过，暂缓发布"}[status]
    zh = f"{dataset.name}：第 {number} 次评判{word}：{verdict.rows:,} 行，{len(verdict.results)} 条规则"
    if failures:
        en, zh = f"{en}; failed: {failures}", f"{zh}；未通过：{failures}"
    return en, zh
