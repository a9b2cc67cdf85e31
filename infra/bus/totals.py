"""Running totals of all passes: the fates of records, from the account, and the time that each hop took. They only grow."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from pipelines.fates import FATES
from pipelines.lake.commit_notes import AccountNote

if TYPE_CHECKING:
    from pipelines.lake.lake import Lake
    from pipelines.sync_info import SyncInfo

log = logging.getLogger(__name__)
_COUNTED = ("received", *FATES)


class Spent(NamedTuple):
    """The time that a hop has spent on a dataset, and the number of batches."""

    seconds: float
    batches: int


class Counted(NamedTuple):
    """The version of the account table up to which the totals count it; the table by Delta's id."""

    table_id: str
    version: int


@dataclass(frozen=True)
class Totals:
    """Running totals. `fates`: by dataset, district and the account's column; `seconds`: by hop and dataset; `account`: what is counted of it."""

    fates: Mapping[str, Mapping[str, Mapping[str, int]]] = field(default_factory=dict)
    seconds: Mapping[str, Mapping[str, Spent]] = field(default_factory=dict)
    account: Counted | None = None

    def to_json(self) -> dict[str, Any]:
        """The totals as a JSON object."""
        return {"fates": self.fates, "seconds": self.seconds, "account": self.account}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """The totals that `to_json` wrote."""
        seconds = {
            hop: {dataset: Spent(*one) for dataset, one in by_dataset.items()}
            for hop, by_dataset in found["seconds"].items()
        }
        return cls(found["fates"], seconds, Counted(*found["account"]) if found["account"] else None)


def count_pass(before: Totals, info: SyncInfo, lake: Lake) -> Totals:
    """The running totals after a pass; writes a line to the log for each dataset and district with newly accounted records.

    The fates come from the account, so a pass that was killed before this call is counted with the next one.
    """
    spent = {hop: dict(by_dataset) for hop, by_dataset in before.seconds.items()}
    for hop, dataset, seconds in info.seconds:
        known = spent.setdefault(hop, {}).get(dataset, Spent(0.0, 0))
        spent[hop][dataset] = Spent(known.seconds + seconds, known.batches + 1)
    account = lake.account()
    counted = Counted(account.id, account.version)
    if before.account == counted:
        return Totals(before.fates, spent, counted)
    fates: dict[str, dict[str, dict[str, int]]] = deepcopy(dict(before.fates))  # type: ignore[arg-type]
    for dataset, district, more in _accounted_since(before, counted, lake):
        if any(more.values()):
            about = {"dataset": dataset, "district": district, "batch": _batch(info, dataset), **more}
            log.info("accounted %d records", more["received"], extra={"about": about})
        known_fates = fates.setdefault(dataset, {}).setdefault(district, {})
        known_fates.update({name: known_fates.get(name, 0) + count for name, count in more.items()})
    return Totals(fates, spent, counted)


def _accounted_since(before: Totals, now: Counted, lake: Lake) -> Iterable[tuple[str, str, dict[str, int]]]:
    """By dataset and district: the counts in the account that are not in the totals yet.

    They are read from the notes of the account's commits; if one is missing, from all its rows.
    """
    account = lake.account()
    if before.account and before.account.table_id == now.table_id:
        commits = [account.commit(version) for version in range(before.account.version + 1, now.version + 1)]
        notes = [commit.note for commit in commits if commit.changes_rows]
        if all(isinstance(note, AccountNote) for note in notes):
            for note in notes:
                if isinstance(note, AccountNote):  # narrows the type for mypy
                    for district, counts in note.account.items():
                        yield note.dataset, district, {name: counts[name] for name in _COUNTED}
            return
    from pipelines.merge.account import account_totals  # the light install has no Spark

    for row in account_totals(account.read(now.version)).collect():
        known = before.fates.get(row["dataset"], {}).get(row["district"], {})
        yield row["dataset"], row["district"], {name: max(row[name] - known.get(name, 0), 0) for name in _COUNTED}


def _batch(info: SyncInfo, dataset: str) -> str | None:
    merges = [merge for merge in info.merges if merge.dataset == dataset]
    return f"bronze {merges[0].bronze_from} to {merges[-1].bronze_to}" if merges else None
