"""Carry the gate's row counts from the last verdict: its counts plus the change that each later merge recorded in its note.

This applies to the composing rules (`quality.gate_rules.composing_rules`), as long as the contract and the silver table are the same and
every later commit is a merge made with the same rules. Once a day all rows are counted again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pyspark.sql import functions as F

from pipelines.fates import closes
from pipelines.lake.commit_notes import MergeNote
from pipelines.lake.lake import Lake
from pipelines.release.release_record import ReleaseRecord
from quality.gate_rules import composing_rules, gate_rules, key_rule, rules_hash
from quality.verdict import Verdict
from schemas.dataset import Dataset

COUNT_AGAIN = timedelta(days=1)


@dataclass(frozen=True)
class CarriedCounts:
    """The counts of one version of silver, computed without reading its rows."""

    counts: dict[str, int]  # by rule name
    rows: int
    counted_at: str  # when the rows were last counted, ISO 8601
    unclosed_sums: list[str]  # a description of each merge whose account does not close
    account_version: int  # the version of the account table that was checked for the last verdict


def carry_counts(dataset: Dataset, lake: Lake, last: ReleaseRecord | None, version: int) -> CarriedCounts | None:
    """The counts of a version of silver, carried from the last release record; None if the rows must be counted."""
    silver = lake.silver(dataset)
    if last is None or last.contract_sha256 != dataset.hash or last.silver_id != silver.id:
        return None
    known = _last_counts(dataset, lake, last)
    if known is None or datetime.now(UTC) - datetime.fromisoformat(known.counted_at) > COUNT_AGAIN:
        return None
    if not lake.account().is_own_since(known.account_version):
        return None
    counts, rows, unclosed_sums, rules = dict(known.counts), known.rows, list[str](), rules_hash(dataset)
    for at in range(last.silver_version + 1, version + 1):
        commit = silver.commit(at)
        if not commit.changes_rows:  # compaction
            continue
        note = commit.note
        if not commit.own or not isinstance(note, MergeNote):
            return None  # another program wrote it
        if note.gate.rules != rules or note.gate.unknown or note.gate.counts.keys() - counts:
            return None  # counted with other rules, or a rule could not be evaluated for a row
        for name, more in note.gate.counts.items():
            counts[name] += more
        for district, sums in note.account.items():
            rows += sums["inserted"] - sums["deleted"]
            if not closes(sums):
                unclosed_sums.append(f"silver version {at}, district {district}: received is not the sum of the fates")
    return CarriedCounts(counts, rows, known.counted_at, unclosed_sums, known.account_version)


def _last_counts(dataset: Dataset, lake: Lake, last: ReleaseRecord) -> CarriedCounts | None:
    """The counts in the last verdict; None if one is missing, or if its account did not close."""
    verdict = _last_verdict(dataset, lake, last)
    if verdict is None or verdict.account_version < 0:
        return None
    percent = {rule.name for rule in gate_rules(dataset) if rule.percent}
    counts = {key_rule(dataset): 0}  # a merge that finds a key twice stops
    for name, _ in composing_rules(dataset):
        observed = verdict.by_rule[name].observed if name in verdict.by_rule else None
        if observed is None:
            return None
        counts[name] = round(observed * verdict.rows / 100) if name in percent else int(observed)
    if not all(
        rule in verdict.by_rule and verdict.by_rule[rule].success for rule in ("account_closes", key_rule(dataset))
    ):
        return None
    return CarriedCounts(counts, verdict.rows, verdict.counted_at or verdict.judged_at, [], verdict.account_version)


def _last_verdict(dataset: Dataset, lake: Lake, last: ReleaseRecord) -> Verdict | None:
    silver = lake.silver(dataset)
    known = silver.kept(Verdict)
    if known and known.silver_version == last.silver_version:
        return known
    mine = (F.col("dataset") == dataset.id) & (F.col("release") == last.release)
    rows = lake.releases().read().where(mine).select("verdict").collect()
    if not rows:
        return None
    verdict = Verdict.from_json(rows[0]["verdict"])
    silver.keep(verdict)
    return verdict
