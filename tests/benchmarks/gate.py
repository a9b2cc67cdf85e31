"""The gate: a judgement of 260 expectations on 172 columns, compared with plain Spark and with Great Expectations alone."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import great_expectations as gx
from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
from pyspark.sql import functions as F

from infra.jvm.spark import spark_session
from infra.settings import Settings
from pipelines.lake.table_schemas import NOT_ANSI
from quality.gate import judge
from quality.gate_rules import composing_rules, gate_rules, key_rule
from schemas.contract import parse_contract
from schemas.dataset import Dataset
from tests.benchmarks.rows import Row, in_turns, jobs, timed

ROWS, QUICK_ROWS = 420_000, 20_000
COLUMNS, EXPECTATIONS = 172, 260
WORDS = ("增长", "下降", "持平", "停报")
HEAD = """\
apiVersion: v3.1.0
kind: DataContract
id: bench.economy
version: 1.0.0
status: active
schema:
  - name: economy
    properties:
      - {name: id, logicalType: string, primaryKey: true, required: true}
      - {name: district_code, logicalType: string, required: true}
"""
LIMITED = {  # for each kind of column: how many, their declaration, the SQL of their values
    "whole": (60, "logicalType: integer, physicalType: bigint", "pmod(id * {n}, 1000)"),
    "amount": (60, "logicalType: number, physicalType: 'decimal(18,2)'", "cast(pmod(id * {n}, 9973) / 100 AS decimal(18,2))"),
    "word": (50, "logicalType: string", "element_at(array{words}, cast(pmod(id + {n}, 4) + 1 AS int))"),
}  # fmt: skip


def contract() -> Dataset:
    """172 required columns, 87 of them with a limit, a list or a pattern; with the key's uniqueness 260 expectations."""
    lines, n = [], 0
    for kind, (count, declared, _) in LIMITED.items():
        for i in range(count):
            n += 1
            limit = ""
            if kind == "whole" and i < 30:
                limit = (
                    ", logicalTypeOptions: {minimum: 0, maximum: 999}"
                    if i < 7
                    else ", logicalTypeOptions: {minimum: 0}"
                )
            if kind == "amount" and i < 30:
                limit = ", logicalTypeOptions: {minimum: 0}"
            if kind == "word" and i < 20:
                limit = (
                    f", quality: [{{name: word{n}_known, metric: invalidValues, mustBe: 0, arguments: "
                    f"{{validValues: [{', '.join(WORDS)}]}}}}]"
                    if i < 10
                    else ", logicalTypeOptions: {pattern: '^.{2}$'}"
                )
            lines.append(f"      - {{name: {kind}{n}, {declared}, required: true{limit}}}\n")
    found = parse_contract(HEAD + "".join(lines), "economy.yaml")
    assert len(found.fields) == COLUMNS, len(found.fields)
    assert len(gate_rules(found)) == EXPECTATIONS, len(gate_rules(found))
    return found


def make_table(spark: Any, path: str, rows: int) -> Any:
    """Make the Delta table; returns the candidate that reads it."""
    words, n = "('" + "', '".join(WORDS) + "')", 0
    columns = ["concat('k', lpad(string(id), 9, '0')) AS id", "string(440103 + id % 11) AS district_code"]
    for kind, (count, _, sql) in LIMITED.items():
        for _ in range(count):
            n += 1
            columns.append(f"{sql.format(n=n, words=words)} AS {kind}{n}")
    spark.range(0, rows, 1, 4).selectExpr(*columns).write.format("delta").save(path)
    return spark.read.format("delta").load(path)


def null_counts(frame: Any) -> None:
    """One Spark query: how many values of each column are null."""
    frame.agg(*[F.count_if(F.col(name).isNull()) for name in frame.columns]).collect()


def same_counts(frame: Any, dataset: Dataset) -> None:
    """One Spark query for what the 260 expectations ask: the count of bad rows for each, and of distinct keys."""
    counts = [F.expr(f"count(*) - count(DISTINCT `{dataset.key[0]}`)")]
    counts += [F.expr(f"count_if({rule.counts})") for rule in gate_rules(dataset)[1:]]
    frame.agg(*counts).collect()


def by_itself(frame: Any, dataset: Dataset) -> None:
    """Great Expectations as its documentation shows: a whole-frame batch, its own expectations, BOOLEAN_ONLY."""
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}  # type: ignore[assignment] # as its documentation shows
    asset = context.data_sources.add_spark(uuid.uuid4().hex, persist=False).add_dataframe_asset("economy")
    batch = asset.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": frame})
    configs = [rule.config() for rule in gate_rules(dataset)]
    for config, rule in zip(configs, gate_rules(dataset), strict=True):
        if config["type"] == "expect_aggregate_value":  # the amounts' minimum, as its own expectation
            config |= {
                "type": "expect_column_values_to_be_between",
                "kwargs": {"column": rule.column, "min_value": 0},
            }
    suite = gx.ExpectationSuite(
        "economy", expectations=[ExpectationConfiguration(**c).to_domain_obj() for c in configs]
    )
    found = batch.validate(suite, result_format={"result_format": "BOOLEAN_ONLY"})
    assert found.success, found
    assert len(found.results) == EXPECTATIONS


def run(quick: bool) -> Iterator[Row]:
    """The judgement compared with each peer."""
    rows, runs = (QUICK_ROWS, 2) if quick else (ROWS, 5)
    dataset = contract()
    with TemporaryDirectory() as folder:
        spark = spark_session(Settings(home=Path(folder)))
        spark.conf.set(*NOT_ANSI)  # as a release judges
        frame = make_table(spark, f"{folder}/economy", rows)

        def ours() -> None:
            verdict = judge(frame, dataset, 1)
            assert verdict.passed, verdict.failures
            assert (verdict.rows, len(verdict.results)) == (rows, EXPECTATIONS)

        sides: list[Callable[[], object]] = [ours, lambda: null_counts(frame), lambda: same_counts(frame, dataset)]
        for side in sides:  # a first run, because loading and compiling are not part of a judgement
            side()
        mine, nulls, same = in_turns(runs, *[partial(timed, side) for side in sides])
        size = f"{rows:,} × {COLUMNS}, {EXPECTATIONS} expectations"
        yield Row(
            "gate.full", f"full judgement of {size}", mine, "s", "lower", 1.5, nulls, "Spark: null counts of all columns",
            note="The peer is one aggregation of the null counts of the same 172 columns of the same Delta version, what "
            "'one native pass over the same columns' means; it checks no limit, list or pattern and no uniqueness. "
            "Ours is the whole of quality.gate.judge, from the contract to the hashed verdict. All in one warm process.",
        )  # fmt: skip
        yield Row(
            "gate.same_counts", f"full judgement of {size}", mine, "s", "lower", None, same, "Spark: all 260 counts",
            note="The peer is one aggregation that counts what the same 260 rules count, distinct keys included, and "
            "makes no verdict.",
        )  # fmt: skip
        once = [timed(lambda: by_itself(frame, dataset))]
        yield Row(
            "gate.great_expectations", f"full judgement of {size}", mine, "s", "lower", None, once,
            "Great Expectations by itself, BOOLEAN_ONLY",
            note="The peer runs once: Great Expectations' own expectations for the same 260 rules, its own Spark engine, "
            "no samples, persist=False, in the same warm process.",
        )  # fmt: skip
        known = {name: 0 for name, _ in composing_rules(dataset)} | {key_rule(dataset): 0}

        def carried() -> None:
            verdict = judge(frame, dataset, 1, known, rows)
            assert verdict.passed, verdict.failures
            assert len(verdict.carried) == EXPECTATIONS

        yield Row(
            "gate.carried", f"judgement of {EXPECTATIONS} counts carried from merges", [timed(carried) for _ in range(runs)],
            "s", "lower", None, mine, f"full judgement of {rows:,} × {COLUMNS}",
            note="Ours is quality.gate.judge with the counts of all rules known: it looks at no row, whatever the table's "
            "size, and runs no Spark job. What the merge spends to keep the counts is not in it.",
        )  # fmt: skip
        assert jobs(spark, carried) == 0
        count = jobs(spark, ours)
        yield Row("gate.jobs", f"Spark jobs of a full judgement, {size}", [count], "jobs", "lower", None)
