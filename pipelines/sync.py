"""One pass over the whole road: ingest, then merge, account and release of every dataset with something new."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from pipelines.account import account_pending
from pipelines.ingest import IngestInfo, ingest_available
from pipelines.merge import MergeInfo, merge_pending
from pipelines.release import ReleaseInfo, last_records, release_version
from pipelines.tables import Lake
from schemas.dataset import Dataset
from schemas.errors import first_line
from schemas.registry import Registry
from schemas.store import ContractStore

log = logging.getLogger(__name__)
Tell = Callable[[str, str], None]  # English, Chinese


@dataclass
class SyncInfo:
    """What one pass did. `failures` names the datasets that stopped, with the reason; the others went on."""

    ingest: IngestInfo
    merges: list[MergeInfo] = field(default_factory=list)
    releases: list[ReleaseInfo] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    records: dict[str, dict[str, Any]] = field(default_factory=dict)  # the newest decision of each dataset


def sync(
    lake: Lake,
    store: ContractStore,
    bootstrap_servers: str,
    registry: Registry | None = None,
    only: Collection[str] | None = None,
    tell: Tell = lambda en, zh: None,
    refresh: Callable[[], object] = lambda: None,
) -> SyncInfo:
    """Bring everything up to the end of what is published. Run again with nothing new, it changes nothing.

    `only` limits merge and release to these dataset ids and those with new records or a contract that changed since
    their last verdict; None takes all. A dataset that fails is reported and does not stop another. `refresh` puts
    the newest contracts in force: see `ingest_available`.
    """
    info = SyncInfo(ingest_available(lake, store, bootstrap_servers, registry, refresh))
    if info.ingest.records:
        tell(
            f"ingested {info.ingest.records:,} records of {len(info.ingest.datasets)} datasets into bronze",
            f"已将 {len(info.ingest.datasets)} 个数据集的 {info.ingest.records:,} 条记录写入变更日志",
        )
    info.records = last_records(lake)
    for dataset in store.datasets().values():
        record = info.records.get(dataset.id)
        changed = record is not None and record["contract_sha256"] != dataset.hash
        if only is None or dataset.id in only or dataset.id in info.ingest.datasets or changed:
            try:
                _bring_up(dataset, lake, info, tell)
            except Exception as error:  # one dataset must not stop another
                log.exception("dataset=%s failed", dataset.id)
                reason = first_line(error)
                info.failures[dataset.id] = reason
                tell(f"{dataset.id}: stopped: {reason}", f"{dataset.id}：已停止：{reason}")
    return info


def _bring_up(dataset: Dataset, lake: Lake, info: SyncInfo, tell: Tell) -> None:
    changed = account_pending(dataset, lake)  # of a merge whose account a crash cut off
    if merged := merge_pending(dataset, lake):
        changed += account_pending(dataset, lake)
        info.merges.append(merged)
        tell(
            f"{dataset.name}: merged, {changed:,} rows changed (silver version {merged.silver_version})",
            f"{dataset.name}：已合并，{changed:,} 行有变化（silver 版本 {merged.silver_version}）",
        )
    if released := release_version(dataset, lake, info.records.get(dataset.id), changed > 0):
        info.releases.append(released)
        info.records[dataset.id] = released.record
        tell(*_decision(dataset, released))


def _decision(dataset: Dataset, released: ReleaseInfo) -> tuple[str, str]:
    verdict = released.verdict
    failures = "; ".join(f"{r.rule} ({r.severity}, observed {r.observed})" for r in verdict.failures)
    en = f"{dataset.name}: release {released.release} {released.status}: {verdict.rows:,} rows, {len(verdict.results)} rules"
    word = {"released": "通过，已发布", "held": "未通过，暂缓发布"}[released.status]
    zh = f"{dataset.name}：第 {released.release} 次评判{word}：{verdict.rows:,} 行，{len(verdict.results)} 条规则"
    if failures:
        en, zh = f"{en}; failed: {failures}", f"{zh}；未通过：{failures}"
    return en, zh
