"""Additions to Great Expectations: expectations that compare one value as ODCS does, and cached configurations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, cast

from great_expectations.core.metric_domain_types import MetricDomainTypes
from great_expectations.core.metric_function_types import MetricPartialFunctionTypes
from great_expectations.execution_engine.sparkdf_execution_engine import SparkDFExecutionEngine
from great_expectations.expectations.expectation import BatchExpectation, Expectation, QueryExpectation
from great_expectations.expectations.metrics.metric_provider import metric_partial
from great_expectations.expectations.metrics.table_metric_provider import TableMetricProvider
from pyspark.sql import Column
from pyspark.sql import functions as F

from quality.operators import holds
from schemas.dataset import Operator


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
        cls,  # noqa: N805 - Great Expectations passes the class under this name
        execution_engine: Any,
        metric_domain_kwargs: Any,
        metric_value_kwargs: Any,
        metrics: Any,
        runtime_configuration: Any,
    ) -> tuple[Column, Any, dict[str, Any]]:
        return F.expr(metric_value_kwargs["aggregate"]), metric_domain_kwargs, {}


class ExpectAggregateValue(BatchExpectation):
    """Expect `aggregate`, a Spark SQL aggregate over all rows, to satisfy the ODCS `operator` with `threshold`."""

    aggregate: str
    operator: str
    threshold: Any

    metric_dependencies: ClassVar[tuple[str, ...]] = ("suibus.aggregate",)
    success_keys: ClassVar[tuple[str, ...]] = ("aggregate", "operator", "threshold")
    domain_keys: ClassVar[tuple[str, ...]] = ("batch_id",)

    def _validate(
        self, metrics: dict[str, Any], runtime_configuration: Any = None, execution_engine: Any = None
    ) -> Any:
        return _compare(metrics["suibus.aggregate"], self.operator, self.threshold)


class ExpectQueryValue(QueryExpectation):
    """Expect the first column of the first row of `query` to satisfy the ODCS `operator` with `threshold`."""

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
        return _compare(next(iter(dict(rows[0]).values()), None) if rows else None, self.operator, self.threshold)


def _compare(observed: Any, operator: str, threshold: Any) -> dict[str, Any]:
    value = observed if observed is None or isinstance(observed, int) else float(observed)
    return {"success": holds(value, cast(Operator, operator), threshold), "result": {"observed_value": value}}


@contextmanager
def cache_configurations() -> Iterator[None]:
    """During the block an expectation builds its configuration once, not at each of about 10 uses per metric.

    This changes a class of Great Expectations for the whole process, so only one thread may use it at a time.
    """
    cache: dict[int, tuple[Expectation, Any]] = {}  # by id(), which is not reused while the expectation is kept here
    original = Expectation.configuration

    def configuration(expectation: Expectation) -> Any:
        if id(expectation) not in cache:
            cache[id(expectation)] = (expectation, original.fget(expectation))  # type: ignore[attr-defined]
        return cache[id(expectation)][1]

    Expectation.configuration = property(configuration)  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        Expectation.configuration = original  # type: ignore[method-assign]
