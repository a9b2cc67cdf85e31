"""What may become of a record that was received, and what the account counts of each district."""

from __future__ import annotations

from collections.abc import Mapping

FATES = ("inserted", "updated", "deleted", "unchanged", "superseded", "duplicate", "quarantined")
COUNTED = ("received", *FATES, "lost_to_other_district", "took_from_other_district")
Counts = Mapping[str, int]  # of one district, by the names in COUNTED


def closes(counts: Counts) -> bool:
    """Whether everything received has a fate: received is the sum of the fates."""
    return counts["received"] == sum(counts[fate] for fate in FATES)
