"""The JVM behind Spark: a class of it by its name, and why a call into it failed."""

from __future__ import annotations

from typing import Any

from py4j.java_gateway import JavaClass
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException

from schemas.errors import first_line

SPARK_ERRORS = (PySparkException, Py4JJavaError)  # what Spark and Delta raise


def java(spark: Any, name: str) -> Any:
    """A class of the JVM by its full name. As `jvm.org.apache…` each part of the name would be looked up in every jar: 1 ms and more."""
    return JavaClass(name, spark.sparkContext._gateway._gateway_client)


def cause(error: Exception) -> str:
    """The first line of the innermost cause of Spark's or Java's error."""
    if isinstance(error, Py4JJavaError):
        innermost = error.java_exception
        while (deeper := innermost.getCause()) is not None:
            innermost = deeper
        return str(innermost.toString()).splitlines()[0]
    return first_line(error)
