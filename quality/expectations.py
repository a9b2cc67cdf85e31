"""What Great Expectations lacks: a single value compared as ODCS compares it, and all aggregates in one scan."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal, cast

from great_expectations.core.metric_domain_types import MetricDomainTypes
from great_expectations.core.metric_function_types import MetricPartialFunctionTypes
from great_expectations.datasource.fluent.spark_datasource import SparkDatasource
from great_expectations.execution_engine.sparkdf_execution_engine import SparkDFExecutionEngine
from great_expectations.expectations.expectation import BatchExpectation, QueryExpectation
from great_expectations.expectations.metrics.metric_provider import metric_partial
from great_expectations.expectations.metrics.table_metric_provider import TableMetricProvider
from great_expectations.expectations.registry import get_metric_provider
from great_expectations.validator.metric_configuration import MetricConfiguration
from pyspark.errors import AnalysisException
from pyspark.sql import Column
from pyspark.sql import functions as F

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


class OneScanEngine(SparkDFExecutionEngine):
    """Great Expectations' engine for Spark, all aggregates in one job and no samples.

    It computes metrics in waves, each from those before, and what of a wave is an aggregate in one job. Here aggregates
    wait until nothing else is left, so that those of all waves meet in one; only the row count, which others wait for,
    goes before. If one fails at run time, each is computed by itself, as ever.
    """

    def resolve_metrics(
        self, metrics_to_resolve: Iterable[MetricConfiguration], metrics: Any = None, runtime_configuration: Any = None
    ) -> Any:
        """Values, by metric id, of those metrics that are due now."""
        todo = list(metrics_to_resolve)
        samples: dict[Any, Any] = {m.id: [] for m in todo if m.metric_name.endswith(".unexpected_values")}
        todo = [m for m in todo if m.id not in samples]
        now = [m for m in todo if get_metric_provider(m.metric_name, self)[1] is not None]
        now = now or [m for m in todo if m.metric_name == "table.row_count"] or self._sound(todo, metrics)
        return samples | super().resolve_metrics(now, metrics, runtime_configuration) if now else samples

    def _sound(self, todo: list[MetricConfiguration], metrics: Any) -> list[MetricConfiguration]:
        """The aggregates that Spark takes, without running any; if it takes none, the first, whose error is then told."""
        columns = [metrics[m.metric_dependencies["metric_partial_fn"].id][0] for m in todo]
        if not todo or self._takes(*columns):
            return todo
        return [m for m, column in zip(todo, columns, strict=True) if self._takes(column)] or todo[:1]

    def _takes(self, *aggregates: Column) -> bool:
        try:
            self.dataframe.agg(*aggregates)
        except AnalysisException:
            return False
        return True


class OneScanSpark(SparkDatasource):
    """A Spark data source with that engine."""

    type: Literal["one_scan_spark"] = "one_scan_spark"  # type: ignore[assignment] # must be a name of its own

    execution_engine_override: ClassVar[Any] = OneScanEngine


class AggregateMetric(TableMetricProvider):
    """The value of a Spark SQL aggregate over the whole candidate."""

    metric_name = "suibus.aggregate"
    value_keys = ("aggregate",)

    @metric_partial(
        engine=SparkDFExecutionEngine,
        partial_fn_type=MetricPartialFunctionTypes.AGGREGATE_FN,
        domain_type=MetricDomainTypes.TABLE,
    )
    def _spark(
        cls,  # noqa: N805 - Great Expectations gives the class by this name
        execution_engine: Any,
        metric_domain_kwargs: Any,
        metric_value_kwargs: Any,
        metrics: Any,
        runtime_configuration: Any,
    ) -> tuple[Column, Any, dict[str, Any]]:
        return F.expr(metric_value_kwargs["aggregate"]), metric_domain_kwargs, {}


class ExpectAggregateValue(BatchExpectation):
    """Expect `aggregate`, a Spark SQL aggregate over all rows, to compare with `threshold` as `operator` says."""

    aggregate: str
    operator: str
    threshold: Any

    metric_dependencies: ClassVar[tuple[str, ...]] = ("suibus.aggregate",)
    success_keys: ClassVar[tuple[str, ...]] = ("aggregate", "operator", "threshold")
    domain_keys: ClassVar[tuple[str, ...]] = ("batch_id",)

    def _validate(
        self, metrics: dict[str, Any], runtime_configuration: Any = None, execution_engine: Any = None
    ) -> Any:
        return _compared(metrics["suibus.aggregate"], self.operator, self.threshold)


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
        return _compared(next(iter(dict(rows[0]).values()), None) if rows else None, self.operator, self.threshold)


def _compared(found: Any, operator: str, threshold: Any) -> dict[str, Any]:
    value = found if found is None or isinstance(found, int) else float(found)
    return {"success": holds(value, cast(Operator, operator), threshold), "result": {"observed_value": value}}
