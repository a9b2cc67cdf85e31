"""The gate's composing rules that count a row, and by how much a merge changes their counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import reduce
from operator import or_

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from quality.conditions import FAILED, TRUE, tried
from quality.gate_rules import composing_rules
from schemas.dataset import Dataset


def counting_rules(events: DataFrame, dataset: Dataset) -> Column:
    """The names of the composing rules that count a row; null if none does, or if the event is a delete.

    If a contract's own SQL fails for a row, the row counts under the rule's name followed by "?". A rule whose SQL Spark cannot
    analyse is left out here; the gate reports it.
    """
    rules = list(_conditions(events, dataset))
    if not rules:
        return F.lit(None).cast("array<string>")
    any_counts = reduce(or_, (condition for _, condition in rules))  # one condition, since no rule counts most rows
    named = F.array_compact(F.array(*(F.when(condition, F.lit(name)) for name, condition in rules)))
    return F.when(~F.col("_deleted") & any_counts, named).cast("array<string>")


def _conditions(events: DataFrame, dataset: Dataset) -> Iterator[tuple[str, Column]]:
    """Each composing rule with the condition under which it counts a row."""
    contract_sql = {rule.name for rule in dataset.rules if rule.type == "sql"}
    for name, condition in composing_rules(dataset):
        if name not in contract_sql:
            yield name, F.coalesce(F.expr(condition), F.lit(False))
            continue
        result = F.expr(f"CASE WHEN NOT _deleted THEN {tried(condition)} END")
        with suppress(AnalysisException):
            events.select(result)
            yield name, F.coalesce(result == F.lit(TRUE), F.lit(False))
            yield f"{name}?", F.coalesce(result == F.lit(FAILED), F.lit(False))


def count_changes(winners: DataFrame) -> dict[str, int]:
    """The change of each composing rule's count, negative where it counts fewer rows; unchanged rules are left out."""
    plus = F.transform(F.coalesce("_broken", F.array()), lambda rule: F.struct(rule.alias("rule"), F.lit(1).alias("n")))
    minus = F.transform(
        F.coalesce("_was_broken", F.array()), lambda rule: F.struct(rule.alias("rule"), F.lit(-1).alias("n"))
    )
    each = winners.select(F.inline(F.concat(plus, minus)))
    return {row["rule"]: row["n"] for row in each.groupBy("rule").agg(F.sum("n").alias("n")).collect() if row["n"]}
