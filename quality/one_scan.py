"""An engine for Great Expectations that computes all aggregates in about one scan.

Only this module and `quality.expectations` use internals of Great Expectations; `tests/integration/quality/test_internals.py`
checks each such use.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from math import ceil
from typing import Any, ClassVar, Literal

from great_expectations.core.id_dict import IDDict
from great_expectations.datasource.fluent.spark_datasource import SparkDatasource
from great_expectations.exceptions.exceptions import MetricResolutionError
from great_expectations.execution_engine.sparkdf_execution_engine import SparkDFExecutionEngine
from great_expectations.expectations.registry import get_metric_provider
from great_expectations.validator.metric_configuration import MetricConfiguration
from pyspark import inheritable_thread_target
from pyspark.errors import AnalysisException
from pyspark.sql import Column
from pyspark.sql import functions as F

# Spark compiles each stage of a plan to a Java method up to 100 columns (spark.sql.codegen.maxFields); a wider plan is
# interpreted, at more than twice the cost. An aggregate has one column of the plan, an average two.
_AGGREGATES_A_JOB = 88
_JOBS_AT_ONCE = 4
_UNIQUE = ("column_values.unique.unexpected_count", "compound_columns.unique.unexpected_count")


class OneScanEngine(SparkDFExecutionEngine):
    """The Spark engine of Great Expectations, changed to compute all aggregates in about one scan and to collect no samples.

    Great Expectations computes metrics in waves, each from the metrics of earlier waves, and runs the aggregates of one wave
    in one Spark job. Here aggregates are deferred until no other metric is left, so that those of all waves run together.
    They are sorted by column and divided into jobs small enough for Spark to compile; the jobs run in parallel, and each
    reads only its own columns. The row count and the counts of repeated keys depend on no other metric and run in the
    background; repeated keys are counted with GROUP BY in place of a window. If an aggregate fails at run time, Great
    Expectations computes each aggregate on its own.
    """

    def load_batch_data(self, batch_id: str, batch_data: Any) -> None:
        """Set the candidate, and start to count its rows in the background."""
        super().load_batch_data(batch_id, batch_data)
        # The session that has the candidate's view; Great Expectations would use the first session of the process.
        self.spark = self.dataframe.sparkSession
        self._pool = ThreadPoolExecutor(_JOBS_AT_ONCE, "gate")
        self._rows = self._start(self.dataframe.count)
        self._repeats: dict[Any, Future[int]] = {}

    def resolve_metrics(
        self, metrics_to_resolve: Iterable[MetricConfiguration], metrics: Any = None, runtime_configuration: Any = None
    ) -> Any:
        """The values, by metric id, of the metrics that this wave computes; Great Expectations asks again for the others."""
        values: dict[Any, Any] = {}
        repeats, direct, counts, aggregates = [], [], [], []
        for metric in metrics_to_resolve:
            if metric.metric_name.endswith(".unexpected_values"):
                values[metric.id] = []
            elif metric.metric_name in _UNIQUE:
                repeats.append(metric)
            elif get_metric_provider(metric.metric_name, self)[1] is not None:
                direct.append(metric)
            elif metric.metric_name != "table.row_count":
                aggregates.append(metric)
            elif metric.metric_domain_kwargs.get("row_condition"):
                counts.append(metric)
            else:
                values[metric.id] = self._result(metric, self._rows)
        for metric in repeats:
            if metric.id not in self._repeats:
                self._repeats[metric.id] = self._start(partial(self._repeated, metric))
        if due := direct or counts or self._computable(aggregates, metrics):
            return values | super().resolve_metrics(due, metrics, runtime_configuration)
        return values or {metric.id: self._result(metric, self._repeats.pop(metric.id)) for metric in repeats}

    def resolve_metric_bundle(self, metric_fn_bundle: Iterable[Any]) -> Any:
        """The values of aggregates, by metric id, computed in parallel jobs."""
        domains: dict[Any, list[Any]] = {}
        for metric in metric_fn_bundle:
            domains.setdefault(IDDict(metric.compute_domain_kwargs or {}).to_id(), []).append(metric)
        parts = [part for domain in domains.values() for part in _parts(sorted(domain, key=_column))]
        compute, values = super().resolve_metric_bundle, dict[Any, Any]()
        for job in [self._start(partial(compute, part)) for part in parts]:
            values |= job.result()
        for metric in values:  # Spark's sum over no rows is null
            if values[metric] is None and metric.metric_name.endswith(".unexpected_count"):
                values[metric] = 0
        return values

    def _start(self, work: Callable[[], Any]) -> Future[Any]:
        """Run work in the pool, with the Spark local properties (such as the job group) of this thread."""
        return self._pool.submit(inheritable_thread_target(self.dataframe.sparkSession)(work))

    def _repeated(self, metric: MetricConfiguration) -> int:
        """The number of rows whose key is not unique; as in Great Expectations, a null in a key of one column is not counted."""
        domain = metric.metric_domain_kwargs
        rows, names = self.get_domain_records(dict(domain)), domain.get("column_list") or [domain["column"]]
        if "column" in domain:
            rows = rows.where(F.col(names[0]).isNotNull())
        return rows.groupBy(*names).agg(F.count("*").alias("n")).where("n > 1").agg(F.sum("n")).collect()[0][0] or 0

    def _result(self, metric: MetricConfiguration, count: Future[int]) -> int:
        """The count of a background job; MetricResolutionError if the job failed."""
        try:
            return count.result()
        except Exception as error:
            raise MetricResolutionError(str(error), (metric,)) from error

    def _computable(self, aggregates: list[MetricConfiguration], metrics: Any) -> list[MetricConfiguration]:
        """The aggregates that Spark can analyze, without running any; if there is none, the first, so that its error is raised."""
        columns = [metrics[m.metric_dependencies["metric_partial_fn"].id][0] for m in aggregates]
        if not aggregates or self._analyses(*columns):
            return aggregates
        return [m for m, column in zip(aggregates, columns, strict=True) if self._analyses(column)] or aggregates[:1]

    def _analyses(self, *aggregates: Column) -> bool:
        try:
            self.dataframe.agg(*aggregates)
        except AnalysisException:
            return False
        return True


def _parts(metrics: list[Any]) -> Iterator[list[Any]]:
    """The metrics in their order, in the fewest parts of at most `_AGGREGATES_A_JOB`, of about equal size."""
    size = ceil(len(metrics) / ceil(len(metrics) / _AGGREGATES_A_JOB))
    yield from (metrics[i : i + size] for i in range(0, len(metrics), size))


def _column(metric: Any) -> str:
    """The column that an aggregate reads, the first one if it reads several."""
    configuration = metric.metric_configuration
    named = re.search("`([^`]+)`", configuration.metric_value_kwargs.get("aggregate") or "")
    return str(configuration.metric_domain_kwargs.get("column") or (named and named[1]) or "")


class OneScanSpark(SparkDatasource):
    """A Spark data source with this engine. Defining the class registers ``add_one_scan_spark`` in Great Expectations."""

    type: Literal["one_scan_spark"] = "one_scan_spark"  # type: ignore[assignment] # each class has its own literal

    execution_engine_override: ClassVar[Any] = OneScanEngine
