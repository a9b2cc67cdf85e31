"""The parts of Great Expectations beyond its public API that the gate uses exist: an upgrade that changes them fails here, in a second."""

from __future__ import annotations

import ast
import importlib
import inspect
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from quality.loading import load_great_expectations

MODULES = ("quality/one_scan.py", "quality/expectations.py")
ENGINE = "execution_engine.sparkdf_execution_engine.SparkDFExecutionEngine"
METRIC = "validator.metric_configuration.MetricConfiguration"
EXPECTATION = "expectations.expectation"
USED: dict[
    str, dict[str, list[str] | None]
] = {  # by class or function: its members, with the parameters of its methods
    "core.id_dict.IDDict": {"to_id": ["self", "id_keys", "id_ignore_keys"]},
    "core.metric_domain_types.MetricDomainTypes": {"TABLE": None},
    "core.metric_function_types.MetricPartialFunctionTypes": {"AGGREGATE_FN": None},
    "datasource.fluent.spark_datasource.SparkDatasource": {"execution_engine_override": None},
    "exceptions.exceptions.MetricResolutionError": {"__init__": ["self", "message", "failed_metrics"]},
    ENGINE: {
        "dataframe": None,
        "get_domain_records": ["self", "domain_kwargs"],
        "load_batch_data": ["self", "batch_id", "batch_data"],
        "resolve_metric_bundle": ["self", "metric_fn_bundle"],
        "resolve_metrics": ["self", "metrics_to_resolve", "metrics", "runtime_configuration"],
    },
    f"{EXPECTATION}.Expectation": {"configuration": None},
    f"{EXPECTATION}.BatchExpectation": {
        "_validate": ["self", "metrics", "runtime_configuration", "execution_engine"],
        "domain_keys": None,
        "metric_dependencies": None,
        "success_keys": None,
    },
    f"{EXPECTATION}.QueryExpectation": {
        "_validate": ["self", "metrics", "runtime_configuration", "execution_engine"],
        "domain_keys": None,
        "metric_dependencies": None,
        "success_keys": None,
    },
    "expectations.metrics.metric_provider.metric_partial": {
        "__call__": ["engine", "partial_fn_type", "domain_type", "kwargs"]
    },
    "expectations.metrics.table_metric_provider.TableMetricProvider": {"value_keys": None},
    "expectations.registry.get_metric_provider": {"__call__": ["metric_name", "execution_engine"]},
    METRIC: dict.fromkeys(("id", "metric_dependencies", "metric_domain_kwargs", "metric_name", "metric_value_kwargs")),
}


@pytest.fixture(scope="module", autouse=True)
def gx() -> ModuleType:
    return load_great_expectations()


def part(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(f"great_expectations.{module}"), name)


@pytest.mark.parametrize("path", USED, ids=lambda p: p.rpartition(".")[2])
def test_each_part_that_is_used_is_there_with_its_parameters(path: str) -> None:
    owner = part(path)
    for name, parameters in USED[path].items():
        member = owner if name == "__call__" else getattr(owner, name)
        if parameters is not None:
            assert list(inspect.signature(member).parameters) == parameters, f"{path}.{name}"


def test_every_import_from_great_expectations_is_checked_here() -> None:
    imported = set()
    for file in MODULES:
        for node in ast.walk(ast.parse((Path(__file__).parents[3] / file).read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("great_expectations"):
                imported |= {f"{node.module.removeprefix('great_expectations.')}.{a.name}" for a in node.names}
    assert imported == set(USED)


def test_an_aggregate_is_given_its_metric_and_domain_and_its_value_is_found_by_a_named_id() -> None:
    computation = {f.name for f in fields(part("execution_engine.execution_engine.MetricComputationConfiguration"))}
    assert {"metric_configuration", "metric_fn", "compute_domain_kwargs"} <= computation
    assert part(METRIC)("table.row_count", {}, {}).id.metric_name == "table.row_count"


@pytest.mark.parametrize(
    "metric",
    [
        "column_values.unique.unexpected_count",
        "compound_columns.unique.unexpected_count",
        "table.row_count",
        "query.table",
    ],
)
def test_each_metric_that_is_named_exists(metric: str) -> None:
    assert "metric_domain_keys" in part("expectations.registry.get_metric_kwargs")(metric)


def test_configuration_of_an_expectation_is_a_property_that_can_be_replaced_and_comes_back() -> None:
    from quality.expectations import ExpectAggregateValue, cache_configurations

    expectation = ExpectAggregateValue(aggregate="count(*)", operator="mustBe", threshold=1)
    original = part(f"{EXPECTATION}.Expectation").configuration
    with cache_configurations():
        assert expectation.configuration is expectation.configuration
        assert expectation.configuration.kwargs["aggregate"] == "count(*)"
    assert expectation.configuration is not expectation.configuration
    assert part(f"{EXPECTATION}.Expectation").configuration is original


def test_engine_and_expectations_are_registered(gx: ModuleType) -> None:
    assert gx.get_context(mode="ephemeral").data_sources.add_one_scan_spark
    for name in ("expect_aggregate_value", "expect_query_value"):
        assert part("expectations.registry.get_expectation_impl")(name).__module__ == "quality.expectations"
