"""Replace rows of a Delta table in one commit: add rows, and remove others with deletion vectors.

Delta's MERGE finds the matching rows and then reads every column of each file that holds one. Here one scan of a few columns finds
them, and a deletion vector removes them by their row number in the file, as Delta's own DELETE does. Delta has no public way to do
so: the internal classes that are used are listed in `pipelines.lake.delta.INTERNALS`.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import pyarrow
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipelines.lake.delta import Delta, delta_class
from pipelines.lake.scala_values import none, to_list, to_map, to_seq
from pipelines.lake.spark_jvm import java
from schemas.errors import StateError

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


class Change:
    """A commit being prepared on the version that was newest when it began. It fails if another commit came in between.

    `known`: the files after an earlier commit; they are used if that is still the newest version. `files`: those of the version it
    is based on; after `commit`, those of the new version.
    """

    def __init__(self, table: Delta, known: Files | None = None) -> None:
        self._table = table
        self._txn = table.begin()
        self._path = table.log.dataPath()
        snapshot = self._txn.snapshot()
        table_id, version = str(snapshot.metadata().id()), int(snapshot.version())
        # Reading the files costs two Spark jobs and several JVM calls per file.
        if known is None or known[:2] != (table_id, version):
            described = map(self._file, snapshot.allFiles().collect())
            known = Files(table_id, version, {file.address: file for file in described})
        self.files = known

    def _file(self, action: Any) -> File:
        spark = self._table.spark
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
        actions = [] if added is None else to_list(self._txn.writeFiles(added._jdf))
        files = self.files.files | {file.address: file for file in map(self._file, actions)}
        if removed_rows:
            for file, replacement in self._removals(removed, removed_rows):
                del files[file.address]
                if replacement:
                    files[file.address] = self._file(replacement._1())
                actions += [replacement._1(), replacement._2()] if replacement else [file.action.remove()]
        nothing, empty = none(table.spark), to_seq(table.spark, [])
        self._txn.registerSQLMetrics(table.spark._jsparkSession, self._metrics(merged_events))
        merge = delta_class(table.spark, "DeltaOperations$Merge")(*[nothing] * 4, empty, empty, empty)
        version = table.commit(self._txn, actions, merge, application, number, note)
        self.files = Files(self.files.table_id, version, files)
        return version

    def _metrics(self, merged_events: int) -> Any:
        """The metric that Delta requires of a MERGE for its history."""
        spark, name = self._table.spark, "operationNumSourceRows"
        metric = java(spark, "org.apache.spark.sql.execution.metric.SQLMetrics").createMetric(spark._jsc.sc(), name)
        metric.set(merged_events)
        return to_map(spark, {name: metric})

    def _removals(self, removed: DataFrame, count: int) -> list[tuple[File, Any]]:
        """The files that hold these rows, each with the pair of actions (add, remove) that removes the rows from it.

        None instead of the pair if no row of the file is left.
        """
        files = self.files.files
        vectors = [{"filePath": file.address, "deletionVectorId": file.vector} for file in files.values()]
        known = self._table.spark.createDataFrame(pyarrow.Table.from_pylist(vectors, _VECTORS))
        known = known.withColumn(FILE_AND_ROW[0], F.xxhash64("filePath"))
        numbered = removed.withColumnRenamed(FILE_AND_ROW[1], "rowIndexCol").join(F.broadcast(known), FILE_AND_ROW[0])
        build = delta_class(self._table.spark, "commands.DeletionVectorBitmapGenerator").buildDeletionVectors
        order = ("filePath", "deletionVectorId", "rowIndexCol")
        results = build(self._table.spark._jsparkSession, numbered.select(*order)._jdf, self._table.log, 0)
        changed, rows = [], 0
        for result in to_list(results):
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
