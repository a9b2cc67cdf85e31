"""What Great Expectations lacks: a single value compared as ODCS compares it, and all aggregates in about one scan."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from math import ceil
from typing import Any, ClassVar, Literal, cast

from great_expectations.core.id_dict import IDDict
from great_expectations.core.metric_domain_types import MetricDomainTypes
from great_expectations.core.metric_function_types import MetricPartialFunctionTypes
from great_expectations.datasource.fluent.spark_datasource import SparkDatasource
from great_expectations.exceptions.exceptions import MetricResolutionError
from great_expectations.execution_engine.sparkdf_execution_engine import SparkDFExecutionEngine
from great_expectations.expectations.expectation import BatchExpectation, Expectation, QueryExpectation
from great_expectations.expectations.metrics.metric_provider import metric_partial
from great_expectations.expectations.metrics.table_metric_provider import TableMetricProvider
from great_expectations.expectations.registry import get_metric_provider
from great_expectations.validator.metric_configuration import MetricConfiguration
from pyspark import inheritable_thread_target
from pyspark.errors import AnalysisException
from pyspark.sql import Column
from pyspark.sql import functions as F

from quality.rules import Operator, holds

# Spark compiles a plan to one Java method a stage up to 100 columns (spark.sql.codegen.maxFields), and beyond that it
# interprets it, at more than twice the cost. An aggregate has a column of its own in the plan, an average two.
_AGGREGATES_A_JOB = 88
_JOBS_AT_ONCE = 4
_UNIQUE = ("column_values.unique.unexpected_count", "compound_columns.unique.unexpected_count")


class OneScanEngine(SparkDFExecutionEngine):
    """Great Expectations' engine for Spark: about one scan for all aggregates, and no samples.

    It computes metrics in waves, each from those before, and what of a wave is an aggregate in one job. Here aggregates
    wait until nothing else is left, so that those of all waves meet. They are then cut, in the order of their columns,
    into as few jobs as Spark still compiles, which run side by side; each reads its own columns only. What needs no other
    metric runs meanwhile: the row count, and the repeated keys, which are counted by grouping instead of by a window.
    If an aggregate fails at run time, each is computed by itself, as ever.
    """

    def load_batch_data(self, batch_id: str, batch_data: Any) -> None:
        """Take the candidate, and begin to count its rows."""
        super().load_batch_data(batch_id, batch_data)
        # Where a query finds the candidate; by itself Great Expectations asks the process's first session.
        self.spark = self.dataframe.sparkSession
        self._pool = ThreadPoolExecutor(_JOBS_AT_ONCE, "gate")
        self._rows = self._begin(self.dataframe.count)
        self._repeats: dict[Any, Future[int]] = {}

    def resolve_metrics(
        self, metrics_to_resolve: Iterable[MetricConfiguration], metrics: Any = None, runtime_configuration: Any = None
    ) -> Any:
        """Values, by metric id, of those metrics that are due now."""
        found: dict[Any, Any] = {}
        repeats, direct, counts, aggregates = [], [], [], []
        for metric in metrics_to_resolve:
            if metric.metric_name.endswith(".unexpected_values"):
                found[metric.id] = []
            elif metric.metric_name in _UNIQUE:
                repeats.append(metric)
            elif get_metric_provider(metric.metric_name, self)[1] is not None:
                direct.append(metric)
            elif metric.metric_name != "table.row_count":
                aggregates.append(metric)
            elif metric.metric_domain_kwargs.get("row_condition"):
                counts.append(metric)
            else:
                found[metric.id] = self._result(metric, self._rows)
        for metric in repeats:
            if metric.id not in self._repeats:
                self._repeats[metric.id] = self._begin(partial(self._repeated, metric))
        if due := direct or counts or self._sound(aggregates, metrics):
            return found | super().resolve_metrics(due, metrics, runtime_configuration)
        return found or {metric.id: self._result(metric, self._repeats.pop(metric.id)) for metric in repeats}

    def resolve_metric_bundle(self, metric_fn_bundle: Iterable[Any]) -> Any:
        """Values, by metric id, of aggregates."""
        domains: dict[Any, list[Any]] = {}
        for metric in metric_fn_bundle:
            domains.setdefault(IDDict(metric.compute_domain_kwargs or {}).to_id(), []).append(metric)
        parts = [part for domain in domains.values() for part in _parts(sorted(domain, key=_column))]
        compute, found = super().resolve_metric_bundle, dict[Any, Any]()
        for job in [self._begin(partial(compute, part)) for part in parts]:
            found |= job.result()
        for metric in found:  # a sum over no rows is null
            if found[metric] is None and metric.metric_name.endswith(".unexpected_count"):
                found[metric] = 0
        return found

    def _begin(self, work: Callable[[], Any]) -> Future[Any]:
        """Run work beside, with the local properties that this thread has given its Spark jobs."""
        return self._pool.submit(inheritable_thread_target(self.dataframe.sparkSession)(work))

    def _repeated(self, metric: MetricConfiguration) -> int:
        """How many rows have a key that another row has too; as Great Expectations has it, a null is none."""
        domain = metric.metric_domain_kwargs
        rows, names = self.get_domain_records(dict(domain)), domain.get("column_list") or [domain["column"]]
        if "column" in domain:
            rows = rows.where(F.col(names[0]).isNotNull())
        return rows.groupBy(*names).agg(F.count("*").alias("n")).where("n > 1").agg(F.sum("n")).collect()[0][0] or 0

    def _result(self, metric: MetricConfiguration, count: Future[int]) -> int:
        try:
            return count.result()
        except Exception as error:
            raise MetricResolutionError(str(error), (metric,)) from error

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


def _parts(metrics: list[Any]) -> Iterator[list[Any]]:
    """As few parts as may be, about equal, in order."""
    size = ceil(len(metrics) / ceil(len(metrics) / _AGGREGATES_A_JOB))
    yield from (metrics[i : i + size] for i in range(0, len(metrics), size))


def _column(metric: Any) -> str:
    """The column that an aggregate reads, the first if several."""
    configuration = metric.metric_configuration
    named = re.search("`([^`]+)`", configuration.metric_value_kwargs.get("aggregate") or "")
    return str(configuration.metric_domain_kwargs.get("column") or (named and named[1]) or "")


_made: ContextVar[dict[int, tuple[Expectation, Any]] | None] = ContextVar("configurations", default=None)
_make: Callable[[Expectation], Any] = Expectation.configuration.fget  # type: ignore[attr-defined]


def _configuration(expectation: Expectation) -> Any:
    made = _made.get()
    if made is None:
        return _make(expectation)
    if id(expectation) not in made:
        made[id(expectation)] = (expectation, _make(expectation))  # kept, so that no other gets its id
    return made[id(expectation)][1]


Expectation.configuration = property(_configuration)  # type: ignore[assignment,method-assign]


@contextmanager
def configurations_made_once() -> Iterator[None]:
    """While this lasts, in this thread, an expectation makes its configuration once, instead of at each of 10 uses a metric."""
    token = _made.set({})
    try:
        yield
    finally:
        _made.reset(token)


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
