"""The fates that a received record can have, and what the account counts for each district."""

from __future__ import annotations

from collections.abc import Mapping

FATES = ("inserted", "updated", "deleted", "unchanged", "superseded", "duplicate", "quarantined")
COUNTED = ("received", *FATES, "lost_to_other_district", "took_from_other_district")
Counts = Mapping[str, int]  # the counts of one district, by the names in COUNTED


def closes(counts: Counts) -> bool:
    """Whether every received record has a fate: `received` equals the sum of the fates."""
    return counts["received"] == sum(counts[fate] for fate in FATES)
