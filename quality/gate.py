"""Judging a candidate version of a dataset with Great Expectations, and the verdict that comes of it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from threading import Lock
from typing import TYPE_CHECKING, Any

from quality.rules import ALL_ROWS, GateRule, gate_rules, suite
from schemas.dataset import Dataset, Severity

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # no network use of its own
_VIEW = "suibus_candidate"
_judging = Lock()  # Great Expectations has one context for all threads
_Outcome = tuple[bool, Any, str | None]  # whether the rule holds, what was observed, why it could not be judged


@dataclass(frozen=True)
class Result:
    """What the gate found of one rule."""

    rule: str
    severity: Severity
    success: bool
    expectation: str
    parameters: dict[str, Any]  # what the expectation was told: column, limits, operator and threshold, or its SQL
    observed: Any  # a number: the value compared, or how many rows or values failed; None if it could not be judged
    samples: tuple[dict[str, Any], ...]  # of failures only
    error: str | None
    description: str


@dataclass(frozen=True)
class Verdict:
    """The record of one judgement: enough to prove what was checked, with what, and what was seen."""

    dataset: str
    contract_version: str
    contract_sha256: str
    suite_sha256: str
    silver_version: int
    rows: int
    passed: bool  # no critical rule failed
    results: tuple[Result, ...]
    judged_at: str  # ISO 8601, UTC
    seconds: float
    versions: dict[str, str]
    carried: tuple[str, ...] = ()  # rules decided by counts carried on from merge to merge; the others were judged now
    counted_at: str = ""  # when those were last counted in the rows themselves, ISO 8601, UTC; empty: now
    account_version: int = -1  # the version of the account that was found to close

    @property
    def failures(self) -> tuple[Result, ...]:
        """Every rule that failed, critical ones first."""
        order = {"critical": 0, "warning": 1, "info": 2}
        return tuple(sorted((r for r in self.results if not r.success), key=lambda r: order[r.severity]))

    def to_json(self) -> str:
        """The verdict as canonical JSON: sorted keys, no spaces; what `sha256` is taken of."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=str)

    @property
    def sha256(self) -> str:
        """The hash a release names."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def judge(
    candidate: DataFrame,
    dataset: Dataset,
    silver_version: int,
    known: Mapping[str, int] | None = None,
    rows: int | None = None,
) -> Verdict:
    """The verdict over a candidate: one row a key, contract columns, deleted rows left out.

    A rule that cannot be judged (its SQL or its expectation fails) counts as failed and carries the error.
    Samples are fetched afterwards, of failed rules only: asking Great Expectations for them costs it a job a rule.

    `known` has counts of the whole candidate, by rule name, carried on from merge to merge: of rules that compose
    (`quality.rules.composing_rules`) and, if merging keeps one row a key, 0 for `key_rule`. With `rows`, the number of all
    rows, these rules and those of the row count are decided without looking at the candidate, as Great Expectations would
    decide them of the same counts; it judges the rest. Names of other rules in `known` are not heeded.
    """
    started = time.monotonic()
    spark = candidate.sparkSession
    rules = gate_rules(dataset)
    outcomes = _carried(rules, known or {}, rows)
    carried = tuple(rules[i].name for i in outcomes)
    candidate.createOrReplaceTempView(_VIEW)
    if rows is None or len(outcomes) < len(rules):
        with _judging:
            started = time.monotonic()  # what it waited for others is not its own
            rows, judged = _validate(candidate, {i: rule for i, rule in enumerate(rules) if i not in outcomes}, rows)
        outcomes |= judged
    results = []
    for i, rule in enumerate(rules):
        success, observed, error = outcomes[i]
        samples: tuple[dict[str, Any], ...] = ()
        if not success and rule.samples and error is None:
            found = spark.sql(rule.samples.format(batch=_VIEW)).collect()
            samples = tuple(row.asDict(recursive=True) for row in found)
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


def _carried(rules: tuple[GateRule, ...], known: Mapping[str, int], rows: int | None) -> dict[int, _Outcome]:
    """What is decided by counts alone, by the rule's place; nothing without the number of rows."""
    if rows is None:
        return {}
    counts = {i: known.get(rule.name) if rule.counts != ALL_ROWS else rows for i, rule in enumerate(rules)}
    decided = {i: n for i, n in counts.items() if n is not None and (rules[i].counts or i == 0)}  # 0: the key's
    return {i: (*rules[i].decide(n, rows), None) for i, n in decided.items()}


def _gx() -> Any:
    with warnings.catch_warnings(), _main_has_a_file():
        warnings.simplefilter("ignore")
        import great_expectations as gx

        import quality.one_scan  # noqa: F401 - registers what it adds
    for name in ("great_expectations", "great_expectations.data_context.types.base"):  # the second sets its own level
        logging.getLogger(name).setLevel(logging.ERROR)
    return gx


@contextmanager
def _main_has_a_file() -> Iterator[None]:
    """Great Expectations looks for PySpark Connect, which takes a program without a file (`python -c`) for its own doctests and ends it."""
    main = sys.modules["__main__"]
    if hasattr(main, "__file__"):
        yield
        return
    main.__file__ = "-"
    try:
        yield
    finally:
        del main.__file__


def _validate(candidate: DataFrame, rules: Mapping[int, GateRule], rows: int | None) -> tuple[int, dict[int, _Outcome]]:
    """The row count, counted if not given, and the outcome of each rule by its place."""
    gx = _gx()
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    from quality.one_scan import configurations_made_once

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
        except Exception as error:  # a wrong name or argument in the contract's own expectation
            outcomes[config["meta"]["index"]] = (False, None, _first_line(error))
    with configurations_made_once():
        result = batch.validate(
            gx.ExpectationSuite(name="candidate", expectations=expectations),
            result_format={"result_format": "BASIC", "partial_unexpected_count": 0},
        )
    for item in result.results:
        index = item.expectation_config.meta["index"]
        found = item.result
        observed = found.get("observed_value", found.get("unexpected_count"))
        failed = _exception(item.exception_info)
        if index == -1:
            if failed:
                raise RuntimeError(failed)
            rows = int(observed)
        else:
            outcomes[index] = (bool(item.success), observed, failed)
    return rows or 0, outcomes


def _exception(info: Any) -> str | None:
    if not info:
        return None
    nested = [info] if "raised_exception" in info else list(info.values())
    raised = [i for i in nested if i.get("raised_exception")]
    return _first_line(raised[0].get("exception_message")) if raised else None


def _first_line(error: Any) -> str:
    return str(error).strip().splitlines()[0][:500] if str(error).strip() else repr(error)
