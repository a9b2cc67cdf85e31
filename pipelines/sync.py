"""One pass over the whole road: batch by batch to bronze, then merge, account and release of what has something new."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial

from pipelines.back.receipts import send_receipts
from pipelines.ingest.ingest import Batch, ingest_batch
from pipelines.ingest.offsets import Position, Topics, TopicState
from pipelines.lake.delta import cause
from pipelines.lake.lake import Lake
from pipelines.merge.account import account_pending, accounted_version
from pipelines.merge.merge import merge_pending, merged_version
from pipelines.merge.rebuild import rebuild_silver
from pipelines.release.release import ReleaseInfo, last_records, release_version
from pipelines.sync_info import SyncInfo
from schemas.dataset import Dataset
from schemas.errors import SuibusError, first_line
from schemas.store import ContractStore
from schemas.tell import Tell, log_context, quiet
from schemas.wire.registry import Registry

log = logging.getLogger(__name__)
FEW = 100_000  # records: a dataset for which a pass finds more on its topics has the machine to itself


def sync(
    lake: Lake,
    store: ContractStore,
    kafka: Topics,
    registry: Registry | None = None,
    only: Collection[str] | None = None,
    tell: Tell = quiet,
    refresh: Callable[[], object] = lambda: None,
    states: dict[str, TopicState] | None = None,
    taken: Position | None = None,
) -> SyncInfo:
    """Bring everything up to the end of what is published. Run again with nothing new, it changes nothing.

    It goes round by round: each takes a batch of every dataset that has records waiting, the smallest backlog first, small ones
    side by side, and releases a dataset as soon as some district's records are all in. So neither a dataset nor a district with
    a long backlog holds up another. `only` limits merge and release to these dataset ids, those with new records, and those
    whose contract changed since their last verdict; None takes all. A dataset that fails is reported and stops no other; one
    that fails beside others, which may have taken its memory, is first tried again alone.

    `refresh` puts the newest contracts in force. It is called once the ends of the topics are known, so that no record
    can be newer than the contracts it is read with. `states`: the topics as they were a moment before, contracts put in force
    since; `taken`: how far they were read before, as far as that is known, by which datasets are ordered.
    """
    info = SyncInfo(records=last_records(lake), taken=dict(taken or {}))
    goal: dict[str, TopicState] | None = None
    large: set[str] = set()  # each of them alone, to the end of the pass
    unmerged: set[str] = set()
    while True:
        if goal is not None or states is None:
            states = kafka.states(topic for dataset in store.datasets().values() for topic in dataset.topics)
            refresh()
        first, goal = goal is None, goal or states
        one = _Round(store, kafka, states, goal, registry, only, tell, info, first, unmerged)
        waiting = [(_backlog(d, states, info.taken), d) for d in store.datasets().values() if d.id not in info.failures]
        ordered = [dataset for _, dataset in sorted(waiting, key=lambda found: found[0])]
        large |= {dataset.id for backlog, dataset in waiting if backlog > FEW}
        small = [dataset for dataset in ordered if dataset.id not in large]
        batches = lake.side_by_side(partial(one.take, alone=len(small) < 2), small)
        batches += [one.take(dataset, lake) for dataset in ordered if dataset.id in large | one.again]
        if not any(_behind(batch.after, goal) for batch in batches if batch):
            return info


@dataclass(frozen=True)
class _Round:
    """A batch of each dataset; what they share. Datasets go through it side by side, each with a lake of its own session."""

    store: ContractStore
    kafka: Topics
    states: dict[str, TopicState]
    goal: dict[str, TopicState]
    registry: Registry | None
    only: Collection[str] | None
    tell: Tell
    info: SyncInfo
    first: bool
    unmerged: set[str]  # taken in this pass and not brought up since
    again: set[str] = field(default_factory=set)  # failed beside others

    def take(self, dataset: Dataset, lake: Lake, alone: bool = True) -> Batch | None:
        """A batch of the dataset, to its release if that is due; None where it failed, of which `info` has the reason.

        Where it failed and was not `alone`, it is to be tried `again`.
        """
        info, batch = self.info, None
        with log_context(dataset=dataset.id):
            try:
                began = time.monotonic()
                batch = ingest_batch(dataset, lake, self.store, self.kafka, self.states, self.registry, alone)
                if batch.records:
                    version = f"bronze {lake.version(lake.bronze(dataset))}"
                    info.done("ingest", dataset, began, version, "ingested %d records", batch.records)
                    self.tell(*_taken(dataset, batch))
                info.taken.update(batch.after)
                info.ingested[dataset.id] = info.ingested.get(dataset.id, 0) + batch.records
                record = info.records.get(dataset.id)
                changed = record is not None and record["contract_sha256"] != dataset.hash
                asked = self.first and (self.only is None or dataset.id in self.only or changed)
                if batch.records:
                    self.unmerged.add(dataset.id)
                due = batch.drained or not _behind(batch.after, self.goal)
                if (due if dataset.id in self.unmerged else asked) or dataset.id in self.again:
                    self._bring_up(dataset, lake, alone)
                    self.unmerged.discard(dataset.id)
                return batch
            except Exception as error:  # one dataset must not stop another
                en, zh = _reason(error)
                told = isinstance(error, SuibusError)
                if not alone and not told:
                    log.warning("failed beside others, tried again alone: %s", cause(error))
                    self.again.add(dataset.id)
                    return batch
                log.error("stopped: %s", first_line(error) if told else en, exc_info=not told)
                info.failures[dataset.id] = en
                self.tell(f"{dataset.id}: stopped: {en}", f"{dataset.id}：已停止：{zh}")
                return None

    def _account(self, dataset: Dataset, lake: Lake) -> int:
        """Receipts for what was refused, then the account: a crash between the two sends the same receipts again."""
        done, merged = accounted_version(dataset, lake), merged_version(dataset, lake)
        if merged <= done:
            return 0
        first = max(done + 1, 1)
        batch, began = f"bronze {first} to {merged}", time.monotonic()
        if sent := send_receipts(dataset, lake, first, merged, self.kafka.access.kafka_python()):
            self.info.done("receipts", dataset, began, batch, "sent %d receipts", sent)
        began = time.monotonic()
        changed = account_pending(dataset, lake)
        self.info.done("account", dataset, began, batch, "accounted, %d rows of silver changed", changed)
        return changed

    def _bring_up(self, dataset: Dataset, lake: Lake, alone: bool) -> None:
        info = self.info
        if merged_version(dataset, lake) < accounted_version(dataset, lake):  # a rebuild was cut off, or silver is gone
            rebuild_silver(dataset, lake)
        changed = self._account(dataset, lake)  # of a merge whose account a crash cut off
        began = time.monotonic()
        if merged := merge_pending(dataset, lake):
            info.merges.append(merged)
            version = f"bronze {merged.bronze_from} to {merged.bronze_to}"
            info.done("merge", dataset, began, version, "merged into silver version %d", merged.silver_version)
            changed += self._account(dataset, lake)
            self.tell(
                f"{dataset.name}: merged, {changed:,} rows changed (silver version {merged.silver_version})",
                f"{dataset.name}：已合并，{changed:,} 行有变化（silver 版本 {merged.silver_version}）",
            )
        began = time.monotonic()
        # What failed may have left a record behind it.
        last = (last_records(lake) if dataset.id in self.again else info.records).get(dataset.id)
        if released := release_version(dataset, lake, last, changed > 0, alone):
            info.releases.append(released)
            info.records[dataset.id] = released.record
            version, status = f"silver {released.record['silver_version']}", released.status
            info.done("release", dataset, began, version, "release %d: %s", released.release, status)
            self.tell(*_decision(dataset, released))


def _backlog(dataset: Dataset, states: Mapping[str, TopicState], taken: Position) -> int:
    return sum(
        end - (taken[topic].next.get(p, first) if topic in taken else first)
        for topic in dataset.topics
        if topic in states
        for p, (first, end) in states[topic].partitions.items()
    )


def _behind(taken: Position, goal: Mapping[str, TopicState]) -> bool:
    return any(
        at < goal[topic].partitions.get(p, (0, 0))[1]
        for topic, t in taken.items()
        if topic in goal
        for p, at in t.next.items()
    )


def _taken(dataset: Dataset, batch: Batch) -> tuple[str, str]:
    en = f"{dataset.name}: ingested {batch.records:,} records into bronze"
    zh = f"{dataset.name}：已将 {batch.records:,} 条记录写入变更日志"
    if batch.waiting:
        en, zh = (
            f"{en}, {batch.waiting:,} offsets wait for the next batch",
            f"{zh}，还有 {batch.waiting:,} 个偏移量待下一批",
        )
    return en, zh


def _reason(error: Exception) -> tuple[str, str]:
    """Why a dataset stopped, and what to do."""
    if isinstance(error, SuibusError):
        return error.en, error.zh
    found = cause(error)
    if "No space left on device" in found:
        return (
            f"The lake's disk is full ({found}). Nothing was lost. Make space; the next pass goes on from here.",
            f"数据湖的磁盘已满（{found}）。数据没有丢失。请腾出空间；下一轮将从此处继续。",
        )
    return (
        f"{found}. Nothing was lost, and the next pass tries this step again. If it stops here once more, the log has the "
        "whole error.",
        f"{found}。数据没有丢失，下一轮将重试这一步。若再次停在此处，日志中有完整的错误信息。",
    )


def _decision(dataset: Dataset, released: ReleaseInfo) -> tuple[str, str]:
    verdict = released.verdict
    failures = "; ".join(f"{r.rule} ({r.severity}, observed {r.observed})" for r in verdict.failures)
    en = f"{dataset.name}: release {released.release} {released.status}: {verdict.rows:,} rows, {len(verdict.results)} rules"
    word = {"released": "通过，已发布", "held": "未通过，暂缓发布"}[released.status]
    zh = f"{dataset.name}：第 {released.release} 次评判{word}：{verdict.rows:,} 行，{len(verdict.results)} 条规则"
    if failures:
        en, zh = f"{en}; failed: {failures}", f"{zh}；未通过：{failures}"
    return en, zh
