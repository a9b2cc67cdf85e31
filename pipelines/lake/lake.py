"""The lake: where its tables are, what they look like, and what a table says of itself.

    <lake>/bronze/<dataset>.vN   the change log: every record that arrived, in order, the quarantined ones marked
           silver/<dataset>.vN   one row a key, deleted ones kept as tombstones
           releases              one row a judged candidate: the pointer, or the hold, with its verdict
           account               one row a merge and district: where every record went

What a hop has done so far is in the log of the table it writes: no state lies beside the tables. Columns that begin
with _ are Suibus's; a contract's columns cannot.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import pyarrow
from delta.tables import DeltaTable
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.util import inheritable_thread_target

from pipelines.lake.delta import Delta, Files, cause, java
from pipelines.sync_info import ABSENT, FATES, Mark, absent, commit_mark
from schemas.dataset import Dataset, Field
from schemas.errors import StateError, UnavailableError

if TYPE_CHECKING:
    from pipelines.ingest.offsets import Position
    from pipelines.release.release import Records
_Item = TypeVar("_Item")
_Found = TypeVar("_Found")
AT_ONCE = 4  # datasets side by side: of a small one's pass half is waiting, for Spark's driver or for one task
_SCALARS: dict[str, T.DataType] = {
    "string": T.StringType(),
    "boolean": T.BooleanType(),
    "int": T.IntegerType(),
    "long": T.LongType(),
    "float": T.FloatType(),
    "double": T.DoubleType(),
    "date": T.DateType(),
    "timestamp": T.TimestampType(),
    "bytes": T.BinaryType(),
}
REASON = T.StructType(
    [T.StructField(name, T.StringType()) for name in ("rule", "column", "found", "reason", "reason_zh")]
)
NOT_ANSI = ("spark.sql.ansi.enabled", "false")  # where rules run: a cast of a bad value is null, not a dead job
EVENT = ("_topic", "_partition", "_offset")  # what identifies one record for ever
ORDER = ("_sequence", "_offset", "_topic", "_partition")  # what decides between two versions of a key
OWN = ("ingest", "merge", "account", "release", "rebuild")  # the applications under which Suibus writes
COUNTED = ("received", *FATES, "lost_to_other_district", "took_from_other_district")  # by the account, of each district


def spark_type(field: Field) -> T.DataType:
    """The Spark type a column has in every table; what is nested is nullable, as its Avro schema already holds it."""
    if field.kind == "decimal":
        return T.DecimalType(field.precision, field.scale)
    if field.kind == "array" and field.item:
        return T.ArrayType(spark_type(field.item), containsNull=True)
    if field.kind == "record":
        return T.StructType([T.StructField(f.name, spark_type(f)) for f in field.fields])
    return _SCALARS[field.kind]


def spark_schema(dataset: Dataset) -> T.StructType:
    """The columns a department sees: keys, sequence and district first, then the contract's order."""
    return T.StructType(
        [
            T.StructField(f.name, spark_type(f), not f.required, {"comment": f.title or f.description})
            for f in dataset.table_fields
        ]
    )


def ddl(dataset: Dataset) -> str:
    """The shared table as a CREATE TABLE statement, for people and other engines."""
    columns = []
    for field, column in zip(dataset.table_fields, spark_schema(dataset), strict=True):
        null = "" if column.nullable else " NOT NULL"
        comment = f" COMMENT '{field.title.replace(chr(39), chr(39) * 2)}'" if field.title else ""
        columns.append(f"  {field.name} {column.dataType.simpleString().upper()}{null}{comment}")
    columns.append(f"  PRIMARY KEY ({', '.join(dataset.key)})")
    return f"CREATE TABLE {dataset.name} (\n" + ",\n".join(columns) + "\n) USING DELTA"


def sequence_type(dataset: Dataset) -> T.DataType:
    """The type versions of a key are ordered by; the record's Kafka timestamp where the contract names no column."""
    return spark_type(dataset.field(dataset.sequence)) if dataset.sequence else T.TimestampType()


def _nullable(fields: list[T.StructField]) -> list[T.StructField]:
    return [T.StructField(f.name, f.dataType, True, f.metadata) for f in fields]


ENVELOPE = [
    T.StructField("_quarantined", T.BooleanType()),
    T.StructField("_topic", T.StringType()),
    T.StructField("_partition", T.IntegerType()),
    T.StructField("_offset", T.LongType()),
    T.StructField("_timestamp", T.TimestampType()),
    T.StructField("_district", T.StringType()),
    T.StructField("_key", T.StringType()),
    T.StructField("_deleted", T.BooleanType()),
    T.StructField("_writer", T.StringType()),
    T.StructField("_reasons", T.ArrayType(REASON)),
    T.StructField("_value", T.BinaryType()),  # kept of quarantined records only
    T.StructField("_answers", T.StringType()),  # the receipt that the record answers, as its sender says
]


def bronze_schema(dataset: Dataset) -> T.StructType:
    """Envelope, sequence, then the record's columns, all nullable: a quarantined record may lack any."""
    sequence = T.StructField("_sequence", sequence_type(dataset))
    return T.StructType([*ENVELOPE, sequence, *_nullable(spark_schema(dataset).fields)])


def silver_schema(dataset: Dataset) -> T.StructType:
    """Keys first (Delta keeps statistics of the first 32 columns), what orders and explains a row, then the rest."""
    columns = {f.name: f for f in _nullable(spark_schema(dataset).fields)}
    first = [columns.pop(name) for name in dataset.key]
    state = [
        T.StructField("_deleted", T.BooleanType()),
        T.StructField("_hash", T.LongType()),  # of the columns that are not keys: the same values, the same hash
        T.StructField("_broken", T.ArrayType(T.StringType())),  # the composing rules that count the row, null: none
        T.StructField("_rules", T.StringType()),  # the hash of those rules
        T.StructField("_district", T.StringType()),
        T.StructField("_sequence", sequence_type(dataset)),
        T.StructField("_offset", T.LongType()),
        T.StructField("_topic", T.StringType()),
        T.StructField("_partition", T.IntegerType()),
    ]
    return T.StructType([*first, *state, *columns.values()])


RELEASE = T.StructType(
    [
        T.StructField("dataset", T.StringType()),  # <dataset>.vN
        T.StructField("release", T.LongType()),  # 1, 2, 3 … of the dataset, held ones counted
        T.StructField("status", T.StringType()),  # released or held
        T.StructField("silver_version", T.LongType()),
        T.StructField("silver_id", T.StringType()),  # Delta's id of the silver table that version is of
        T.StructField("rows", T.LongType()),
        T.StructField("contract_version", T.StringType()),
        T.StructField("contract_sha256", T.StringType()),
        T.StructField("verdict_sha256", T.StringType()),
        T.StructField("failed", T.ArrayType(T.StringType())),  # critical rules that failed
        T.StructField("warnings", T.ArrayType(T.StringType())),
        T.StructField("decided_at", T.TimestampType()),
        T.StructField("verdict", T.StringType()),  # canonical JSON
    ]
)
ACCOUNT = T.StructType(
    [
        T.StructField("dataset", T.StringType()),
        T.StructField("district", T.StringType()),
        T.StructField("bronze_from", T.LongType()),  # first and last bronze version of the merge
        T.StructField("bronze_to", T.LongType()),
        T.StructField("bronze_id", T.StringType()),  # Delta's id of the bronze table those versions are of
        T.StructField("silver_version", T.LongType()),
        *(T.StructField(name, T.LongType()) for name in COUNTED),  # lost: of the superseded; took: of those merged
        T.StructField("at", T.TimestampType()),
    ]
)
_COMPACT = {"delta.autoOptimize.autoCompact": "true"}  # a few rows a commit: else thousands of files
_KEEP = {  # a release may name a version for years, so nothing ages out by itself
    "delta.logRetentionDuration": "interval 3650 days",
    "delta.deletedFileRetentionDuration": "interval 3650 days",
}
# Commits between checkpoints. At Delta's 10 every tenth pass took 3 s longer; a pass commits to all four, so each has a prime of its
# own: else their checkpoints come together.
_CHECKPOINT = {"bronze": "61", "silver": "53", "account": "59", "releases": "67"}


def _missing(there: T.DataType, wanted: T.DataType, place: str = "") -> list[tuple[str, str]]:
    """What a table's type lacks, nested members too, as the places and types of an ALTER TABLE … ADD COLUMNS."""
    if isinstance(wanted, T.ArrayType) and isinstance(there, T.ArrayType):
        return _missing(there.elementType, wanted.elementType, f"{place}element.")
    if not (isinstance(wanted, T.StructType) and isinstance(there, T.StructType)):
        return []
    found: list[tuple[str, str]] = []
    for field in wanted:
        name = f"{place}`{field.name}`"
        if field.name in there.names:
            found += _missing(there[field.name].dataType, field.dataType, f"{name}.")
        else:
            found.append((name, field.dataType.simpleString()))
    return found


@contextmanager
def _no_jobs_cancelled() -> Iterator[None]:
    """A Ctrl-C is heard when what is under way has ended.

    PySpark's own answer is to cancel all jobs, which threads would take for failures. A second Ctrl-C is not heard: it would
    free the pass's lock too early.
    """

    def hear(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    if (
        threading.current_thread() is not threading.main_thread()
        or getattr(handler, "__module__", "") != "pyspark.core.context"
    ):
        yield
        return
    signal.signal(signal.SIGINT, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


class Lake:
    """The tables under one root, a path or URL that Spark can write to."""

    def __init__(self, spark: SparkSession, root: str) -> None:
        self.spark = spark
        self.root = root.rstrip("/")
        self._ensured: dict[str, str] = {}
        self._newest: dict[str, Newest] = {}
        self.positions: dict[str, tuple[Newest, Position]] = {}  # what `ingest.read_position` last found, by table
        self._own: dict[str, tuple[int, int]] = {}  # between which versions no other program changed a table's rows
        self._clean: dict[str, Newest] = {}  # tables whose newest commit no other program wrote
        self.files: dict[str, Files] = {}  # of each table what its last change left it with
        self.records: dict[str, Records] = {}  # what `release` last read of the releases, by their path
        self.verdicts: dict[str, dict[str, Any]] = {}  # the last of each dataset, as its record has it
        self.shared = threading.RLock()  # held by who makes a table, or appends to one of all datasets
        self._idle: list[Lake] = []  # these tables in sessions for threads that work side by side

    def within(self, session: SparkSession) -> Lake:
        """The same tables in another session of the same Spark; what is known of them is known there too."""
        other = copy(self)
        other.spark = session
        return other

    def side_by_side(self, call: Callable[[_Item, Lake], _Found], items: Sequence[_Item]) -> list[_Found]:
        """A call for each item, some at once, each over these tables in a session of its own.

        What a commit says of itself and how a cast fails are settings of the session; it begins with those that Spark began with.
        """
        if len(items) < 2:
            return [call(item, self) for item in items]

        def one(item: _Item) -> _Found:
            try:
                lake = self._idle.pop()
            except IndexError:
                lake = self.within(self.spark.newSession())
            try:
                return call(item, lake)
            finally:
                self._idle.append(lake)

        # Each of its own: what a thread inherits is copied when its work is wrapped.
        work = [inheritable_thread_target(self.spark)(partial(one, item)) for item in items]
        # Left when all have ended, also by a Ctrl-C.
        with _no_jobs_cancelled(), ThreadPoolExecutor(AT_ONCE, "suibus-dataset") as beside:
            return list(beside.map(lambda run: run(), work))

    def bronze(self, dataset: Dataset) -> str:
        """The path of the dataset's change log, made or widened if need be."""
        properties = {"delta.enableChangeDataFeed": "true", "delta.appendOnly": "true"}
        properties["delta.dataSkippingNumIndexedCols"] = (
            "0"  # it is read by version, never searched; rows are counted still
        )
        return self.ensure(f"bronze/{dataset.id}", bronze_schema(dataset), properties, ("_quarantined",))

    def silver(self, dataset: Dataset) -> str:
        """The path of the dataset's merged table, made or widened if need be."""
        properties = {"delta.enableDeletionVectors": "true", **_COMPACT}
        return self.ensure(f"silver/{dataset.id}", silver_schema(dataset), properties)

    def releases(self) -> str:
        """The path of the release records."""
        return self.ensure("releases", RELEASE, {"delta.appendOnly": "true", **_COMPACT})

    def account(self) -> str:
        """The path of the account."""
        return self.ensure("account", ACCOUNT, {"delta.appendOnly": "true", **_COMPACT})

    def ensure(
        self, name: str, schema: T.StructType, properties: dict[str, str], partitions: tuple[str, ...] = ()
    ) -> str:
        """Make the table if there is none, add the columns it lacks; the same again changes nothing."""
        path = f"{self.root}/{name}"
        wanted = schema.json()
        if self._ensured.get(path) != wanted:
            with self.shared:
                if self._ensured.get(path) != wanted:  # no other thread has meanwhile
                    interval = {"delta.checkpointInterval": _CHECKPOINT[name.split("/")[0]]}
                    self._make(path, schema, {**properties, **_KEEP, **interval}, partitions)
                    self._ensured[path] = wanted
        return path

    def _make(self, path: str, schema: T.StructType, properties: dict[str, str], partitions: tuple[str, ...]) -> None:
        with _reading(path):
            made = DeltaTable.isDeltaTable(self.spark, path)
        if not made:
            builder = DeltaTable.createIfNotExists(self.spark).location(path).addColumns(schema)
            for key, value in properties.items():
                builder = builder.property(key, value)
            builder.partitionedBy(*partitions).execute() if partitions else builder.execute()
        elif missing := _missing(self.spark.read.format("delta").load(path).schema, schema):
            columns = ", ".join(f"{place} {kind}" for place, kind in missing)
            self.spark.sql(f"ALTER TABLE delta.`{path}` ADD COLUMNS ({columns})")

    def overwrite(self, path: str, rows: DataFrame, application: str, version: int) -> None:
        """All rows of a table anew, in one commit under an application's version, however often it was committed before."""
        spark: Any = self.spark
        options = {"txnAppId": application, "txnVersion": str(version)}
        if self.transaction(path, application) >= version:  # Delta would drop the write
            options = {"txnAppId": f"rebuild:{uuid4()}", "txnVersion": "0"}
        rows.coalesce(spark.sparkContext.defaultParallelism).write.format("delta").mode("overwrite").options(
            **options
        ).save(path)

    def set_aside(self, name: str) -> None:
        """Move a table out of the way, to `<name>.set-aside-<moment>`; nothing where there is none."""
        spark: Any = self.spark
        place = java(spark, "org.apache.hadoop.fs.Path")
        path, aside = (
            place(f"{self.root}/{n}") for n in (name, f"{name}.set-aside-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}")
        )
        system = path.getFileSystem(spark._jsc.hadoopConfiguration())
        if system.exists(path) and not system.rename(path, aside):
            raise UnavailableError(
                f"{path} could not be moved to {aside}. Look at the rights of the lake's folder and run it again.",
                f"无法将 {path} 移到 {aside}。请检查数据湖文件夹的权限后重新执行。",
            )
        self._ensured.pop(f"{self.root}/{name}", None)
        java(spark, "org.apache.spark.sql.delta.DeltaLog").clearCache()

    def read(self, path: str, version: int | None = None) -> DataFrame:
        """A table as of a version, or as it is now."""
        reader = self.spark.read.format("delta")
        return (reader if version is None else reader.option("versionAsOf", version)).load(path)

    def append(
        self,
        path: str,
        rows: list[dict[str, Any]],
        schema: T.StructType,
        application: str,
        version: int,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Append a few records in one commit; nothing if the application has committed that version before."""
        made = pyarrow.Table.from_pylist(rows, schema=to_arrow_schema(schema, timezone="UTC"))
        with self.shared:
            newest = self.newest(path)
            if newest.transactions.get(application, -1) < version:
                Delta(self.spark, path).append(made, application, version, metadata or {}, newest.version)

    def version(self, path: str) -> int:
        """The newest version of a table."""
        return self.newest(path).version

    def table_id(self, path: str) -> str:
        """The id Delta gave the table when it was made: another table at the same path has another."""
        return self.newest(path).table_id

    def transaction(self, path: str, app_id: str) -> int:
        """The last transaction version an application committed to a table, -1 if none.

        This is where the state of a hop lives: what is committed with the rows cannot disagree with them.
        """
        return self.newest(path).transactions.get(app_id, -1)

    def applications(self, path: str) -> list[str]:
        """The applications that have committed a transaction version to a table."""
        return list(self.newest(path).transactions)

    def newest(self, path: str) -> Newest:
        """What a table's newest version says of itself.

        What is known stays where the version's commit is the same file and no later one is there: two looks at a file system
        instead of a listing. A lake behind a URL is asked each time.
        """
        known = self._newest.get(path)
        if known and known.mark and known.mark == commit_mark(path, known.version):
            return known
        spark: Any = self.spark
        log = java(spark, "org.apache.spark.sql.delta.DeltaLog")
        with _reading(path):
            snapshot = log.forTableWithSnapshot(spark._jsparkSession, path)._2()
        version = int(snapshot.version())
        # The snapshot itself is not kept: the plans that made its state are megabytes, and its next one is another.
        known = Newest(version, str(snapshot.metadata().id()), _set_transactions(snapshot), commit_mark(path, version))
        self._newest[path] = known
        return known

    def marks(self, names: Iterable[str]) -> dict[str, list[int]]:
        """Where each table is, for `passes.as_left`; none of any if that cannot be told, or another program wrote to one."""
        found = {}
        for name in names:
            path = f"{self.root}/{name}"
            if absent(path):
                found[name] = [ABSENT]
                continue
            try:
                newest = self.newest(path)
                foreign = self._clean.get(path) is not newest and self._foreign(path)
            except (PySparkException, Py4JJavaError, StateError):  # the pass has told of it
                return {}
            if foreign:
                return {}
            self._clean[path] = newest
            if newest.mark is None:
                return {}
            found[name] = [newest.version, *newest.mark]
        return found

    def commit(self, path: str, version: int) -> Commit:
        """One commit of a table, from its log. StateError if the log does not hold it."""
        file = f"{path}/_delta_log/{version:020}.json"
        try:
            return _commit(version, self._text(file) if "://" in path else Path(file).read_text("utf-8"))
        except (Py4JJavaError, OSError, ValueError) as error:
            raise _unreadable(path, error, version) from None

    def _text(self, file: str) -> str:
        spark: Any = self.spark
        place = java(spark, "org.apache.hadoop.fs.Path")(file)
        stream = place.getFileSystem(spark._jsc.hadoopConfiguration()).open(place)
        try:
            return str(java(spark, "org.apache.commons.io.IOUtils").toString(stream, "UTF-8"))
        finally:
            stream.close()

    def own_since(self, path: str, version: int) -> bool:
        """Whether no other program has changed the table's rows after a version; each commit is looked at once."""
        newest = self.version(path)
        low, high = self._own.get(path, (version, version))
        if version > high:
            low = high = version
        for at in (*range(version + 1, low + 1), *range(high + 1, newest + 1)):
            commit = self.commit(path, at)
            if commit.changes_rows and not commit.own:
                return False
        self._own[path] = min(low, version), newest
        return True

    def check_own(self, path: str, since: int | None = None) -> None:
        """StateError if another program has changed the table's rows.

        Looked at are the commits after version `since`; without it, those after Suibus's last. Compaction changes no row.
        """
        if found := self._foreign(path, since):
            raise StateError(
                f"{path} version {found.version} was written by another program ({found.operation}, {found.engine}). It is "
                "neither merged nor shared. Make the table again with: suibus rebuild (for bronze with --from-topics)",
                f"{path} 的版本 {found.version} 由其他程序写入（{found.operation}，{found.engine}），不会被合并或共享。"
                "请用 suibus rebuild 重建该表（bronze 表加 --from-topics）。",
            )

    def _foreign(self, path: str, since: int | None = None) -> Commit | None:
        for version in range(self.version(path), -1 if since is None else since, -1):
            found = self.commit(path, version)
            if found.changes_rows and not found.own:
                return found
            if found.own and since is None:
                return None
        return None


@dataclass(frozen=True)
class Newest:
    """What the newest version of a table says of itself."""

    version: int
    table_id: str
    _listed: Any  # the transactions, as Delta has them
    mark: Mark | None  # of its commit, None where that cannot be told

    @cached_property
    def transactions(self) -> dict[str, int]:
        """Of each application the last version it committed."""
        each = [self._listed.apply(i) for i in range(self._listed.size())]
        return {str(one.appId()): int(one.version()) for one in each}


def _set_transactions(snapshot: Any) -> Any:
    """What applications committed to it: from the version's checksum, else out of the whole log."""
    checksum = snapshot.checksumOpt()
    listed = checksum.get().setTransactions() if checksum.isDefined() else None
    return listed.get() if listed is not None and listed.isDefined() else snapshot.setTransactions()


@dataclass(frozen=True)
class Commit:
    """What one commit of a table says of itself."""

    version: int
    operation: str
    engine: str
    own: bool  # it carries a transaction of Suibus's
    changes_rows: bool
    metadata: dict[str, Any]  # what Suibus wrote beside the rows
    added: list[dict[str, Any]]  # the files whose rows are new


def count_rows(files: Iterable[Mapping[str, Any]]) -> int:
    """The rows of files that a commit added, by their statistics."""
    return sum(int(json.loads(file["stats"])["numRecords"]) for file in files)


def _commit(version: int, text: str) -> Commit:
    actions = [json.loads(line) for line in text.split("\n") if line]  # U+2028 in a statistic ends no line
    info: dict[str, Any] = next((a["commitInfo"] for a in actions if "commitInfo" in a), {})
    applications = [a["txn"]["appId"].split(":")[0] for a in actions if "txn" in a]
    changes = any(a[kind].get("dataChange", True) for a in actions for kind in ("add", "remove") if kind in a)
    try:
        metadata = json.loads(info.get("userMetadata") or "{}")
    except ValueError:  # another program's
        metadata = {}
    return Commit(
        version,
        info.get("operation", ""),
        info.get("engineInfo", ""),
        any(name in OWN for name in applications),
        changes,
        metadata if isinstance(metadata, dict) else {},
        [a["add"] for a in actions if "add" in a and a["add"].get("dataChange", True)],
    )


_NOT_ITS_OWN = ("OutOfMemoryError", "No space left on device", "Interrupted")  # causes that say nothing about a table


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """Read a table's log; where that fails for what lies in it, StateError says so. Behind a URL the store may be away instead."""
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        if "://" in path or any(name in cause(error) for name in _NOT_ITS_OWN):
            raise
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception, version: int | None = None) -> StateError:
    at, zh_at = ("", "") if version is None else (f" at version {version}", f"在版本 {version} 处")
    return StateError(
        f"The log of {path} cannot be read{at}: {cause(error)}. Put it back from a backup, or, where it is a dataset's, make the "
        "table again with: suibus rebuild",
        f"{path} 的日志{zh_at}无法读取：{cause(error)}。请从备份恢复；若属于某个数据集，也可用 suibus rebuild 重建该表。",
    )
