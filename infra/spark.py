"""The Spark session: Delta and Kafka on, all files under <home>/spark, and a quiet terminal."""

from __future__ import annotations

import os
from contextlib import contextmanager
from collections.abc import Iterator
from pathlib import Path

from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkRuntimeError
from pyspark.java_gateway import launch_gateway
from pyspark.sql import SparkSession

from infra.broker import _tail
from infra.jars import Say, find_java, jars, quiet
from infra.settings import Settings
from schemas.errors import UnavailableError

# Another Spark's settings in the environment would change ours, or run another Spark altogether.
_FOREIGN = (
    "SPARK_HOME",
    "SPARK_CONF_DIR",
    "SPARK_LOCAL_DIRS",
    "SPARK_MASTER",
    "SPARK_REMOTE",
    "SPARK_SUBMIT_OPTS",
    "SPARK_DRIVER_MEMORY",
    "PYSPARK_SUBMIT_ARGS",
    "PYSPARK_GATEWAY_PORT",
    "PYSPARK_DRIVER_PYTHON",
    "HADOOP_CONF_DIR",
)

_LOG4J = """\
rootLogger.level=ERROR
rootLogger.appenderRef.stderr.ref=console
appender.console.type=Console
appender.console.name=console
appender.console.target=SYSTEM_ERR
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d{ISO8601} %p %m (%c)%n%ex
"""


def spark_session(settings: Settings, app_name: str, say: Say = quiet) -> SparkSession:
    """Start Spark, or return this process's session.

    What the JVM says goes to <home>/spark/spark.log; errors come back as Python exceptions. The JVM ends with
    this process, also when that is killed. UnavailableError where Java or the jars are missing or Spark ends.
    """
    if running := SparkSession.getActiveSession():
        return running
    java = find_java()
    if not java.vector:
        raise UnavailableError(
            f"{java.program} lacks the module jdk.incubator.vector, which Spark needs. Point JAVA_HOME at a "
            "full JDK 17 or 21.",
            f"{java.program} 缺少 Spark 所需的模块 jdk.incubator.vector。请将 JAVA_HOME 指向完整的 JDK 17 或 21。",
        )
    conf = SparkConf(loadDefaults=False).setAll(_options(settings, app_name, jars("spark", say)))
    folder = settings.home / "spark"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log4j2.properties").write_text(_LOG4J, "ascii")
    log = folder / "spark.log"
    try:
        with log.open("wb") as stderr, _own_environment(java.program):
            gateway = launch_gateway(conf, {"stderr": stderr, "stdout": stderr, "cwd": folder})
        context = SparkContext(conf=conf, gateway=gateway)
    except (PySparkRuntimeError, OSError) as error:
        raise UnavailableError(
            f"Spark did not start ({error}). The end of {log}:\n{_tail(log)}\n"
            "Check the memory (SUIBUS_SPARK_MEMORY) and the disk, and try again.",
            f"Spark 未能启动({error})。日志末尾见英文({log})。请检查内存(SUIBUS_SPARK_MEMORY)与磁盘后重试。",
        ) from error
    return SparkSession(context)


def _options(settings: Settings, app_name: str, spark_jars: list[Path]) -> list[tuple[str, str]]:
    folder = settings.home / "spark"
    java_options = [
        "-XX:+UseParallelGC",
        "-Dlog4j2.configurationFile=log4j2.properties",  # the JVM's folder is <home>/spark
        "-Dderby.system.home=.",
        "-Djava.net.preferIPv4Stack=true",
    ]
    return [
        ("spark.app.name", app_name),
        ("spark.master", settings.spark_master),
        ("spark.driver.memory", settings.spark_memory),
        ("spark.driver.extraJavaOptions", " ".join(java_options)),
        ("spark.driver.host", "127.0.0.1"),
        ("spark.driver.bindAddress", "127.0.0.1"),
        ("spark.jars", ",".join(path.as_uri() for path in spark_jars)),
        ("spark.local.dir", str(folder / "local")),
        ("spark.sql.warehouse.dir", (folder / "warehouse").as_uri()),
        ("spark.sql.catalogImplementation", "in-memory"),
        ("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension"),
        ("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog"),
        ("spark.sql.session.timeZone", "UTC"),
        ("spark.sql.shuffle.partitions", "4" if settings.spark_master.startswith("local") else "64"),
        ("spark.databricks.delta.snapshotPartitions", "2"),
        ("spark.log.level", "ERROR"),
        ("spark.ui.enabled", "false"),
        ("spark.ui.showConsoleProgress", "false"),
    ]


@contextmanager
def _own_environment(java: Path) -> Iterator[None]:
    """Launch the JVM with our Java and none of another Spark's settings, then put the environment back."""
    before = dict(os.environ)
    for name in _FOREIGN:
        os.environ.pop(name, None)
    os.environ["JAVA_HOME"] = str(java.parent.parent)
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    os.environ["LC_ALL"] = "C.UTF-8"  # else Java turns the Chinese in a path into question marks
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
