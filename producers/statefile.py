"""One SQLite file with the state of a node: consistent after any kill or power cut.

SQLite runs in WAL mode with synchronous=FULL, and every change is one transaction. The file's `application_id` says which
kind of file it is, and its `user_version` is the version of its tables.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Self

from schemas.errors import StateError, UnavailableError

MAX_PARAMETERS = 999  # of one statement: every build of SQLite accepts this number


class StateFile:
    """An SQLite file of one kind, created if it is missing.

    Several processes may open it at once; within a process one thread at a time may use it. StateError, and no change, if
    another program wrote the file, or a Suibus whose files have another version. UnavailableError if the disk is full or
    another program has the file locked.
    """

    kind: ClassVar[tuple[str, str]]  # what messages call it, in English and Chinese
    application_id: ClassVar[int]  # in the SQLite header, 4 bytes; each kind has its own
    version: ClassVar[int]  # of the tables
    tables: ClassVar[str]  # SQL that creates them

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
        en, zh = self.kind
        try:
            self._db.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, MAX_PARAMETERS)
            new = self._is_new()
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            if new:
                self._create()
        except sqlite3.OperationalError as error:  # the disk is full or the file locked; the file itself is sound
            self._db.close()
            raise self._unwritable(error) from None
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise StateError(
                f"{self.path} is not an {en} ({error}). Restore the file that Suibus wrote, or move this file away.",
                f"{self.path} 不是{zh}（{error}）。请恢复由 Suibus 写入的文件，或将此文件移走。",
            ) from None
        except BaseException:
            self._db.close()
            raise

    def _is_new(self) -> bool:
        """Whether nothing was written to the file yet; StateError if it is not of this kind and version."""
        written_by, version = (self._read_number(f"PRAGMA {name}") for name in ("application_id", "user_version"))
        en, zh = self.kind
        if written_by == version == 0 and not self._read_number("SELECT count(*) FROM sqlite_master"):
            return True
        if written_by != self.application_id:
            raise StateError(
                f"{self.path} is not marked as an {en}: another program wrote it, or it is another file of Suibus. Move it "
                f"away, and put the {en} back from a backup if there was one.",
                f"{self.path} 没有{zh}的标记：它由其他程序写入，或是 Suibus 的其他文件。请将其移走；如曾有{zh}，请从备份恢复。",
            )
        if version != self.version:
            raise StateError(
                f"{self.path} was written by another version of Suibus ({en} version {version}, known here {self.version}). "
                "Install on this node the version that wrote it.",
                f"{self.path} 由其他版本的 Suibus 写入（{zh}版本 {version}，此处支持 {self.version}）。"
                "请在本节点安装写入它的版本。",
            )
        return False

    def _create(self) -> None:
        with self._write() as db:
            if not self._is_new():  # another process was faster
                return
            for statement in self.tables.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA application_id={self.application_id}")
            db.execute(f"PRAGMA user_version={self.version}")

    def _read_number(self, sql: str) -> int:
        return int(self._db.execute(sql).fetchone()[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """One transaction, rolled back on any error; UnavailableError if the file cannot be written."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.OperationalError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: sqlite3.OperationalError) -> UnavailableError:
        return UnavailableError(
            f"{self.path} cannot be written ({error}). Free disk space, or wait until the other program ends, "
            "then run the same command again: it continues where it stopped.",
            f"{self.path} 无法写入（{error}）。请释放磁盘空间或等待其他程序结束，"
            "然后重新执行同一命令：将从中断处继续。",
        )
