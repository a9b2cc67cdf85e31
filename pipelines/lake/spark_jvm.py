"""Spark's JVM: access to a class by name, the cause of a failed call, and what Spark keeps of Kafka."""

from __future__ import annotations

from typing import Any

from py4j.java_gateway import JavaClass
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException

from schemas.errors import first_line

SPARK_ERRORS = (PySparkException, Py4JJavaError)  # the errors that Spark and Delta raise
# Spark's pools of what it read from Kafka: private, since the public settings only say after how long they are emptied.
KAFKA_POOLS = ("org.apache.spark.sql.kafka010.consumer.KafkaDataConsumer$", ("consumerPool", "fetchedDataPool"))


def java(spark: Any, name: str) -> Any:
    """A class of the JVM by its full name.

    `jvm.org.apache…` would look up each part of the name in every jar, which takes 1 ms and more.
    """
    return JavaClass(name, spark.sparkContext._gateway._gateway_client)


def hadoop_configuration(spark: Any) -> Any:
    """The Hadoop configuration with which Spark opens file systems."""
    return spark.sparkContext._jsc.hadoopConfiguration()


def cause(error: Exception) -> str:
    """The first line of an error's innermost Java cause; of the error itself if it has none."""
    if isinstance(error, Py4JJavaError):
        innermost = error.java_exception
        while (deeper := innermost.getCause()) is not None:
            innermost = deeper
        return str(innermost.toString()).splitlines()[0]
    return first_line(error)


def load_class(spark: Any, name: str) -> Any:
    """The `java.lang.Class` of this name, also from a jar that was given to Spark when it started."""
    return java(spark, "java.lang.Thread").currentThread().getContextClassLoader().loadClass(name)


def drop_kafka_data(spark: Any) -> None:
    """Close Spark's idle Kafka consumers and drop the records they hold; a read that is running is not disturbed.

    Spark keeps both for five minutes. After a read that ran out of memory they may hold most of it, so that the next read fails too.
    """
    name, pools = KAFKA_POOLS
    owner = load_class(spark, name)
    for pool in pools:
        field = owner.getDeclaredField(pool)
        field.setAccessible(True)
        field.get(None).reset()
