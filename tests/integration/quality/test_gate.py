"""The gate: how many jobs a judgement costs, and that a rule that cannot be judged does not affect the others."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import pytest
from pyspark.sql import DataFrame, SparkSession

from quality.gate import judge
from schemas.contract import parse_contract
from schemas.dataset import Dataset
from tests.benchmarks.rows import jobs

CONTRACT = """\
apiVersion: v3.1.0
kind: DataContract
id: test.gate
version: 1.0.0
status: active
schema:
  - name: gate
    properties:
      - {{name: id, logicalType: string, primaryKey: true, required: true}}
{columns}
    quality:
{rules}
customProperties:
  - {{property: suibus.sharing, value: unconditional}}
"""


def contract(columns: int, *rules: str) -> Dataset:
    """A dataset with a key and this many numbers, each of them required, limited and checked three times."""
    listed = "\n".join(
        f"""\
      - name: c{i}
        logicalType: integer
        required: true
        logicalTypeOptions: {{minimum: 0, maximum: 99}}
        quality:
          - {{name: c{i}_mostly_small, metric: invalidValues, arguments: {{validValues: [1, 2, 3]}}, unit: percent,
             mustBeLessThan: 50, severity: warning}}
          - {{name: c{i}_mean, type: sql, query: "SELECT avg(${{property}}) FROM ${{object}}", mustBeBetween: [0, 50]}}
          - {{name: c{i}_not_13, type: sql, query: "SELECT COUNT(*) FROM ${{object}} WHERE c{i} = 13", mustBe: 0}}"""
        for i in range(columns)
    )
    stated = "\n".join(f"      - {rule}" for rule in ("{name: some, metric: rowCount, mustBeGreaterThan: 0}", *rules))
    return parse_contract(CONTRACT.format(columns=listed, rules=stated), "gate.yaml")


def frame(spark: SparkSession, columns: int) -> DataFrame:
    """Four rows; c0 is 1, 2, 13 and 120, the other columns 2."""
    names = ["id", *(f"c{i}" for i in range(columns))]
    return spark.createDataFrame([(f"k{n}", c, *[2] * (columns - 1)) for n, c in enumerate((1, 2, 13, 120))], names)


def test_each_rule_is_judged_by_its_own_measure(spark: SparkSession) -> None:
    verdict = judge(frame(spark, 2), contract(2), 1)
    assert verdict.rows == 4
    assert {r.rule: r.observed for r in verdict.results} == {
        "key_is_unique": 0, "id_is_given": 0, "some": 4,
        "c0_is_given": 0, "c0_minimum": 0, "c0_maximum": 1, "c0_mostly_small": 50.0, "c0_mean": 34.0, "c0_not_13": 1,
        "c1_is_given": 0, "c1_minimum": 0, "c1_maximum": 0, "c1_mostly_small": 0.0, "c1_mean": 2.0, "c1_not_13": 0,
    }  # fmt: skip
    assert {r.rule: [s["id"] for s in r.samples] for r in verdict.failures} == {
        "c0_maximum": ["k3"], "c0_not_13": ["k2"], "c0_mostly_small": ["k2", "k3"],
    }  # fmt: skip
    assert not verdict.passed


def test_a_candidate_is_judged_in_its_own_session(spark: SparkSession) -> None:
    judge(frame(spark, 2), contract(2), 1)  # another candidate, in the first session of the process
    verdict = judge(_clean(spark.newSession(), 2), contract(2), 1)
    assert {r.rule: (r.observed, r.error) for r in verdict.results if r.rule.endswith("_mean")} == {
        "c0_mean": (2.0, None), "c1_mean": (2.0, None),
    }  # fmt: skip


def test_more_rules_cost_no_more_jobs_up_to_what_spark_compiles_in_one(spark: SparkSession) -> None:
    def judged(columns: int) -> None:
        assert judge(_clean(spark, columns), contract(columns), 1).passed

    few, many, more = (jobs(spark, partial(judged, n)) for n in (1, 14, 20))
    assert few == many == 7  # two for the rows, two for the aggregates, three for repeated keys
    assert more == many + 2  # 122 aggregates are two jobs of 61, each with an exchange


def test_a_rule_that_cannot_be_judged_fails_alone_and_says_why(spark: SparkSession) -> None:
    broken = contract(
        1,
        '{name: no_such_column, type: sql, query: "SELECT max(nothing) FROM ${object}", mustBe: 0}',
        '{name: at_run_time, type: sql, query: "SELECT max(raise_error(id)) FROM ${object}", mustBe: 0}',
    )
    verdict = judge(_clean(spark, 1), broken, 1)
    assert verdict.rows == 4
    failures = {r.rule: str(r.error) for r in verdict.failures}
    assert set(failures) == {"no_such_column", "at_run_time"}
    assert "nothing" in failures["no_such_column"]
    assert "USER_RAISED_EXCEPTION" in failures["at_run_time"]


def test_a_candidate_whose_rows_cannot_be_counted_is_reported_with_sparks_reason(spark: SparkSession) -> None:
    candidate = frame(spark, 1).where("raise_error('no such file') IS NULL")
    with pytest.raises(RuntimeError, match="no such file"):
        judge(candidate, contract(1), 1)


def _clean(spark: SparkSession, columns: int) -> DataFrame:
    return frame(spark, columns).replace({13: 3, 120: 2}, subset=["c0"])


def test_the_gate_works_in_a_program_that_has_no_file() -> None:
    program = "from quality.loading import load_great_expectations as load; load(); print('went on', hasattr(__import__('__main__'), '__file__'))"
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert said.stdout == "went on False\n"
