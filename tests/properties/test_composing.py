"""Rules that compose: a verdict from their counts is the same text as the verdict from all rows."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pipelines.lake import table_schemas as tables
from quality.gate import judge
from quality.gate_rules import composing_rules, gate_rules, key_rule
from quality.verdict import Verdict
from schemas.dataset import Dataset, Field, Limits, Operator, Rule, Severity
from tests.benchmarks.rows import jobs

LARGE = 2**53 + 1  # a double cannot distinguish it from 2**53
WORDS = ("a", "ab", "abc", "无", "", "it's", "{1}")
FIELDS = (
    Field("id", "string", True),
    Field("word", "string", True, limits=Limits(min_length=1, max_length=2, pattern="^[a-z]")),
    Field("whole", "long", limits=Limits(minimum=0, maximum=9, multiple_of=2)),
    Field("small", "int", limits=Limits(exclusive_minimum=0, exclusive_maximum=9)),
    Field("large", "long", True, limits=Limits(minimum=-LARGE, maximum=LARGE)),
    Field("amount", "decimal", precision=6, scale=2, limits=Limits(minimum=Decimal("0.10"), maximum=Decimal("5.00"))),
    Field("ratio", "double", limits=Limits(maximum=Decimal("0.5"))),
    Field("day", "date", limits=Limits(minimum=date(2020, 1, 3))),
    Field("at", "timestamp", limits=Limits(maximum=datetime(2020, 1, 3, tzinfo=UTC))),
    Field("lines", "array", limits=Limits(max_length=1), item=Field("item", "record", fields=(
        Field("n", "int", limits=Limits(minimum=0)),))),
)  # fmt: skip
CONDITIONS = (
    "whole > small", "word = 'a' OR whole IS NULL", "NOT (ratio < 0.5)", "amount * 2 > whole", "day < date(at)",
    "word RLIKE 'a{1}'", "size(lines) = 0 -- none", "cast(word AS int) > 0",
)  # fmt: skip
OPERATORS: tuple[tuple[Operator, Any], ...] = (
    ("mustBe", 0), ("mustBe", 2), ("mustNotBe", 0), ("mustBeGreaterThan", 1), ("mustBeGreaterOrEqualTo", 3),
    ("mustBeLessThan", 1), ("mustBeLessOrEqualTo", 2), ("mustBeBetween", [1, 4]), ("mustNotBeBetween", [1, 4]),
)  # fmt: skip


def dataset(random: random.Random, operators: Sequence[tuple[Operator, Any]] = OPERATORS) -> Dataset:
    """A dataset with each limit, and with each kind of rule and operator, in rows and in percent, of any severity."""
    units: tuple[Literal["rows", "percent"], ...] = ("rows", "percent")
    severities: tuple[Severity, ...] = ("critical", "warning", "info")
    rules: list[Rule] = []
    for operator, threshold in operators:
        valid = random.sample(WORDS, 3)
        word: Mapping[str, Any] = {"type": "library", "column": "word"}
        kinds: list[Mapping[str, Any]] = [
            {**word, "metric": "nullValues"},
            {**word, "metric": "missingValues", "arguments": {"missingValues": random.choice(([None, ""], valid))}},
            {**word, "metric": "invalidValues", "arguments": {"validValues": valid}},
            {**word, "metric": "invalidValues", "arguments": {"pattern": "^a"}},
            {**word, "metric": "invalidValues", "arguments": {"validValues": valid, "pattern": "b"}},
            {**word, "column": "whole", "metric": "invalidValues", "arguments": {"validValues": [1, 2, 3]}},
            {**word, "column": "day", "metric": "invalidValues", "arguments": {"validValues": [date(2020, 1, 2)]}},
            {"type": "sql", "query": f"SELECT COUNT(*) FROM ${{object}} WHERE {random.choice(CONDITIONS)}"},
            {"type": "sql", "query": f"SELECT count_if({random.choice(CONDITIONS[:-2])}) FROM ${{object}}"},
            {"type": "library", "metric": "rowCount"},
        ]
        for kind in kinds:
            unit = random.choice(units) if kind.get("metric") not in (None, "rowCount") else units[0]
            severity = random.choice(severities)
            made = Rule(f"r{len(rules)}", operator=operator, threshold=threshold, unit=unit, severity=severity, **kind)
            rules.append(made)
    return Dataset("t", "1.0.0", FIELDS, ("id",), None, None, "none", None, tuple(rules), "", "", "t.yaml", "")


def spark_schema(made: Dataset) -> T.StructType:
    """The columns as in silver, all nullable."""
    return T.StructType([T.StructField(field.name, field.dataType) for field in tables.spark_schema(made)])


def table(random: random.Random, rows: int) -> list[tuple[Any, ...]]:
    """Rows with allowed values, forbidden values and nulls."""
    start = datetime(2020, 1, 1, tzinfo=UTC)
    return [
        (
            f"k{n}",
            *(
                None if random.random() < 0.2 else value
                for value in (
                    random.choice(WORDS),
                    random.randint(-2, 12),
                    random.randint(-2, 12),
                    random.choice((0, LARGE, LARGE + 1, -LARGE, -LARGE - 1)),
                    Decimal(random.randint(-50, 600)) / 100,
                    random.choice((0.25, 0.5, 0.75, math.nan, math.inf)),
                    (start + timedelta(days=random.randint(0, 4))).date(),
                    start + timedelta(days=random.randint(0, 4)),
                    [(random.choice((None, -1, 1)),) for _ in range(random.randint(0, 2))],
                )
            ),
        )
        for n in range(rows)
    ]


def counted(frame: DataFrame, made: Dataset) -> dict[str, int]:
    """The count of each composing rule."""
    rules = composing_rules(made)
    found = frame.agg(*[F.expr(f"count_if({condition})").alias(f"c{i}") for i, (_, condition) in enumerate(rules)])
    return {name: count for (name, _), count in zip(rules, found.collect()[0], strict=True)}


def told(verdict: Verdict) -> list[str]:
    """The results as text, with failures in a fixed order."""
    ordered = [replace(r, samples=tuple(sorted(r.samples, key=str))) for r in verdict.results]
    return [json.dumps(asdict(result), sort_keys=True, default=str) for result in ordered]


@pytest.mark.parametrize(("rows", "operators"), [(0, OPERATORS), (12, OPERATORS[::2]), (18, OPERATORS[1::2])])
def test_counts_carried_decide_what_the_full_judgement_decides(spark: SparkSession, rows: int, operators: Any) -> None:
    spark.conf.set("spark.sql.ansi.enabled", "false")
    chance = random.Random(rows)
    made = dataset(chance, operators)
    frame = spark.createDataFrame(table(chance, rows), spark_schema(made)).coalesce(1)
    known = counted(frame, made) | {key_rule(made): 0}
    full = judge(frame, made, 1)
    assert full.carried == ()
    assert not [r for r in full.results if r.error]
    carried = judge(frame, made, 1, known, rows)
    assert told(carried) == told(full)
    assert carried.carried == tuple(rule.name for rule in gate_rules(made))
    assert (carried.rows, carried.passed, carried.suite_sha256) == (full.rows, full.passed, full.suite_sha256)
    some = dict(chance.sample(sorted(known.items()), len(known) // 2))
    part = judge(frame, made, 1, some, rows)
    assert told(part) == told(full)
    assert set(part.carried) == set(some) | {r.name for r in made.rules if r.metric == "rowCount"}


def test_the_counts_of_a_change_are_the_difference_of_the_counts(spark: SparkSession) -> None:
    spark.conf.set("spark.sql.ansi.enabled", "false")
    chance = random.Random(7)
    made = dataset(chance)
    before = {row[0]: row for row in table(chance, 20)}
    change = {row[0]: row for row in table(chance, 25)[15:]}  # five changed, five new
    schema = spark_schema(made)
    old, new, gone, come = (
        counted(spark.createDataFrame(rows, schema), made)
        for rows in (
            list(before.values()),
            list((before | change).values()),
            [before[key] for key in change if key in before],
            list(change.values()),
        )
    )
    assert new == {name: old[name] - gone[name] + come[name] for name in old}


def test_a_judgement_of_carried_counts_alone_runs_no_job(spark: SparkSession) -> None:
    made = Dataset("t", "1.0.0", FIELDS[:1], ("id",), None, None, "none", None, (), "", "", "t.yaml", "")
    frame = spark.range(3).selectExpr("string(id) AS id")

    def carried() -> None:
        verdict = judge(frame, made, 1, {"key_is_unique": 0, "id_is_given": 0}, 3)
        assert (verdict.passed, verdict.rows, len(verdict.carried)) == (True, 3, 2)

    assert jobs(spark, carried) == 0


def test_a_given_count_of_a_rule_that_does_not_compose_is_ignored(spark: SparkSession) -> None:
    mean = Rule("mean", "sql", query="SELECT avg(whole) FROM ${object}", operator="mustBeLessThan", threshold=1)
    made = Dataset("t", "1.0.0", FIELDS[:3], ("id",), None, None, "none", None, (mean,), "", "", "t.yaml", "")
    frame = spark.createDataFrame([("k", "a", 8)], spark_schema(made))
    verdict = judge(frame, made, 1, {**{name: 0 for name, _ in composing_rules(made)}, "mean": 0}, 1)
    (failure,) = verdict.failures
    assert (failure.rule, failure.observed) == ("mean", 8.0)
    assert set(verdict.carried) == {name for name, _ in composing_rules(made)}
