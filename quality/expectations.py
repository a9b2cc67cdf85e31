"""The one expectation Great Expectations lacks: a query's single value compared as ODCS compares it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, cast

from great_expectations.expectations.expectation import QueryExpectation

Operator = Literal[
    "mustBe", "mustNotBe", "mustBeGreaterThan", "mustBeGreaterOrEqualTo", "mustBeLessThan", "mustBeLessOrEqualTo",
    "mustBeBetween", "mustNotBeBetween",
]  # fmt: skip


def holds(value: float | None, operator: Operator, threshold: float | list[float]) -> bool:
    """Whether the value is as the ODCS operator demands; a missing value never is."""
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


class ExpectQueryValue(QueryExpectation):
    """Expect the first column of the first row of `query` to compare with `threshold` as `operator` says."""

    query: str
    operator: str
    threshold: Any

    metric_dependencies: ClassVar[tuple[str, ...]] = ("query.table",)
    success_keys: ClassVar[tuple[str, ...]] = ("query", "operator", "threshold")
    domain_keys: ClassVar[tuple[str, ...]] = ("batch_id",)

    def _validate(
        self, metrics: dict[str, Any], runtime_configuration: Any = None, execution_engine: Any = None
    ) -> Any:
        rows = metrics["query.table"]
        first = next(iter(dict(rows[0]).values()), None) if rows else None
        value = None if first is None else float(first) if not isinstance(first, int) else first
        return {
            "success": holds(value, cast(Operator, self.operator), self.threshold),
            "result": {"observed_value": value},
        }
