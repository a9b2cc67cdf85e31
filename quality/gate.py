"""Judge a candidate version of a dataset by its contract's rules, with Great Expectations."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from threading import Lock
from typing import TYPE_CHECKING, Any

from quality.conditions import ALL_ROWS
from quality.gate_rules import GateRule, gate_rules, suite
from quality.loading import load_great_expectations
from quality.verdict import Result, Verdict
from schemas.dataset import Dataset
from schemas.errors import first_line

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_VIEW = "suibus_candidate"
_MESSAGE = 500  # the most characters of an error that a verdict keeps
_gx_lock = Lock()  # Great Expectations has one context for all threads of the process
_Outcome = tuple[bool, Any, str | None]  # whether the rule holds, what was observed, why it could not be judged


def judge(
    candidate: DataFrame,
    dataset: Dataset,
    silver_version: int,
    carried_counts: Mapping[str, int] | None = None,
    rows: int | None = None,
) -> Verdict:
    """The verdict on a candidate, which has one row per key and the contract's columns, without deleted rows.

    A rule that cannot be judged, because its SQL or its expectation fails, counts as failed, and its result has the error.
    Samples are queried afterwards and only for failed rules, since Great Expectations would need one Spark job per rule.
    RuntimeError if the candidate's rows cannot be counted.

    `carried_counts` has counts over the whole candidate by rule name, which merges keep up to date: those of rules that
    compose (`quality.gate_rules.composing_rules`) and, if the merge guarantees one row per key, 0 for `key_rule`. If `rows`, the
    number of all rows, is given too, these rules and those on the row count are decided from the counts, with the same
    result as in Great Expectations, which judges only the other rules. Unknown names are ignored.
    """
    started = time.monotonic()
    spark = candidate.sparkSession
    rules = gate_rules(dataset)
    outcomes = _decide_by_counts(rules, carried_counts or {}, rows)
    carried = tuple(rules[i].name for i in outcomes)
    candidate.createOrReplaceTempView(_VIEW)
    if rows is None or len(outcomes) < len(rules):
        with _gx_lock:
            started = time.monotonic()  # do not count the time spent waiting for the lock
            rows, judged = _validate(candidate, {i: rule for i, rule in enumerate(rules) if i not in outcomes}, rows)
        outcomes |= judged
    results = []
    for i, rule in enumerate(rules):
        success, observed, error = outcomes[i]
        samples: tuple[dict[str, Any], ...] = ()
        if not success and rule.samples and error is None:
            failing = spark.sql(rule.samples.format(batch=_VIEW)).collect()
            samples = tuple(row.asDict(recursive=True) for row in failing)
        results.append(
            Result(
                rule.name,
                rule.severity,
                success,
                rule.expectation,
                rule.kwargs,
                observed,
                samples,
                error,
                rule.description,
            )
        )
    spark.catalog.dropTempView(_VIEW)
    return Verdict(
        dataset=dataset.id,
        contract_version=dataset.version,
        contract_sha256=dataset.hash,
        suite_sha256=hashlib.sha256(json.dumps(suite(dataset), sort_keys=True, default=str).encode()).hexdigest(),
        silver_version=silver_version,
        rows=rows,
        passed=all(r.success for r in results if r.severity == "critical"),
        results=tuple(results),
        judged_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        seconds=round(time.monotonic() - started, 3),
        versions={"great_expectations": version("great-expectations"), "spark": spark.version},
        carried=carried,
    )


def _decide_by_counts(
    rules: tuple[GateRule, ...], carried_counts: Mapping[str, int], rows: int | None
) -> dict[int, _Outcome]:
    """The outcomes that carried counts decide, by the index of the rule; none if the number of rows is not known."""
    if rows is None:
        return {}
    counts = {i: carried_counts.get(rule.name) if rule.counts != ALL_ROWS else rows for i, rule in enumerate(rules)}
    usable = {i: n for i, n in counts.items() if n is not None and (rules[i].counts or i == 0)}  # 0: the key rule
    return {i: (*rules[i].decide(n, rows), None) for i, n in usable.items()}


def _validate(candidate: DataFrame, rules: Mapping[int, GateRule], rows: int | None) -> tuple[int, dict[int, _Outcome]]:
    """Judge rules with Great Expectations: the number of rows, counted if not given, and the outcome of each rule by its index.

    RuntimeError if the rows cannot be counted.
    """
    gx = load_great_expectations()
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    from quality.expectations import cache_configurations

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_one_scan_spark("suibus", persist=False).add_dataframe_asset("candidate")
    batch = asset.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": candidate})
    outcomes: dict[int, _Outcome] = dict.fromkeys(rules, (False, None, "not judged"))
    count = {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 0}, "meta": {"index": -1}}
    configs: list[dict[str, Any]] = [] if rows is not None else [count]
    configs += [{**rule.config(), "meta": {"index": i}} for i, rule in rules.items()]
    expectations = []
    for config in configs:
        try:
            expectations.append(ExpectationConfiguration(**config).to_domain_obj())
        except Exception as error:  # the expectation in the contract has a wrong name or argument
            outcomes[config["meta"]["index"]] = (False, None, first_line(error)[:_MESSAGE])
    with cache_configurations():
        validation = batch.validate(
            gx.ExpectationSuite(name="candidate", expectations=expectations),
            result_format={"result_format": "BASIC", "partial_unexpected_count": 0},
        )
    for item in validation.results:
        index = item.expectation_config.meta["index"]
        observed = item.result.get("observed_value", item.result.get("unexpected_count"))
        failed = _exception(item.exception_info)
        if index == -1:
            if failed:
                raise RuntimeError(failed)
            rows = int(observed)
        else:
            outcomes[index] = (bool(item.success), observed, failed)
    return rows or 0, outcomes


def _exception(info: Any) -> str | None:
    """The first line of the first exception in Great Expectations' `exception_info`; None if there was none.

    It holds one exception, or one for each metric of the expectation.
    """
    if not info:
        return None
    caught = [info] if "raised_exception" in info else list(info.values())
    raised = [i for i in caught if i.get("raised_exception")]
    return first_line(raised[0].get("exception_message"))[:_MESSAGE] if raised else None
