"""The lake: a folder or URL, and the tables in it.

    <lake>/bronze/<dataset>.vN   the change log: every record that arrived, in order, the quarantined ones marked
           silver/<dataset>.vN   one row a key, deleted ones kept as tombstones
           releases              one row a judged candidate: the pointer, or the hold, with its verdict
           account               one row a merge and district: where every record went

What a hop has done so far is in the log of the table it writes: no state lies beside the tables.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from datetime import UTC, datetime
from threading import RLock

from delta.tables import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import types as T

from pipelines.lake.delta import forget_tables
from pipelines.lake.spark_jvm import SPARK_ERRORS
from pipelines.lake.storage import Storage
from pipelines.lake.table import Known, Table, explained
from pipelines.lake.table_schemas import ACCOUNT, RELEASE, bronze_schema, silver_schema
from pipelines.lake.unchanged_tables import NO_TABLE, TableMark, is_absent
from schemas.dataset import Dataset
from schemas.errors import StateError, UnavailableError
from schemas.ports.state_format import FORMAT, FORMAT_FILE, format_text, other_format

_LAYERS = ("bronze", "silver", "account", "releases")
_APPEND_ONLY = {"delta.appendOnly": "true"}
_COMPACT = {"delta.autoOptimize.autoCompact": "true"}  # a few rows a commit: else thousands of files
_KEEP = {  # a release may name a version for years, so nothing expires by itself
    "delta.logRetentionDuration": "interval 3650 days",
    "delta.deletedFileRetentionDuration": "interval 3650 days",
}
_PROPERTIES = {
    # It is read by version and never searched; rows are counted all the same.
    "bronze": {"delta.enableChangeDataFeed": "true", "delta.dataSkippingNumIndexedCols": "0", **_APPEND_ONLY},
    "silver": {"delta.enableDeletionVectors": "true", **_COMPACT},
    "releases": {**_APPEND_ONLY, **_COMPACT},
    "account": {**_APPEND_ONLY, **_COMPACT},
}
# Commits between checkpoints. At Delta's 10 every tenth pass took 3 s longer. A pass commits to all four tables, so each has a
# prime number of its own: else their checkpoints fall together.
_CHECKPOINT = {"bronze": "61", "silver": "53", "account": "59", "releases": "67"}


class Lake:
    """The tables under one root, an address that Spark can write to. StateError if the lake is of another format."""

    def __init__(self, spark: SparkSession, root: str) -> None:
        self.spark = spark
        self.root = root.rstrip("/")
        self._known: dict[str, Known] = defaultdict(Known)
        self._making = RLock()
        self._idle: list[Lake] = []  # this lake in sessions that no thread uses now
        self._check_format()

    def within(self, session: SparkSession) -> Lake:
        """The same tables in another session of the same Spark; what is known of them is shared."""
        other = copy(self)
        other.spark = session
        return other

    @contextmanager
    def in_own_session(self) -> Iterator[Lake]:
        """The same tables in a session that no other thread uses meanwhile."""
        try:
            lake = self._idle.pop()
        except IndexError:
            lake = self.within(self.spark.newSession())
        try:
            yield lake
        finally:
            self._idle.append(lake)

    def bronze(self, dataset: Dataset) -> Table:
        """The dataset's change log, made or widened if need be."""
        return self._ensured(f"bronze/{dataset.id}", dataset)

    def silver(self, dataset: Dataset) -> Table:
        """The dataset's merged table, made or widened if need be."""
        return self._ensured(f"silver/{dataset.id}", dataset)

    def releases(self) -> Table:
        """The release records."""
        return self._ensured("releases")

    def account(self) -> Table:
        """The account."""
        return self._ensured("account")

    def marks(self, names: Iterable[str]) -> Mapping[str, TableMark]:
        """The mark of each of these tables, for `unchanged.is_as_left`; none at all if one cannot be told, or another program wrote it."""
        marks = {}
        for name in names:
            if is_absent(f"{self.root}/{name}"):
                marks[name] = NO_TABLE
                continue
            try:
                mark = self._table(name).mark()
            except (*SPARK_ERRORS, StateError):  # the pass has told of it
                return {}
            if mark is None:
                return {}
            marks[name] = mark
        return marks

    def set_aside(self, name: str) -> None:
        """Move a table out of the way, to `<name>.set-aside-<moment>`; nothing where there is none."""
        storage = Storage(self.spark, self.root)
        if storage.exists(name) and not storage.move(name, f"{name}.{_set_aside()}"):
            raise _not_moved(f"{self.root}/{name}")
        self._known.pop(f"{self.root}/{name}", None)
        forget_tables(self.spark)

    def forget(self) -> None:
        """Know no more of the tables than a process that has just started."""
        self._known.clear()
        forget_tables(self.spark)

    def _table(self, name: str) -> Table:
        schema = {"releases": RELEASE, "account": ACCOUNT}.get(name)
        address = f"{self.root}/{name}"
        return Table(self.spark, address, schema, self._known[address])

    def _ensured(self, name: str, dataset: Dataset | None = None) -> Table:
        """The table, made if there is none, with the columns it lacked; the same again changes nothing."""
        known, wanted = self._known[f"{self.root}/{name}"], dataset.hash if dataset else name
        if known.schema != wanted:
            with self._making:
                if known.schema != wanted:  # no other thread has made it meanwhile
                    self._make(name, dataset)
                    known.schema = wanted
        return self._table(name)

    def _make(self, name: str, dataset: Dataset | None) -> None:
        address, layer = f"{self.root}/{name}", name.split("/")[0]
        schema = RELEASE if layer == "releases" else ACCOUNT
        if dataset:
            schema = bronze_schema(dataset) if layer == "bronze" else silver_schema(dataset)
        with explained(address):
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
        if storage.exists(FORMAT_FILE):
            found = other_format(storage.read_text(FORMAT_FILE))
        elif any(map(storage.exists, _LAYERS)):
            found = other_format(None)
        else:
            storage.write_text(FORMAT_FILE, format_text())
            return
        if found:
            raise StateError(
                f"The lake {self.root} is of format {found.number} (Suibus {found.made_by}), and this Suibus reads format {FORMAT}. "
                "Nothing was changed. Make it again from what the topics hold: suibus rebuild --lake (the old one is kept beside it); "
                "or use the Suibus that made it.",
                f"数据湖 {self.root} 的格式为 {found.number}（Suibus {found.made_by}），当前 Suibus 只能读取格式 {FORMAT}。未作任何更改。"
                "请用主题中现存的数据重建：suibus rebuild --lake（旧湖保留在旁边）；或使用生成它的 Suibus。",
            )


def set_lake_aside(spark: SparkSession, root: str) -> str | None:
    """Move a whole lake out of the way, whatever its format; where it is now, None if there was none."""
    parent, _, name = root.rstrip("/").rpartition("/")
    storage, aside = Storage(spark, parent), f"{name}.{_set_aside()}"
    if not storage.exists(name):
        return None
    if not storage.move(name, aside):
        raise _not_moved(root)
    forget_tables(spark)
    return f"{parent}/{aside}"


def _set_aside() -> str:
    return f"set-aside-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"


def _not_moved(address: str) -> UnavailableError:
    return UnavailableError(
        f"{address} could not be moved away. Look at the rights of the folder it is in and run the same command again.",
        f"无法移走 {address}。请检查其所在文件夹的权限后重新执行同一命令。",
    )


def _missing(there: T.DataType, wanted: T.DataType, within: str = "") -> list[tuple[str, str]]:
    """The columns that a table's type lacks, nested members too: names and types for ALTER TABLE … ADD COLUMNS."""
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
