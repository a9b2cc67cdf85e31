"""Which records of a batch make it fail: found by halving its ranges, so that the others are not held up."""

from __future__ import annotations

from collections.abc import Callable

from pyspark.sql import DataFrame

from pipelines.ingest.offsets import Range
from pipelines.lake.spark_jvm import SPARK_ERRORS

MOST_READS = 60  # reads spent on it; ranges that still fail then are taken as bad, whole


def can_be_computed(rows: DataFrame) -> bool:
    """Whether every row can be computed; none is written."""
    try:
        rows.write.format("noop").mode("overwrite").save()
    except SPARK_ERRORS:
        return False
    return True


def find_bad_ranges(ranges: tuple[Range, ...], can_take: Callable[[Range], bool]) -> tuple[Range, ...]:
    """The smallest ranges that cannot be taken, in order."""
    todo, bad, reads = list(ranges), [], 0
    while todo:
        tried = todo.pop()
        reads += 1
        if can_take(tried):
            continue
        if tried.end - tried.start == 1 or reads >= MOST_READS:
            bad.append(tried)
        else:
            middle = (tried.start + tried.end) // 2
            todo += [tried._replace(end=middle), tried._replace(start=middle)]
    return tuple(sorted(bad))


def subtract_ranges(ranges: tuple[Range, ...], bad: tuple[Range, ...]) -> tuple[Range, ...]:
    """What is left of ranges, in order, once the bad ones are cut out."""
    good: list[Range] = []
    for whole in ranges:
        start = whole.start
        for hole in bad:
            if hole[:2] == whole[:2] and whole.start <= hole.start < whole.end:
                if start < hole.start:
                    good.append(whole._replace(start=start, end=hole.start))
                start = hole.end
        if start < whole.end:
            good.append(whole._replace(start=start))
    return tuple(good)
