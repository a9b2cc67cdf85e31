"""A table through Delta's internal classes: its newest version, the rows of given files, and appends without reading the whole log.

Only this module and `pipelines.lake.row_replacement` use internal classes of Delta and Spark. `INTERNALS` lists those of both;
tests/integration/pipelines/test_internals.py checks it against the installed versions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from io import BytesIO
from typing import Any, cast
from uuid import uuid4

import pyarrow
from delta import exceptions
from pyarrow import parquet
from pyspark.sql import DataFrame, SparkSession

from pipelines.lake.scala_values import none, to_list, to_seq
from pipelines.lake.spark_jvm import java
from pipelines.lake.table_log import AddedFile
from schemas.errors import StateError

# Delta's errors for a commit that conflicts with another one.
CONFLICTS = tuple(getattr(exceptions, name) for name in exceptions.__all__)
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


def delta_class(spark: SparkSession, name: str) -> Any:
    """One of Delta's internal classes, by its name in `INTERNALS` without Delta's package."""
    return java(spark, f"{_NAMESPACE}.{name}")


class Delta:
    """A table through Delta's internal DeltaLog."""

    def __init__(self, spark: SparkSession, address: str) -> None:
        self.spark: Any = spark
        # Delta reads the user metadata of a commit, among other settings, from the thread's active session.
        java(spark, "org.apache.spark.sql.SparkSession").setActiveSession(self.spark._jsparkSession)
        self.log = delta_class(self.spark, "DeltaLog").forTable(self.spark._jsparkSession, address)

    def read(self, files: Iterable[Any], snapshot: Any = None) -> DataFrame:
        """The rows of these files, given as `add` actions; by default with the newest snapshot's schema."""
        snapshot = snapshot or self.log.update(False, none(self.spark), none(self.spark))
        rows = self.log.createDataFrame(snapshot, to_seq(self.spark, files), False, none(self.spark))
        return DataFrame(rows, self.spark)

    def rows(self, files: Iterable[AddedFile]) -> DataFrame:
        """The rows of files that commits of this table added."""
        return self.read([self._action({"add": file.action}) for file in files])

    def append(self, rows: DataFrame | pyarrow.Table, application: str, number: int, note: str, on: int) -> int:
        """Append rows in one commit on top of version `on`, as version `number` of an application id; the table's new version.

        The result is that of Delta's writer with `txnAppId`, but the table's whole state is not computed first. An Arrow table is
        written to a file here, without a Spark job; the table must not be partitioned (ValueError). StateError, and nothing is
        appended, if another program has committed since version `on`.
        """
        txn = self.begin()
        if int(txn.snapshot().version()) != on:
            raise written_by_another(self.log.dataPath())
        if isinstance(rows, pyarrow.Table):
            if txn.snapshot().metadata().partitionColumns().size():
                raise ValueError(f"{self.log.dataPath()} is partitioned: append to it with Spark")
            added = [self._write(rows)] if len(rows) else []
            compact = getattr(delta_class(self.spark, "hooks.AutoCompact$"), "MODULE$")
            txn.registerPostCommitHook(compact)  # as `writeFiles` does
        else:
            added = to_list(txn.writeFiles(rows._jdf))
        nothing = [none(self.spark)] * 8
        operation = delta_class(self.spark, "DeltaOperations$Write")(
            java(self.spark, "org.apache.spark.sql.SaveMode").Append, *nothing
        )
        return self.commit(txn, added, operation, application, number, note)

    def begin(self) -> Any:
        """Begin a transaction on the newest version; committing it fails if another commit came in between."""
        txn = self.log.startTransaction()
        txn.readWholeTable()
        return txn

    def commit(self, txn: Any, actions: list[Any], operation: Any, application: str, number: int, note: str) -> int:
        """Commit a transaction with these actions, as version `number` of an application id; the table's new version.

        StateError, and nothing is committed, if another program has committed since the transaction began.
        """
        transaction = {"appId": application, "version": number, "lastUpdated": None}
        actions = [*actions, self._action({"txn": transaction})]
        self.spark.conf.set(_USER_METADATA, note)
        try:
            return int(txn.commit(to_seq(self.spark, actions), operation))
        except CONFLICTS as error:
            raise written_by_another(self.log.dataPath()) from error
        finally:
            self.spark.conf.unset(_USER_METADATA)

    def _write(self, rows: pyarrow.Table) -> Any:
        """Write the rows to a data file that is not yet in the table; the `add` action that will add it."""
        out = BytesIO()
        parquet.write_table(rows, out)
        name, data = f"part-00000-{uuid4()}-c000.snappy.parquet", out.getvalue()
        path = java(self.spark, "org.apache.hadoop.fs.Path")(self.log.dataPath(), name)
        stream = path.getFileSystem(self.log.newDeltaHadoopConf()).create(path, False)
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

    def _action(self, action: dict[str, Any]) -> Any:
        return delta_class(self.spark, "actions.Action").fromJson(json.dumps(action))


class Snapshot:
    """The newest version of a table, read from its log now."""

    def __init__(self, spark: SparkSession, address: str) -> None:
        log = delta_class(spark, "DeltaLog")
        snapshot = log.forTableWithSnapshot(cast(Any, spark)._jsparkSession, address)._2()
        self.version = int(snapshot.version())
        self.table_id = str(snapshot.metadata().id())
        # The snapshot itself is not kept: its query plans take megabytes, and the next version has a snapshot of its own.
        self._listed = _set_transactions(snapshot)

    def transactions(self) -> dict[str, int]:
        """The last version that each application id committed."""
        return {str(one.appId()): int(one.version()) for one in to_list(self._listed)}


def forget_tables(spark: SparkSession) -> None:
    """Clear Delta's cache of logs: after a rename, another table may be at a cached address."""
    delta_class(spark, "DeltaLog").clearCache()


def _set_transactions(snapshot: Any) -> Any:
    """The `txn` actions of a snapshot: from the version's checksum file if that has them, else from the whole log."""
    checksum = snapshot.checksumOpt()
    listed = checksum.get().setTransactions() if checksum.isDefined() else None
    return listed.get() if listed is not None and listed.isDefined() else snapshot.setTransactions()


def written_by_another(path: Any) -> StateError:
    """The error to raise when another program has committed to a table since the work on it began."""
    return StateError(
        f"Another Suibus writes to {path} at the same time. No record was ingested twice. Stop one of the two.",
        f"另一个 Suibus 正在同时写入 {path}。没有记录被重复入库。请停止其中一个。",
    )
