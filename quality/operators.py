"""The operators of the Open Data Contract Standard: how a measured value is compared with a threshold."""

from __future__ import annotations

from schemas.dataset import Operator


def holds(value: float | None, operator: Operator, threshold: float | list[float]) -> bool:
    """Whether a value satisfies the ODCS operator; None never does."""
    if value is None:
        return False
    low, high = threshold if isinstance(threshold, list) else (threshold, threshold)
    match operator:
        case "mustBe":
            return value == low
        case "mustNotBe":
            return value != low
        case "mustBeGreaterThan":
            return value > low
        case "mustBeGreaterOrEqualTo":
            return value >= low
        case "mustBeLessThan":
            return value < low
        case "mustBeLessOrEqualTo":
            return value <= low
        case "mustBeBetween":
            return low <= value <= high
        case "mustNotBeBetween":
            return not low <= value <= high
