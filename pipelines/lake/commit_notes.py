"""What a commit of Suibus's says of itself, beside its rows: the user metadata of the commit, as JSON in Delta's log.

A note is committed with the rows, so it cannot disagree with them. Each kind has one writer: ingest, merge, account, release.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.fates import Counts
from pipelines.lake.position import Position, dump_position, parse_position

Account = Mapping[str, Counts]  # the counts of each district


@dataclass(frozen=True)
class IngestNote:
    """In bronze: how far each topic is, with this batch."""

    position: Position


@dataclass(frozen=True)
class GateChange:
    """By how much a merge changed the counts of the gate's composing rules."""

    rules: str  # the hash of those rules
    counts: Mapping[str, int]  # by rule: how many more rows it counts
    unknown: int  # rows replaced that were counted by other rules


@dataclass(frozen=True)
class MergeNote:
    """In silver: the bronze versions merged, the account of their records, and what changed for the gate."""

    bronze_from: int
    bronze_to: int
    bronze_id: str  # Delta's id of the bronze table those versions are of
    account: Account
    gate: GateChange


@dataclass(frozen=True)
class AccountNote:
    """In the account: what was added to it, as sums."""

    dataset: str
    account: Account


@dataclass(frozen=True)
class ReleaseNote:
    """In the releases: the verdict that the record is of."""

    verdict_sha256: str


Note = IngestNote | MergeNote | AccountNote | ReleaseNote
_KINDS: dict[str, type[Note]] = {
    "ingest": IngestNote, "merge": MergeNote, "account": AccountNote, "release": ReleaseNote,
}  # fmt: skip


def dump_note(note: Note) -> str:
    """A note as the text that is committed."""
    kind = next(kind for kind, made in _KINDS.items() if isinstance(note, made))
    fields = dict(vars(note))
    if isinstance(note, IngestNote):
        fields["position"] = dump_position(note.position)
    if isinstance(note, MergeNote):
        fields["gate"] = vars(note.gate)
    return json.dumps({"kind": kind, **fields}, ensure_ascii=False, separators=(",", ":"))


def parse_note(text: str | None) -> Note | None:
    """A note from the text that was committed; None if it is another program's, or there is none."""
    try:
        found: Any = json.loads(text or "")
        fields = {name: value for name, value in found.items() if name != "kind"}
        made = _KINDS[found["kind"]]
        if made is IngestNote:
            fields["position"] = parse_position(fields["position"])
        if made is MergeNote:
            fields["gate"] = GateChange(**fields["gate"])
        return made(**fields)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
