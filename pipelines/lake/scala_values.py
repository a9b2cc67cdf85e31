"""Scala's options, sequences and maps, as the methods of Spark and Delta take and give them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pyspark.sql import SparkSession

from pipelines.lake.spark_jvm import java


def none(spark: SparkSession) -> Any:
    """An empty Option."""
    return java(spark, "scala.Option").empty()


def to_seq(spark: SparkSession, items: Iterable[Any]) -> Any:
    """A Seq of these items."""
    listed = java(spark, "java.util.ArrayList")()
    for item in items:
        listed.add(item)
    return _as_scala(spark, listed).toSeq()


def to_map(spark: SparkSession, items: Mapping[str, Any]) -> Any:
    """An immutable Map of these items."""
    mapped = java(spark, "java.util.HashMap")()
    for key, item in items.items():
        mapped.put(key, item)
    return getattr(java(spark, "scala.collection.immutable.Map"), "from")(_as_scala(spark, mapped))


def to_list(sequence: Any) -> list[Any]:
    """The items of a Seq."""
    return [sequence.apply(i) for i in range(sequence.size())]


def _as_scala(spark: SparkSession, collection: Any) -> Any:
    return java(spark, "scala.jdk.javaapi.CollectionConverters").asScala(collection)
