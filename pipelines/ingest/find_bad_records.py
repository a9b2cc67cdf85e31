"""Find the records that make a batch fail, by halving its offset ranges, so that all others can be ingested."""

from __future__ import annotations

from collections.abc import Callable

from pyspark.sql import DataFrame

from pipelines.ingest.offsets import Range
from pipelines.lake.spark_jvm import SPARK_ERRORS

MOST_READS = 60  # test reads; after that a range that fails is bad as a whole


def can_be_computed(rows: DataFrame) -> bool:
    """Whether Spark can compute every row. Nothing is written."""
    try:
        rows.write.format("noop").mode("overwrite").save()
    except SPARK_ERRORS:
        return False
    return True


def find_bad_ranges(ranges: tuple[Range, ...], is_good: Callable[[Range], bool]) -> tuple[Range, ...]:
    """The smallest ranges found for which `is_good` is false, sorted. At most MOST_READS ranges are halved."""
    todo, bad, reads = list(ranges), [], 0
    while todo:
        tried = todo.pop()
        reads += 1
        if is_good(tried):
            continue
        if tried.end - tried.start == 1 or reads >= MOST_READS:
            bad.append(tried)
        else:
            middle = (tried.start + tried.end) // 2
            todo += [tried._replace(end=middle), tried._replace(start=middle)]
    return tuple(sorted(bad))


def subtract_ranges(ranges: tuple[Range, ...], bad: tuple[Range, ...]) -> tuple[Range, ...]:
    """The ranges without the bad ones, in order."""
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
