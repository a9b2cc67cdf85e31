"""Spark's JVM: access to a class by name, and the cause of a failed call."""

from __future__ import annotations

from typing import Any

from py4j.java_gateway import JavaClass
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException

from schemas.errors import first_line

SPARK_ERRORS = (PySparkException, Py4JJavaError)  # the errors that Spark and Delta raise


def java(spark: Any, name: str) -> Any:
    """A class of the JVM by its full name.

    `jvm.org.apache…` would look up each part of the name in every jar, which takes 1 ms and more.
    """
    return JavaClass(name, spark.sparkContext._gateway._gateway_client)


def cause(error: Exception) -> str:
    """The first line of an error's innermost Java cause; of the error itself if it has none."""
    if isinstance(error, Py4JJavaError):
        innermost = error.java_exception
        while (deeper := innermost.getCause()) is not None:
            innermost = deeper
        return str(innermost.toString()).splitlines()[0]
    return first_line(error)
