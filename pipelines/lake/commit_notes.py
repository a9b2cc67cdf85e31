"""The note in each commit that Suibus makes: the commit's user metadata, JSON in Delta's log.

A note is committed together with the rows, so the two cannot disagree. Each kind of note has one writer: ingest, merge, account or
release.
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
    """In bronze: the position after this batch."""

    position: Position


@dataclass(frozen=True)
class GateChange:
    """By how much a merge changed the row counts of the gate's composing rules (`quality.gate_rules.composing_rules`)."""

    rules: str  # the hash of those rules
    counts: Mapping[str, int]  # by rule: the change of its row count, negative where it counts fewer
    unknown: int  # replaced rows whose counts were made with other rules


@dataclass(frozen=True)
class MergeNote:
    """In silver: the bronze versions merged, the account of their records, and the change of the gate's counts."""

    bronze_from: int
    bronze_to: int
    bronze_id: str  # Delta's id of the bronze table that has these versions
    account: Account
    gate: GateChange


@dataclass(frozen=True)
class AccountNote:
    """In the account: the sums of the rows that the commit added, by district."""

    dataset: str
    account: Account


@dataclass(frozen=True)
class ReleaseNote:
    """In the releases: the hash of the verdict in the record."""

    verdict_sha256: str


Note = IngestNote | MergeNote | AccountNote | ReleaseNote
_KINDS: dict[str, type[Note]] = {
    "ingest": IngestNote, "merge": MergeNote, "account": AccountNote, "release": ReleaseNote,
}  # fmt: skip


def dump_note(note: Note) -> str:
    """A note as the text to commit."""
    kind = next(kind for kind, made in _KINDS.items() if isinstance(note, made))
    fields = dict(vars(note))
    if isinstance(note, IngestNote):
        fields["position"] = dump_position(note.position)
    if isinstance(note, MergeNote):
        fields["gate"] = vars(note.gate)
    return json.dumps({"kind": kind, **fields}, ensure_ascii=False, separators=(",", ":"))


def parse_note(text: str | None) -> Note | None:
    """The note in a commit's user metadata; None if there is none, or another program wrote it."""
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
