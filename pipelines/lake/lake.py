"""The lake: a folder or URL, and the tables in it.

    <lake>/bronze/<dataset>.vN   the change log: every record received, quarantined records in a partition of their own
           silver/<dataset>.vN   one row per key; deleted keys stay as tombstones
           releases              one row per judged candidate: released or held, with its verdict
           account               one row per merge and district: the fates of its records

The progress of a hop is in the log of the table it writes; no state is kept outside the tables.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from datetime import UTC, datetime
from threading import RLock
from typing import Any

from delta.tables import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import types as T

from pipelines.lake.delta import forget_tables
from pipelines.lake.spark_jvm import SPARK_ERRORS
from pipelines.lake.storage import Storage
from pipelines.lake.table import Table, TableCache, reading_log
from pipelines.lake.table_schemas import ACCOUNT, RELEASE, bronze_schema, silver_schema
from pipelines.lake.unchanged_tables import NO_TABLE, CommitStat, Layer, is_absent, table_name
from schemas.dataset import Dataset
from schemas.errors import StateError, UnavailableError
from schemas.ports.state_format import FORMAT, FORMAT_FILE, format_text, other_format

_LAYERS = ("bronze", "silver", "account", "releases")
_APPEND_ONLY = {"delta.appendOnly": "true"}
_COMPACT = {"delta.autoOptimize.autoCompact": "true"}  # commits are small: without it there would be thousands of files
_KEEP = {  # a release may name a version for years, so nothing expires by itself
    "delta.logRetentionDuration": "interval 3650 days",
    "delta.deletedFileRetentionDuration": "interval 3650 days",
}
_PROPERTIES = {
    # Bronze is read by version and never searched by value. Delta still counts the rows of each file.
    "bronze": {"delta.enableChangeDataFeed": "true", "delta.dataSkippingNumIndexedCols": "0", **_APPEND_ONLY},
    "silver": {"delta.enableDeletionVectors": "true", **_COMPACT},
    "releases": {**_APPEND_ONLY, **_COMPACT},
    "account": {**_APPEND_ONLY, **_COMPACT},
}
# Commits between checkpoints. With Delta's default of 10, every tenth pass took 3 s longer. A pass commits to all four tables, so
# each has its own prime number: otherwise one pass would write all four checkpoints.
_CHECKPOINT = {"bronze": "61", "silver": "53", "account": "59", "releases": "67"}


class Lake:
    """The tables below one root, a path or a URL. StateError if the lake has another format.

    A lake to read changes nothing; a table that does not exist reads as empty. A lake `to_write` creates missing tables and adds the
    columns that a contract has gained, so whoever uses it must hold the pass lease.
    """

    def __init__(self, spark: SparkSession, root: str, *, to_write: bool = False) -> None:
        self.spark = spark
        self.root = root.rstrip("/")
        self._to_write = to_write
        self._caches: dict[str, TableCache] = defaultdict(TableCache)
        self._making_lock = RLock()
        self._idle: list[Lake] = []  # copies of this lake whose sessions are free
        self._check_format()

    def in_session(self, session: SparkSession) -> Lake:
        """The same lake in another session of the same Spark; the caches of its tables are shared."""
        other = copy(self)
        other.spark = session
        return other

    @contextmanager
    def in_own_session(self) -> Iterator[Lake]:
        """The same lake in a session that no other thread uses until the block ends."""
        try:
            lake = self._idle.pop()
        except IndexError:
            lake = self.in_session(self.spark.newSession())
        try:
            yield lake
        finally:
            self._idle.append(lake)

    def bronze(self, dataset: Dataset) -> Table:
        """The dataset's bronze table."""
        return self._ensured(table_name("bronze", dataset.id), bronze_schema, dataset)

    def silver(self, dataset: Dataset) -> Table:
        """The dataset's silver table."""
        return self._ensured(table_name("silver", dataset.id), silver_schema, dataset)

    def releases(self) -> Table:
        """The table of release records."""
        return self._ensured("releases", lambda _: RELEASE)

    def account(self) -> Table:
        """The account table."""
        return self._ensured("account", lambda _: ACCOUNT)

    def commit_stats(self, names: Iterable[str]) -> Mapping[str, CommitStat]:
        """The stat of each table's newest commit, for `unchanged_tables.is_unchanged`.

        Empty if it is unknown for one table (unreadable, or behind a URL), or if another program has written to one.
        """
        stats = {}
        for name in names:
            if is_absent(f"{self.root}/{name}"):
                stats[name] = NO_TABLE
                continue
            try:
                address = f"{self.root}/{name}"
                stat = Table(self.spark, address, None, self._caches[address]).own_commit_stat()
            except (*SPARK_ERRORS, StateError):  # the pass has reported it
                return {}
            if stat is None:
                return {}
            stats[name] = stat
        return stats

    def set_aside(self, layer: Layer, dataset: Dataset) -> None:
        """Rename a table to `<name>.set-aside-<time>`; does nothing if there is no such table. UnavailableError if it cannot."""
        storage, name = Storage(self.spark, self.root), table_name(layer, dataset.id)
        if storage.exists(name) and not storage.move(name, f"{name}.{_set_aside()}"):
            raise _not_moved(f"{self.root}/{name}")
        self._caches.pop(f"{self.root}/{name}", None)
        forget_tables(self.spark)

    def _ensured(self, name: str, schema: Callable[[Any], T.StructType], dataset: Dataset | None = None) -> Table:
        """The table; in a lake to write, created if it is missing, with all columns of the contract. Calling it again changes nothing."""
        address = f"{self.root}/{name}"
        cache, wanted = self._caches[address], dataset.hash if dataset else name
        if cache.checked_for != wanted:
            with self._making_lock:
                if cache.checked_for != wanted:  # another thread may have done it while this one waited
                    cache.schema = schema(dataset)
                    if self._to_write:
                        self._make(name, cache.schema)
                    cache.checked_for = wanted
        return Table(self.spark, address, cache.schema, cache)

    def _make(self, name: str, schema: T.StructType) -> None:
        address, layer = f"{self.root}/{name}", name.split("/")[0]
        with reading_log(address):
            made = DeltaTable.isDeltaTable(self.spark, address)
        if made:
            if missing := _missing(self.spark.read.format("delta").load(address).schema, schema):
                columns = ", ".join(f"{column} {kind}" for column, kind in missing)
                self.spark.sql(f"ALTER TABLE delta.`{address}` ADD COLUMNS ({columns})")
            return
        builder = DeltaTable.createIfNotExists(self.spark).location(address).addColumns(schema)
        properties = {**_PROPERTIES[layer], **_KEEP, "delta.checkpointInterval": _CHECKPOINT[layer]}
        for key, value in properties.items():
            builder = builder.property(key, value)
        (builder.partitionedBy("_quarantined") if layer == "bronze" else builder).execute()

    def _check_format(self) -> None:
        storage = Storage(self.spark, self.root)
        text = storage.read_text(FORMAT_FILE) if storage.exists(FORMAT_FILE) else None
        if text is None and not any(map(storage.exists, _LAYERS)):
            if self._to_write:
                storage.write_text(FORMAT_FILE, format_text())
            return
        rebuild = (
            "rebuild the lake from the records still in the topics with: suibus rebuild --lake (the old lake is kept next to it)",
            "请执行 suibus rebuild --lake，用主题中现存的记录重建数据湖（旧数据湖保留在同一目录）",
        )
        if other := other_format(text, f"{self.root}/{FORMAT_FILE}", rebuild):
            raise StateError(
                f"The lake {self.root} has format {other.number} (Suibus {other.made_by}), but this Suibus reads only format {FORMAT}. "
                f"Nothing was changed. Use the Suibus version that made it; or {rebuild[0]}.",
                f"数据湖 {self.root} 的格式为 {other.number}（Suibus {other.made_by}），当前 Suibus 只能读取格式 {FORMAT}。未作任何更改。"
                f"可使用生成该数据湖的 Suibus 版本；否则{rebuild[1]}。",
            )


def set_lake_aside(spark: SparkSession, root: str) -> str | None:
    """Rename a whole lake, whatever its format, to `<name>.set-aside-<time>`; its new address, None if there was no lake.

    UnavailableError if it cannot be renamed, as a whole bucket cannot.
    """
    parent, _, name = root.rstrip("/").rpartition("/")
    if not name or parent.endswith(":/"):
        raise _not_moved(root)
    parent = parent or "/"
    storage, aside = Storage(spark, parent), f"{name}.{_set_aside()}"
    if not storage.exists(name):
        return None
    if not storage.move(name, aside):
        raise _not_moved(root)
    forget_tables(spark)
    return f"{parent.rstrip('/')}/{aside}"


def _set_aside() -> str:
    return f"set-aside-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"


def _not_moved(address: str) -> UnavailableError:
    return UnavailableError(
        f"{address} could not be renamed. A lake must be a folder, not a whole file system or bucket. Check the permissions of its "
        "parent folder and run the same command again.",
        f"无法重命名 {address}。数据湖须为文件夹，不能是整个文件系统或存储桶。请检查其上级文件夹的权限，然后重新执行同一命令。",
    )


def _missing(there: T.DataType, wanted: T.DataType, within: str = "") -> list[tuple[str, str]]:
    """The columns that a table lacks, nested members included: names and types for ALTER TABLE … ADD COLUMNS."""
    if isinstance(wanted, T.ArrayType) and isinstance(there, T.ArrayType):
        return _missing(there.elementType, wanted.elementType, f"{within}element.")
    if not (isinstance(wanted, T.StructType) and isinstance(there, T.StructType)):
        return []
    missing: list[tuple[str, str]] = []
    for field in wanted:
        name = f"{within}`{field.name}`"
        if field.name in there.names:
            missing += _missing(there[field.name].dataType, field.dataType, f"{name}.")
        else:
            missing.append((name, field.dataType.simpleString()))
    return missing
