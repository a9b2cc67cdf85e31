"""The Spark session: with Delta and Kafka, all its files under <home>/spark, nothing printed on the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from py4j.protocol import Py4JError
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkRuntimeError
from pyspark.java_gateway import launch_gateway
from pyspark.sql import SparkSession

from infra.jvm.class_archive import archived_classes
from infra.jvm.environment import exchanged_environment, jvm_environment
from infra.jvm.jars import resolve_jars
from infra.jvm.java import find_java
from infra.settings import Settings
from infra.terminal.log_tail import tail
from schemas.errors import UnavailableError
from schemas.wire.avro import LARGEST

# Settings of another Spark in the environment would change this one, or start the other one.
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

# A record whose stated length is larger than any valid one is refused before memory is allocated for it.
_AVRO_LIMITS = [
    f"-Dorg.apache.avro.limits.{what}.maxLength={LARGEST}" for what in ("bytes", "string", "collectionItems")
]

# Local files without extra processes: Hadoop runs chmod for every file it makes and readlink for every file it renames,
# about a hundred in a pass over one dataset. This log store renames, like Delta's default one for local files; neither prevents
# a second program from writing at the same time.
_LOCAL_FILES = (
    ("spark.hadoop.fs.file.impl", "com.globalmentor.apache.hadoop.fs.BareLocalFileSystem"),
    ("spark.delta.logStore.file.impl", "io.delta.storage.LocalLogStore"),
    (
        "spark.sql.streaming.checkpointFileManagerClass",  # Delta writes a version's checksum with it
        "org.apache.spark.sql.execution.streaming.checkpointing.FileSystemBasedCheckpointFileManager",
    ),
)

_starting = Lock()


def spark_session(settings: Settings, java_options: Sequence[str] | None = None) -> SparkSession:
    """Start Spark, or return this process's session.

    `java_options` replace the one that uses the class archive. The JVM's output goes to <home>/spark/spark.log; errors are
    raised as Python exceptions. The JVM ends with this process, also if it is killed. UnavailableError if Java or the jars
    are missing or Spark does not start; StateError if a jar is not the locked one.
    """
    with _starting:
        if SparkContext._active_spark_context is not None:
            return SparkSession.builder.getOrCreate()
        return _start(settings, archived_classes("spark", settings) if java_options is None else java_options)


def end_spark() -> None:
    """End this process's Spark and wait until its JVM is gone. Spark cannot be started here again."""
    context = SparkContext._active_spark_context
    if context is None:
        return
    gateway: Any = context._gateway
    context.stop()
    gateway.shutdown()
    gateway.proc.stdin.close()
    gateway.proc.wait()


def _start(settings: Settings, java_options: Sequence[str]) -> SparkSession:
    java = find_java(settings.java_home)
    if not java.vector:
        raise UnavailableError(
            f"{java.program} lacks the module jdk.incubator.vector, which Spark needs. Point JAVA_HOME at a "
            "full JDK 17 or 21.",
            f"{java.program} 缺少 Spark 所需的模块 jdk.incubator.vector。请将 JAVA_HOME 指向完整的 JDK 17 或 21。",
        )
    conf = SparkConf(loadDefaults=False)
    conf.setAll(_options(settings, resolve_jars("spark", settings), java_options))
    folder = settings.home / "spark"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log4j2.properties").write_text(_LOG4J, "ascii")
    log = folder / "spark.log"
    here = {"SPARK_LOCAL_IP": "127.0.0.1"} if settings.spark_master.startswith("local") else {}
    environment = jvm_environment(without=_FOREIGN, JAVA_HOME=str(java.program.parent.parent), **here)
    try:
        with log.open("ab") as output, exchanged_environment(environment):
            output.truncate(0)
            launch: Any = launch_gateway  # PySpark leaves it untyped
            where = {"stdout": output, "stderr": output, "cwd": folder}
            gateway = SparkContext._gateway or launch(conf, where)
        return SparkSession(SparkContext(conf=conf, gateway=gateway))
    except (PySparkRuntimeError, Py4JError, OSError) as error:
        raise UnavailableError(
            f"Spark did not start ({error}). The end of {log}:\n{tail(log)}\n"
            "Check the memory (SUIBUS_SPARK_MEMORY) and the disk, and try again.",
            f"Spark 未能启动（{error}）。{log} 的末尾：\n{tail(log)}\n请检查内存（SUIBUS_SPARK_MEMORY）与磁盘后重试。",
        ) from error


def _options(settings: Settings, spark_jars: list[Path], java_options: Sequence[str]) -> list[tuple[str, str]]:
    local = settings.spark_master.startswith("local")
    java_options = [
        "-Dlog4j2.configurationFile=log4j2.properties",  # the JVM's folder is <home>/spark
        "-Dderby.system.home=.",
        "-Djava.net.preferIPv4Stack=true",
        "-XX:+IgnoreUnrecognizedVMOptions",
        # G1 stores an object larger than half a region separately, and the buffers of a pass are that large. With regions of 1 MB, the
        # default of a small heap, each dataset caused a collection of the whole heap. With 16 MB, too few adjacent regions are free
        # after a record that was too large.
        "-XX:G1HeapRegionSize=4m",
        *_AVRO_LIMITS,
        *(f'"{option}"' for option in java_options),
    ]
    # Jars on the class path are not copied for each session, and are part of the class archive.
    shipped = (
        ("spark.driver.extraClassPath", os.pathsep.join(map(str, spark_jars)))
        if local
        else ("spark.jars", ",".join(path.as_uri() for path in spark_jars))
    )
    return [
        ("spark.app.name", "suibus"),
        ("spark.master", settings.spark_master),
        ("spark.driver.memory", settings.spark_memory),
        ("spark.driver.extraJavaOptions", " ".join(java_options)),
        ("spark.executor.extraJavaOptions", " ".join(_AVRO_LIMITS)),
        # A record too large for memory (a few kilobytes can expand to a gigabyte) fails its task, and ingest then leaves
        # the record out; by default it would end the whole JVM.
        ("spark.executor.killOnFatalError.depth", "0"),
        ("spark.pyspark.python", sys.executable),
        # By default PySpark tells the JVM the line of Python that made each column: half of all calls to the JVM, 0.5 s a merge.
        ("spark.python.sql.dataFrameDebugging.enabled", "false"),
        *((("spark.driver.host", "127.0.0.1"), ("spark.driver.bindAddress", "127.0.0.1")) if local else ()),
        shipped,
        *(_LOCAL_FILES if local else ()),
        ("spark.local.dir", "local"),  # in <home>/spark; a full path with a comma would be read as two
        ("spark.sql.warehouse.dir", (settings.home / "spark" / "warehouse").as_uri()),
        ("spark.sql.catalogImplementation", "in-memory"),
        ("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension"),
        ("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog"),
        ("spark.sql.session.timeZone", "UTC"),
        # Delta's change feed passes rows as Java objects, and java.sql.Date lacks 5 to 14 October 1582.
        ("spark.sql.datetime.java8API.enabled", "true"),
        ("spark.sql.shuffle.partitions", "4" if local else "64"),
        ("spark.databricks.delta.snapshotPartitions", "1"),  # by default 50, which takes seconds for a small table
        # Kafka is not in this list: its newer reader passes rows without making Java objects of them first.
        ("spark.sql.sources.useV1SourceList", "avro,csv,json,orc,parquet,text"),
        # By default a page has 64 MB here, and each small table that is broadcast or sorted takes one: 100 datasets filled the driver's
        # 2 GB. 1 MB less the 16 bytes before each array, so that four pages, not three, fit in a region of 4 MB.
        ("spark.buffer.pageSize", str((1 << 20) - 16)),
        # Generated classes are kept for later plans that need the same ones. A pass needs about two hundred for each shape of
        # table; by default a hundred are kept.
        ("spark.sql.codegen.cache.maxEntries", "1000"),
        ("spark.log.level", "ERROR"),
        ("spark.ui.enabled", "false"),
        # Kept for a web page that is switched off: by default a thousand, each 55 KB for a table of 68 columns.
        ("spark.sql.ui.retainedExecutions", "20"),
        ("spark.ui.showConsoleProgress", "false"),
    ]
