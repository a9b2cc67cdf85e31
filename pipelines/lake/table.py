"""A table of the lake: what its log says, and every way to read it and to write to it."""

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
from pipelines.lake.delta import Change, Delta, Files, Snapshot
from pipelines.lake.spark_jvm import SPARK_ERRORS, cause
from pipelines.lake.storage import Storage, local_folder
from pipelines.lake.table_log import AddedFile, Commit, Newest, parse_commit
from pipelines.lake.unchanged_tables import TableMark, commit_mark
from schemas.errors import StateError

_Kept = TypeVar("_Kept")
_NOT_THE_TABLES_FAULT = (
    "OutOfMemoryError",
    "No space left on device",
    "Interrupted",
)  # causes that say nothing about a table


@dataclass
class Known:
    """What this process has learned of one table. Its sessions share it; it is never trusted against the log."""

    newest: Newest | None = None
    own: tuple[int, int] | None = None  # no other program changed rows between these versions
    clean: Newest | None = None  # the newest version, if no other program wrote it
    schema: str = ""  # what the table was last made or widened to
    kept: dict[type, Any] = field(default_factory=dict)  # by its type, what a hop last read or left here
    lock: RLock = field(default_factory=RLock)  # held by the thread that appends


class Table:
    """One table. It is cheap to make and holds nothing open; `known` is shared by all that name the same table.

    StateError from any of its calls if the log of the table cannot be read, with the way back.
    """

    def __init__(
        self, spark: SparkSession, address: str, schema: StructType | None = None, known: Known | None = None
    ) -> None:
        self.spark = spark
        self.address = address
        self._schema = schema
        self._known = known or Known()

    # --- what the log says ------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """The newest version."""
        return self.newest().version

    @property
    def id(self) -> str:
        """The id that Delta gave the table when it was made: another table at the same address has another."""
        return self.newest().table_id

    def transaction(self, application: str) -> int:
        """The last number that an application committed, -1 if none.

        This is where the progress of a hop is kept: what is committed with the rows cannot disagree with them.
        """
        return self.newest().transactions.get(application, -1)

    def newest(self) -> Newest:
        """What the newest version says of itself.

        What is known is used as long as the version's commit is the same file and no later one is there: that takes two looks
        at a file system instead of a listing. A table behind a URL is asked each time.
        """
        known = self._known.newest
        if known and known.mark and known.mark == commit_mark(self.address, known.version):
            return known
        with explained(self.address):
            found = Snapshot(self.spark, self.address)
        mark = commit_mark(self.address, found.version)
        self._known.newest = Newest(found.version, found.table_id, mark, found.transactions)
        return self._known.newest

    def commit(self, version: int) -> Commit:
        """One commit. StateError if the log does not hold it."""
        try:
            text = Storage(self.spark, self.address).read_text(f"_delta_log/{version:020}.json")
            return parse_commit(version, text)
        except (*SPARK_ERRORS, OSError, ValueError) as error:
            raise unreadable(self.address, error, version) from None

    def own_since(self, version: int) -> bool:
        """Whether no other program has changed rows after a version; each commit is looked at once."""
        newest = self.version
        low, high = self._known.own or (version, version)
        if version > high:
            low = high = version
        for at in (*range(version + 1, low + 1), *range(high + 1, newest + 1)):
            if _is_foreign(self.commit(at)):
                return False
        self._known.own = min(low, version), newest
        return True

    def check_own(self, since: int | None = None) -> None:
        """StateError if another program has changed rows.

        Looked at are the commits after version `since`; without it, those after the last of Suibus's. Compaction changes no row.
        """
        if foreign := self._foreign(since):
            raise StateError(
                f"{self.address} version {foreign.version} was written by another program ({foreign.operation}, "
                f"{foreign.engine}). It is neither merged nor shared. Make the table again with: suibus rebuild (for bronze "
                "with --from-topics)",
                f"{self.address} 的版本 {foreign.version} 由其他程序写入（{foreign.operation}，{foreign.engine}），"
                "不会被合并或共享。请用 suibus rebuild 重建该表（bronze 表加 --from-topics）。",
            )

    def mark(self) -> TableMark | None:
        """What tells the newest commit from any other; None if that cannot be told, or if another program wrote it."""
        newest = self.newest()
        if self._known.clean is not newest and self._foreign():
            return None
        self._known.clean = newest
        return newest.mark

    def _foreign(self, since: int | None = None) -> Commit | None:
        for version in range(self.version, -1 if since is None else since, -1):
            found = self.commit(version)
            if _is_foreign(found):
                return found
            if found.own and since is None:
                return None
        return None

    # --- what a hop keeps here --------------------------------------------------------------------

    def keep(self, found: object) -> None:
        """Keep something for the next call, in place of what was kept of its type: it is gone when the process ends."""
        self._known.kept[type(found)] = found

    def kept(self, kind: type[_Kept]) -> _Kept | None:
        """What was kept last of a type, None if nothing was."""
        return cast("_Kept | None", self._known.kept.get(kind))

    # --- rows -------------------------------------------------------------------------------------

    def read(self, version: int | None = None) -> DataFrame:
        """The rows of a version, the newest if none is named."""
        reader = self.spark.read.format("delta")
        return (reader if version is None else reader.option("versionAsOf", version)).load(self.address)

    def rows(self, files: Iterable[AddedFile]) -> DataFrame:
        """The rows of files that commits of the table added."""
        return Delta(self.spark, self.address).rows(files)

    def append(
        self, rows: DataFrame | Sequence[dict[str, Any]], application: str, number: int, note: Note
    ) -> int | None:
        """Append rows in one commit, as number `number` of an application; its version, None if that was committed before.

        A few rows that are not in Spark become a file without a job of Spark's. StateError if another program commits meanwhile;
        then nothing is appended.
        """
        with self._known.lock:
            newest = self.newest()
            if newest.transactions.get(application, -1) >= number:
                return None
            if not isinstance(rows, DataFrame):
                columns = to_arrow_schema(self._schema or self.read().schema, timezone="UTC")
                rows = pyarrow.Table.from_pylist(list(rows), schema=columns)
            return Delta(self.spark, self.address).append(rows, application, number, dump_note(note), newest.version)

    def change(self) -> Change:
        """Begin a commit that adds rows and leaves others out, on the newest version; it fails if another comes between."""
        return Change(Delta(self.spark, self.address), self.kept(Files))

    def overwrite(self, rows: DataFrame, application: str, number: int) -> None:
        """Replace all rows in one commit, as number `number` of an application, also if that was committed before."""
        if self.transaction(application) >= number:  # Delta would drop the write
            application, number = f"rebuild:{uuid4()}", 0
        writer = rows.coalesce(self.spark.sparkContext.defaultParallelism).write.format("delta").mode("overwrite")
        writer.options(txnAppId=application, txnVersion=str(number)).save(self.address)


def _is_foreign(commit: Commit) -> bool:
    return commit.changes_rows and not commit.own


@contextmanager
def explained(address: str) -> Iterator[None]:
    """Read a table's log; StateError if that fails for what is in it. Behind a URL the store may be away instead."""
    try:
        yield
    except SPARK_ERRORS as error:
        if local_folder(address) is None or any(name in cause(error) for name in _NOT_THE_TABLES_FAULT):
            raise
        raise unreadable(address, error) from error


def unreadable(address: str, error: Exception, version: int | None = None) -> StateError:
    """The error for a table whose log cannot be read."""
    at, zh_at = ("", "") if version is None else (f" at version {version}", f"在版本 {version} 处")
    return StateError(
        f"The log of {address} cannot be read{at}: {cause(error)}. Put it back from a backup, or, where it is a dataset's, "
        "make the table again with: suibus rebuild",
        f"{address} 的日志{zh_at}无法读取：{cause(error)}。请从备份恢复；若属于某个数据集，也可用 suibus rebuild 重建该表。",
    )
