"""The Spark session: with Delta and Kafka, all its files under <home>/spark, nothing printed on the terminal."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

from delta.tables import DeltaTable
from py4j.protocol import Py4JError
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkRuntimeError
from pyspark.java_gateway import launch_gateway
from pyspark.sql import SparkSession
from pyspark.sql.avro.functions import from_avro, to_avro

from infra.jvm.jars import resolve_jars
from infra.jvm.java import find_java, jvm_environment
from infra.jvm.process import exchanged_environment, tail
from infra.settings import Settings, read_settings
from infra.terminal import console
from schemas.errors import SuibusError, UnavailableError
from schemas.tell import Tell
from schemas.wire.avro import LARGEST

_ARCHIVE = "spark.jsa"

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


def spark_session(settings: Settings) -> SparkSession:
    """Start Spark, or return this process's session.

    The JVM's output goes to <home>/spark/spark.log; errors are raised as Python exceptions. The JVM ends with
    this process, also if it is killed. UnavailableError if Java or the jars are missing or Spark does not start;
    StateError if a jar is not the locked one.
    """
    with _starting:
        if SparkContext._active_spark_context is not None:
            return SparkSession.builder.getOrCreate()
        archive = settings.jars / _ARCHIVE
        java_options = [f'-XX:SharedArchiveFile="{archive}"'] if archive.is_file() else []
        return _start(settings, java_options)


def _start(settings: Settings, java_options: list[str]) -> SparkSession:
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


def _options(settings: Settings, spark_jars: list[Path], java_options: list[str]) -> list[tuple[str, str]]:
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
        *java_options,
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


def make_class_archive(settings: Settings, tell: Tell) -> Path | None:
    """Run Spark once and archive the classes it loaded: later sessions need about half the time for their start and first job.

    None if this Java makes no archive; sessions then start without one. Java itself checks whether an archive fits,
    and ignores it otherwise. Call this in a separate process: Spark cannot be started there again.
    """
    archive = settings.jars / _ARCHIVE
    draft = archive.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    tell("Spark classes: one trial run", "Spark 类库：试运行一次")
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        trial = settings.model_copy(update={"home": Path(folder), "spark_master": "local[*]", "lake": None})
        spark = _start(trial, [f'-XX:ArchiveClassesAtExit="{draft}"'])
        path = trial.lake_path
        rows = spark.range(9).selectExpr("id", "string(id) s", "cast(id as decimal(18,2)) d", "now() t")
        rows.write.format("delta").save(path)
        DeltaTable.forPath(spark, path).alias("a").merge(
            rows.alias("b"), "a.id = b.id"
        ).whenMatchedUpdateAll().whenNotMatchedInsertAll().execute()
        spark.read.format("delta").load(path).select(from_avro(to_avro("id"), '"long"')).collect()
        gateway: Any = spark.sparkContext._gateway
        spark.stop()
        gateway.shutdown()
        gateway.proc.stdin.close()
        gateway.proc.wait()
    if not draft.is_file():
        tell("Spark classes: this Java makes no archive", "Spark 类库：当前 Java 不支持类归档")
        return None
    draft.replace(archive)
    tell("Spark classes: ready", "Spark 类库：已就绪")
    return archive


if __name__ == "__main__":
    try:
        make_class_archive(read_settings(), console.tell)
    except SuibusError as refused:
        console.say_error(refused.en, refused.zh)
        sys.exit(refused.exit_status)
