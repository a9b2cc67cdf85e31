"""A table of the lake: its log, and every way to read its rows and to write them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import RLock
from typing import Any, TypeVar, cast
from uuid import uuid4

import pyarrow
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType

from pipelines.lake.commit_notes import Note, dump_note
from pipelines.lake.delta import Delta, Snapshot
from pipelines.lake.row_replacement import Change, Files
from pipelines.lake.spark_jvm import SPARK_ERRORS, cause
from pipelines.lake.storage import Storage, local_folder
from pipelines.lake.table_log import AddedFile, Commit, NewestVersion, parse_commit
from pipelines.lake.unchanged_tables import CommitStat, commit_stat
from schemas.errors import StateError

_Kept = TypeVar("_Kept")
# Causes of an error that do not mean that the table is damaged.
_NOT_THE_TABLES_FAULT = ("OutOfMemoryError", "No space left on device", "Interrupted")


@dataclass
class TableCache:
    """What this process has read of one table, kept so that its log is not read again for every call.

    The lake keeps one for each table and gives it to every `Table` object of it, in all sessions and threads. The log decides: what
    was read of a version is used for that version only, and a process that begins without it does the same, more slowly.
    The lock keeps threads of this process from appending at the same time; Delta's commit keeps out other processes.
    """

    newest: NewestVersion | None = None
    own: tuple[int, int] | None = None  # versions (after, up to) in which no other program changed rows
    clean: NewestVersion | None = None  # the newest version in which no other program was found to have written
    checked_for: str = ""  # what its columns were last checked against: the contract's hash, or the table's name
    schema: StructType | None = None  # the columns that it should have, known once it was checked
    kept: dict[type, Any] = field(default_factory=dict)  # by type: what a hop keeps for its next call
    lock: RLock = field(default_factory=RLock)  # held while a thread appends


class Table:
    """One table. An object is cheap to make and holds nothing open; all objects of the same table share one `cache`.

    A table that does not exist has version -1, no id and no rows.

    Every call raises StateError if the log of the table cannot be read; the message says how to recover.
    """

    def __init__(
        self, spark: SparkSession, address: str, schema: StructType | None = None, cache: TableCache | None = None
    ) -> None:
        self.spark = spark
        self.address = address
        self._schema = schema
        self._cache = cache or TableCache()

    # --- the log ----------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """The newest version."""
        return self.newest().version

    @property
    def id(self) -> str:
        """The id that Delta gave the table on creation; a new table at the same address has a new id."""
        return self.newest().table_id

    def transaction(self, application: str) -> int:
        """The last version that an application id committed (Delta's `txn` action), -1 if none.

        The progress of a hop is kept here: it is committed together with the rows, so the two cannot disagree.
        """
        return self.newest().transactions.get(application, -1)

    def newest(self) -> NewestVersion:
        """The newest version.

        The cached one is returned as long as its commit file is unchanged and no later commit exists, which takes two `stat` calls
        instead of a listing. The log of a table behind a URL is read each time.
        """
        known = self._cache.newest
        if known and known.commit_stat and known.commit_stat == commit_stat(self.address, known.version):
            return known
        with reading_log(self.address):
            snapshot = Snapshot(self.spark, self.address)
        stat = commit_stat(self.address, snapshot.version)
        table_id = snapshot.table_id if snapshot.version >= 0 else ""
        self._cache.newest = NewestVersion(snapshot.version, table_id, stat, snapshot.transactions)
        return self._cache.newest

    def commit(self, version: int) -> Commit:
        """One commit. StateError if the log does not have it or it cannot be read."""
        try:
            text = Storage(self.spark, self.address).read_text(f"_delta_log/{version:020}.json")
            return parse_commit(version, text)
        except (*SPARK_ERRORS, OSError, ValueError) as error:
            raise unreadable(self.address, error, version) from None

    def is_own_since(self, version: int) -> bool:
        """Whether no other program has changed rows after `version`. Each commit is read only once per process."""
        newest = self.version
        low, high = self._cache.own or (version, version)
        if version > high:
            low = high = version
        for at in (*range(version + 1, low + 1), *range(high + 1, newest + 1)):
            if _is_foreign(self.commit(at)):
                return False
        self._cache.own = min(low, version), newest
        return True

    def check_own(self, since: int | None = None) -> None:
        """StateError if another program has changed rows.

        Checks the commits after version `since`; without it, those after the last commit of Suibus. A compaction changes no rows.
        """
        if foreign := self._foreign(since):
            raise StateError(
                f"{self.address} version {foreign.version} was written by another program ({foreign.operation}, "
                f"{foreign.engine}). Its rows are neither merged nor shared. Rebuild the table with: suibus rebuild (for a bronze "
                "table, add --from-topics).",
                f"{self.address} 的版本 {foreign.version} 由其他程序写入（{foreign.operation}，{foreign.engine}），"
                "其中的行不会被合并或共享。请执行 suibus rebuild 重建该表（bronze 表须加 --from-topics）。",
            )

    def own_commit_stat(self) -> CommitStat | None:
        """The stat of the newest commit; None if it is unknown (behind a URL), or if another program has changed rows."""
        newest = self.newest()
        if self._cache.clean is not newest and self._foreign():
            return None
        self._cache.clean = newest
        return newest.commit_stat

    def _foreign(self, since: int | None = None) -> Commit | None:
        for version in range(self.version, -1 if since is None else since, -1):
            commit = self.commit(version)
            if _is_foreign(commit):
                return commit
            if commit.own and since is None:
                return None
        return None

    # --- what a hop keeps for its next call -------------------------------------------------------

    def keep(self, value: object) -> None:
        """Keep a value in memory for the next call; it replaces the kept value of the same type."""
        self._cache.kept[type(value)] = value

    def kept(self, kind: type[_Kept]) -> _Kept | None:
        """The kept value of this type, None if there is none."""
        return cast("_Kept | None", self._cache.kept.get(kind))

    # --- rows -------------------------------------------------------------------------------------

    def read(self, version: int | None = None) -> DataFrame:
        """The rows of a version, by default the newest."""
        if self._schema and (self.version if version is None else version) < 0:
            return self.spark.createDataFrame([], self._schema)
        reader = self.spark.read.format("delta")
        return (reader if version is None else reader.option("versionAsOf", version)).load(self.address)

    def rows(self, files: Iterable[AddedFile]) -> DataFrame:
        """The rows of files that commits of the table added."""
        return Delta(self.spark, self.address).rows(files)

    def append(
        self, rows: DataFrame | Sequence[dict[str, Any]], application: str, number: int, note: Note
    ) -> int | None:
        """Append rows in one commit, as version `number` of an application id; the table's new version.

        None, and nothing is appended, if that number was committed before. Rows given as dicts are written without a Spark job.
        StateError, and nothing is appended, if another program commits at the same time.
        """
        with self._cache.lock:
            newest = self.newest()
            if newest.transactions.get(application, -1) >= number:
                return None
            if not isinstance(rows, DataFrame):
                columns = to_arrow_schema(self._schema or self.read().schema, timezone="UTC")
                rows = pyarrow.Table.from_pylist(list(rows), schema=columns)
            return Delta(self.spark, self.address).append(rows, application, number, dump_note(note), newest.version)

    def change(self) -> Change:
        """Begin a commit on the newest version that adds and removes rows; committing fails if another commit came in between."""
        return Change(Delta(self.spark, self.address), self.kept(Files))

    def overwrite(self, rows: DataFrame, application: str, number: int) -> None:
        """Replace all rows in one commit, as version `number` of an application id, even if that was committed before."""
        if self.transaction(application) >= number:  # Delta would silently skip the write
            application, number = f"rebuild:{uuid4()}", 0
        writer = rows.coalesce(self.spark.sparkContext.defaultParallelism).write.format("delta").mode("overwrite")
        writer.options(txnAppId=application, txnVersion=str(number)).save(self.address)


def _is_foreign(commit: Commit) -> bool:
    return commit.changes_rows and not commit.own


@contextmanager
def reading_log(address: str) -> Iterator[None]:
    """StateError if reading a table's log in this block fails because the log is damaged.

    Other errors are raised unchanged, and so is every error behind a URL, where the storage may be unavailable.
    """
    try:
        yield
    except SPARK_ERRORS as error:
        if local_folder(address) is None or any(name in cause(error) for name in _NOT_THE_TABLES_FAULT):
            raise
        raise unreadable(address, error) from error


def unreadable(address: str, error: Exception, version: int | None = None) -> StateError:
    """The error to raise for a table whose log cannot be read."""
    at, zh_at = ("", "") if version is None else (f" at version {version}", f"在版本 {version} 处")
    return StateError(
        f"The log of {address} cannot be read{at}: {cause(error)}. Restore it from a backup. A bronze or silver table can also be "
        "rebuilt with: suibus rebuild",
        f"{address} 的日志{zh_at}无法读取：{cause(error)}。请从备份恢复；bronze 表或 silver 表也可执行 suibus rebuild 重建。",
    )
