"""What a judgement need not count again: the last verdict's counts, and what each merge since says that it changed.

It holds for the rules that compose (`quality.rules.composing_rules`), while the contract and the table are the same and every commit
since is a merge that knew them. Once a day everything is counted again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pyspark.sql import functions as F

from pipelines.lake.lake import Lake
from pipelines.sync_info import FATES
from quality.rules import composing_rules, gate_rules, key_rule, rules_hash
from schemas.dataset import Dataset

COUNT_AGAIN = timedelta(days=1)


@dataclass(frozen=True)
class Carried:
    """Counts of a whole version of silver that were not taken from its rows."""

    counts: dict[str, int]  # by the name of the rule
    rows: int
    counted_at: str  # when all of them were last taken from the rows, ISO 8601
    unclosed: list[str]  # the merges whose account does not close
    account_version: int  # the version of the account that closed for the last verdict


def carry(dataset: Dataset, lake: Lake, last: Mapping[str, Any] | None, version: int) -> Carried | None:
    """The counts of silver's version, from those of the last record; None where they have to be taken from the rows."""
    silver = lake.silver(dataset)
    if last is None or last["contract_sha256"] != dataset.hash or last["silver_id"] != lake.table_id(silver):
        return None
    found = _counted(dataset, lake, last)
    if found is None or datetime.now(UTC) - datetime.fromisoformat(found.counted_at) > COUNT_AGAIN:
        return None
    if not lake.own_since(lake.account(), found.account_version):
        return None
    counts, rows, unclosed, rules = dict(found.counts), found.rows, list[str](), rules_hash(dataset)
    for at in range(last["silver_version"] + 1, version + 1):
        commit = lake.commit(silver, at)
        if not commit.changes_rows:  # compaction
            continue
        gate, account = commit.metadata.get("gate", {}), commit.metadata.get("account", {})
        if not commit.own or gate.get("rules") != rules or gate["unknown"] or gate["counts"].keys() - counts:
            return None  # another program's, or marks of other rules, or a rule that failed for a row
        for name, more in gate["counts"].items():
            counts[name] += more
        for district, sums in account.items():
            rows += sums["inserted"] - sums["deleted"]
            if sums["received"] != sum(sums[fate] for fate in FATES):
                unclosed.append(f"silver version {at}, district {district}: received is not the sum of the fates")
    return Carried(counts, rows, found.counted_at, unclosed, found.account_version)


def _counted(dataset: Dataset, lake: Lake, last: Mapping[str, Any]) -> Carried | None:
    """The counts of the last verdict; None if it lacks one, or if its account did not close."""
    known = lake.verdicts.get(dataset.id)
    if not known or known["silver_version"] != last["silver_version"]:
        mine = (F.col("dataset") == dataset.id) & (F.col("release") == last["release"])
        rows = lake.read(lake.releases()).where(mine).select("verdict").collect()
        known = json.loads(rows[0]["verdict"]) if rows else None
    if not known or "account_version" not in known:
        return None
    lake.verdicts[dataset.id] = known
    results = {result["rule"]: result for result in known["results"]}
    percent = {rule.name for rule in gate_rules(dataset) if rule.percent}
    counts = {key_rule(dataset): 0}  # by construction: a merge would have stopped
    for name, _ in composing_rules(dataset):
        observed = results.get(name, {}).get("observed")
        if observed is None:
            return None
        counts[name] = round(observed * known["rows"] / 100) if name in percent else int(observed)
    if not results.get("account_closes", {}).get("success") or not results.get(key_rule(dataset), {}).get("success"):
        return None
    since = known.get("counted_at") or known["judged_at"]
    return Carried(counts, known["rows"], since, [], known["account_version"])
