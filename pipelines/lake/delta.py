"""Commits to a Delta table that Delta's public interface cannot make. This is the only module that uses Delta's internal classes.

Delta's MERGE finds the matching rows and then reads every column of each file that holds one. Here one scan of a few columns finds
them, and a deletion vector removes them by their row number in the file, as Delta's own DELETE does. `INTERNALS` lists the internal
classes of Delta and Spark that are used; tests/integration/pipelines/test_internals.py checks it against the installed versions.
"""

from __future__ import annotations

import json
import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import Any, NamedTuple, cast
from uuid import uuid4

import pyarrow
from pyarrow import parquet
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from pipelines.lake.spark_jvm import java
from pipelines.lake.table_log import AddedFile
from schemas.errors import StateError

_NAMESPACE = "org.apache.spark.sql.delta"
_USER_METADATA = "spark.databricks.delta.commitInfo.userMetadata"
# The internal methods in use: by class, each method with its numbers of arguments ("new" is the constructor).
INTERNALS: dict[str, dict[str, set[int]]] = {
    f"{_NAMESPACE}.DeltaLog": {
        "forTable": {2}, "forTableWithSnapshot": {2}, "clearCache": {0}, "update": {3}, "createDataFrame": {4},
        "startTransaction": {0}, "dataPath": {0}, "newDeltaHadoopConf": {0},
    },
    f"{_NAMESPACE}.Snapshot": {
        "version": {0}, "metadata": {0}, "allFiles": {0}, "checksumOpt": {0}, "setTransactions": {0},
    },
    f"{_NAMESPACE}.VersionChecksum": {"setTransactions": {0}},
    f"{_NAMESPACE}.OptimisticTransaction": {
        "readWholeTable": {0}, "snapshot": {0}, "writeFiles": {1}, "registerPostCommitHook": {1},
        "registerSQLMetrics": {2}, "commit": {2},
    },
    f"{_NAMESPACE}.DeltaOperations$Write": {"new": {9}},
    f"{_NAMESPACE}.DeltaOperations$Merge": {"new": {7}},
    f"{_NAMESPACE}.hooks.AutoCompact$": {},
    f"{_NAMESPACE}.actions.Action": {"fromJson": {1}},
    f"{_NAMESPACE}.actions.Metadata": {"id": {0}, "partitionColumns": {0}},
    f"{_NAMESPACE}.actions.SetTransaction": {"appId": {0}, "version": {0}},
    f"{_NAMESPACE}.actions.AddFile": {
        "toPath": {0}, "deletionVector": {0}, "stats": {0}, "remove": {0}, "removeRows": {3}, "numPhysicalRecords": {0},
    },
    f"{_NAMESPACE}.actions.DeletionVectorDescriptor": {"serializeToBase64": {0}, "cardinality": {0}},
    f"{_NAMESPACE}.commands.DeletionVectorBitmapGenerator": {"buildDeletionVectors": {4}},
    f"{_NAMESPACE}.commands.DeletionVectorResult": {"filePath": {0}, "deletionVector": {0}},
    "org.apache.spark.sql.classic.SparkSession": {},
    "org.apache.spark.sql.SparkSession": {"setActiveSession": {1}},
    "org.apache.spark.sql.SaveMode": {},
    "org.apache.spark.paths.SparkPath": {"fromPath": {1}, "urlEncoded": {0}},
    "org.apache.spark.sql.execution.metric.SQLMetrics": {"createMetric": {2}},
    "org.apache.spark.sql.execution.metric.SQLMetric": {"set": {1}},
}  # fmt: skip
_VECTORS = pyarrow.schema([("filePath", pyarrow.string()), ("deletionVectorId", pyarrow.string())])
FILE_AND_ROW = ("_file", "_row")  # identifies a row: the hash of its file's address, and its row number in that file


class File(NamedTuple):
    """A data file of a table: the `add` action, the address as in Spark's `_metadata.file_path`, statistics and deletion vector (base64)."""

    action: Any
    address: str
    stats: dict[str, Any]
    vector: str | None


class Files(NamedTuple):
    """All data files of one version of a table, by address."""

    table_id: str
    version: int
    files: dict[str, File]


class Delta:
    """A table through Delta's internal DeltaLog."""

    def __init__(self, spark: SparkSession, address: str) -> None:
        self._spark = cast(Any, spark)
        # Delta reads the user metadata of a commit, among other settings, from the thread's active session.
        java(spark, "org.apache.spark.sql.SparkSession").setActiveSession(self._spark._jsparkSession)
        self._log = self._delta("DeltaLog").forTable(self._spark._jsparkSession, address)

    def read(self, files: Iterable[Any], snapshot: Any = None) -> DataFrame:
        """The rows of these files, given as `add` actions; by default with the newest snapshot's schema."""
        snapshot = snapshot or self._log.update(False, self._none(), self._none())
        return DataFrame(self._log.createDataFrame(snapshot, self._seq(files), False, self._none()), self._spark)

    def rows(self, files: Iterable[AddedFile]) -> DataFrame:
        """The rows of files that commits of this table added."""
        return self.read([self._action({"add": file.action}) for file in files])

    def append(self, rows: DataFrame | pyarrow.Table, application: str, number: int, note: str, on: int) -> int:
        """Append rows in one commit on top of version `on`, as version `number` of an application id; the table's new version.

        The result is that of Delta's writer with `txnAppId`, but the table's whole state is not computed first. An Arrow table is
        written to a file here, without a Spark job; the table must not be partitioned (ValueError). StateError, and nothing is
        appended, if another program has committed since version `on`.
        """
        txn = self._log.startTransaction()
        txn.readWholeTable()
        if int(txn.snapshot().version()) != on:
            raise written_by_another(self._log.dataPath())
        if isinstance(rows, pyarrow.Table):
            if txn.snapshot().metadata().partitionColumns().size():
                raise ValueError(f"{self._log.dataPath()} is partitioned: append to it with Spark")
            added = [self._write(rows)]
            txn.registerPostCommitHook(getattr(self._delta("hooks.AutoCompact$"), "MODULE$"))  # as `writeFiles` does
        else:
            added = _items(txn.writeFiles(rows._jdf))
        none = [self._none()] * 8
        operation = self._delta("DeltaOperations$Write")(
            java(self._spark, "org.apache.spark.sql.SaveMode").Append, *none
        )
        return self._commit(txn, added, operation, application, number, note)

    def _write(self, rows: pyarrow.Table) -> Any:
        """Write the rows to a data file that is not yet in the table; the `add` action that will add it."""
        out = BytesIO()
        parquet.write_table(rows, out)
        name, data = f"part-00000-{uuid4()}-c000.snappy.parquet", out.getvalue()
        path = java(self._spark, "org.apache.hadoop.fs.Path")(self._log.dataPath(), name)
        stream = path.getFileSystem(self._log.newDeltaHadoopConf()).create(path, False)
        try:
            stream.write(data)
        finally:
            stream.close()
        known = {n: [v for v in values if v is not None] for n, values in rows.to_pydict().items()}
        short = {n: v for n, v in known.items() if v and all(isinstance(x, int | str) and len(f"{x}") <= 32 for x in v)}
        stats = {
            "numRecords": len(rows),
            "minValues": {n: min(v) for n, v in short.items()},
            "maxValues": {n: max(v) for n, v in short.items()},
        }
        about = {"partitionValues": {}, "modificationTime": time.time_ns() // 1_000_000, "dataChange": True}
        return self._action({"add": {"path": name, "size": len(data), "stats": json.dumps(stats), **about}})

    def change(self, known: Files | None = None) -> Change:
        """Begin a commit on the newest version; committing fails if another commit came in between.

        `known`: the files after an earlier commit. They are used if that is still the newest version.
        """
        return Change(self, known)

    def _commit(self, txn: Any, actions: list[Any], operation: Any, application: str, number: int, note: str) -> int:
        transaction = {"appId": application, "version": number, "lastUpdated": None}
        actions = [*actions, self._action({"txn": transaction})]
        self._spark.conf.set(_USER_METADATA, note)
        try:
            return int(txn.commit(self._seq(actions), operation))
        except Exception as error:
            if "CONCURRENT" in str(error).upper():
                raise written_by_another(self._log.dataPath()) from error
            raise
        finally:
            self._spark.conf.unset(_USER_METADATA)

    def _action(self, action: dict[str, Any]) -> Any:
        return self._delta("actions.Action").fromJson(json.dumps(action))

    def _delta(self, name: str) -> Any:
        return java(self._spark, f"{_NAMESPACE}.{name}")

    def _none(self) -> Any:
        return java(self._spark, "scala.Option").empty()

    def _seq(self, items: Iterable[Any]) -> Any:
        listed = java(self._spark, "java.util.ArrayList")()
        for item in items:
            listed.add(item)
        return self._scala(listed).toSeq()

    def _scala(self, collection: Any) -> Any:
        return java(self._spark, "scala.jdk.javaapi.CollectionConverters").asScala(collection)


class Change:
    """A commit in preparation. `files`: those of the version it is based on; after `commit`, those of the new version."""

    def __init__(self, table: Delta, known: Files | None) -> None:
        self._table = table
        self._txn = table._log.startTransaction()
        self._txn.readWholeTable()
        self._path = table._log.dataPath()
        snapshot = self._txn.snapshot()
        table_id, version = str(snapshot.metadata().id()), int(snapshot.version())
        if known is None or known[:2] != (
            table_id,
            version,
        ):  # reading them costs two Spark jobs and several JVM calls per file
            described = map(self._file, snapshot.allFiles().collect())
            known = Files(table_id, version, {file.address: file for file in described})
        self.files = known

    def _file(self, action: Any) -> File:
        spark = self._table._spark
        name, vector = action.toPath(), action.deletionVector()
        full = name if name.isAbsolute() else java(spark, "org.apache.hadoop.fs.Path")(self._path, name)
        address = java(spark, "org.apache.spark.paths.SparkPath").fromPath(full).urlEncoded()
        stats = json.loads(action.stats() or "{}")
        return File(action, address, stats, vector.serializeToBase64() if vector else None)

    def rows(self, files: Iterable[File]) -> DataFrame:
        """The rows of these files, with the columns that `file_and_row` needs."""
        rows = self._table.read((file.action for file in files), self._txn.snapshot())
        return rows.select(
            "*", F.col("_metadata.file_path").alias("_address"), F.col("_metadata.row_index").alias("_row")
        )

    @staticmethod
    def file_and_row() -> tuple[Column, Column]:
        """The columns that identify a row for `commit`. Select them for few rows only: hashing the long addresses is slow."""
        return F.xxhash64("_address").alias(FILE_AND_ROW[0]), F.col(FILE_AND_ROW[1])

    def with_table_columns(self, rows: DataFrame) -> DataFrame:
        """The rows cast to the table's columns; columns that the rows lack are null."""
        wanted = self._table.read([], self._txn.snapshot()).schema
        have = [F.col(f"`{f.name}`") if f.name in rows.columns else F.lit(None) for f in wanted]
        return rows.select(*(c.cast(f.dataType).alias(f.name) for c, f in zip(have, wanted, strict=True)))

    def files_that_may_hold(self, column: str, values: Sequence[Any], between: bool = False) -> list[File]:
        """The files that may hold one of these values, by Delta's statistics. `values` must be sorted.

        `between`: the files that may hold any value between the first and the last.
        """
        kept = []
        for file in self.files.files.values():
            least, most = (file.stats.get(bound, {}).get(column) for bound in ("minValues", "maxValues"))
            if least is not None and most is not None and type(least) is type(values[0]):
                at = bisect_left(values, least)  # the first value that is not below the file's minimum
                if at == len(values) or (values[0] if between else values[at]) > most:
                    continue
            kept.append(file)
        return kept

    def commit(
        self,
        added: DataFrame | None,
        removed: DataFrame,
        removed_rows: int,
        application: str,
        number: int,
        note: str,
        merged_events: int,
    ) -> int:
        """Add rows and remove rows in one commit, as version `number` of an application id; the table's new version.

        `removed` has the `file_and_row` of each of the `removed_rows` rows; `merged_events` is shown in the table's history.
        StateError, and nothing is committed, if other than `removed_rows` rows are found, or if another program has committed.
        """
        table = self._table
        actions = [] if added is None else _items(self._txn.writeFiles(added._jdf))
        files = self.files.files | {file.address: file for file in map(self._file, actions)}
        if removed_rows:
            for file, replacement in self._removals(removed, removed_rows):
                del files[file.address]
                if replacement:
                    files[file.address] = self._file(replacement._1())
                actions += [replacement._1(), replacement._2()] if replacement else [file.action.remove()]
        nothing, empty = table._none(), table._seq([])
        self._txn.registerSQLMetrics(table._spark._jsparkSession, self._metrics(merged_events))
        merge = table._delta("DeltaOperations$Merge")(*[nothing] * 4, empty, empty, empty)
        version = table._commit(self._txn, actions, merge, application, number, note)
        self.files = Files(self.files.table_id, version, files)
        return version

    def _metrics(self, merged_events: int) -> Any:
        """The metric that Delta requires of a MERGE for its history."""
        spark, name = self._table._spark, "operationNumSourceRows"
        by_name = java(spark, "java.util.HashMap")()
        metrics = java(spark, "org.apache.spark.sql.execution.metric.SQLMetrics")
        by_name.put(name, metrics.createMetric(spark._jsc.sc(), name))
        by_name.get(name).set(merged_events)
        return getattr(java(spark, "scala.collection.immutable.Map"), "from")(self._table._scala(by_name))

    def _removals(self, removed: DataFrame, count: int) -> list[tuple[File, Any]]:
        """The files that hold these rows, each with the pair of actions (add, remove) that removes the rows from it.

        None instead of the pair if no row of the file is left.
        """
        files = self.files.files
        vectors = [{"filePath": file.address, "deletionVectorId": file.vector} for file in files.values()]
        known = self._table._spark.createDataFrame(pyarrow.Table.from_pylist(vectors, _VECTORS))
        known = known.withColumn(FILE_AND_ROW[0], F.xxhash64("filePath"))
        numbered = removed.withColumnRenamed(FILE_AND_ROW[1], "rowIndexCol").join(F.broadcast(known), FILE_AND_ROW[0])
        build = self._table._delta("commands.DeletionVectorBitmapGenerator").buildDeletionVectors
        order = ("filePath", "deletionVectorId", "rowIndexCol")
        results = build(self._table._spark._jsparkSession, numbered.select(*order)._jdf, self._table._log, 0)
        changed, rows = [], 0
        for result in _items(results):
            file, vector = files[result.filePath()], result.deletionVector()
            before = file.action.deletionVector()
            rows += vector.cardinality() - (before.cardinality() if before else 0)
            none_left = vector.cardinality() == file.action.numPhysicalRecords().get()
            changed.append((file, None if none_left else file.action.removeRows(vector, True, True)))
        if rows != count:  # two addresses have the same hash, or a row was given twice
            raise StateError(
                f"{rows} rows of {self._path} were found for replacement, but {count} were expected. Nothing was merged. "
                "Rebuild the table with: suibus rebuild",
                f"{self._path} 中找到 {rows} 行待替换，应为 {count} 行。未合并任何数据。请执行 suibus rebuild 重建该表。",
            )
        return changed


class Snapshot:
    """The newest version of a table, read from its log now."""

    def __init__(self, spark: SparkSession, address: str) -> None:
        log = java(spark, f"{_NAMESPACE}.DeltaLog")
        snapshot = log.forTableWithSnapshot(cast(Any, spark)._jsparkSession, address)._2()
        self.version = int(snapshot.version())
        self.table_id = str(snapshot.metadata().id())
        # The snapshot itself is not kept: its query plans take megabytes, and the next version has a snapshot of its own.
        self._listed = _set_transactions(snapshot)

    def transactions(self) -> dict[str, int]:
        """The last version that each application id committed."""
        return {str(one.appId()): int(one.version()) for one in _items(self._listed)}


def forget_tables(spark: SparkSession) -> None:
    """Clear Delta's cache of logs: after a rename, another table may be at a cached address."""
    java(spark, f"{_NAMESPACE}.DeltaLog").clearCache()


def _set_transactions(snapshot: Any) -> Any:
    """The `txn` actions of a snapshot: from the version's checksum file if that has them, else from the whole log."""
    checksum = snapshot.checksumOpt()
    listed = checksum.get().setTransactions() if checksum.isDefined() else None
    return listed.get() if listed is not None and listed.isDefined() else snapshot.setTransactions()


def _items(scala: Any) -> list[Any]:
    return [scala.apply(i) for i in range(scala.size())]


def written_by_another(path: Any) -> StateError:
    """The error to raise when another program has committed to a table since the work on it began."""
    return StateError(
        f"Another Suibus writes to {path} at the same time. No record was ingested twice. Stop one of the two.",
        f"另一个 Suibus 正在同时写入 {path}。没有记录被重复接入。请停止其中一个。",
    )
