"""A node's state in one SQLite file: whole after any kill or power cut, and upgraded in place.

WAL with synchronous=FULL, every change one transaction. The file's `user_version` says which steps made it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Self

from schemas.errors import StateError, UnavailableError


class StateFile:
    """One such file, made where there is none, brought up to the newest version where it is older.

    StateError if it is another program's or was written by a newer Suibus; then nothing was changed. One thread at a
    time; several processes may open it at once.
    """

    kind: ClassVar[tuple[str, str]]  # what it is, as messages say it
    steps: ClassVar[tuple[str, ...]]  # SQL that makes version 1 of nothing, version 2 of version 1, …

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
        en, zh = self.kind
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._bring_up()
        except sqlite3.OperationalError as error:  # a full disk, not a strange file
            self._db.close()
            raise self._unwritable(error) from None
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise StateError(
                f"{self.path} is not an {en} ({error}). Put back the file Suibus wrote, or move this away.",
                f"{self.path} 不是{zh}（{error}）。请恢复随巴士写入的文件，或将此文件移走。",
            ) from None
        except BaseException:
            self._db.close()
            raise

    def _bring_up(self) -> None:
        known = len(self.steps)
        if (version := self._version()) < known:
            with self._write() as db:
                version = self._version()  # another process may have been faster
                if version == 0 and db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
                    raise sqlite3.DatabaseError("a database of another program")
                for step in self.steps[version:]:
                    for statement in step.split(";"):
                        db.execute(statement)
                db.execute(f"PRAGMA user_version={max(version, known)}")
        if version > known:
            en, zh = self.kind
            raise StateError(
                f"{self.path} was written by a newer Suibus ({en} version {version}, known here "
                f"{known}). Upgrade Suibus on this node.",
                f"{self.path} 由更新版本的 Suibus 写入（{zh}版本 {version}，此处支持 {known}）。"
                "请升级本节点的 Suibus。",
            )

    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what is in it stays."""
        self._db.close()

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it or, on any error, nothing."""
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
            f"{self.path} cannot be written ({error}). Free the disk or wait for the other program, "
            "then run the same command again: it goes on where it stopped.",
            f"{self.path} 无法写入（{error}）。请释放磁盘空间或等待其他程序结束，"
            "然后重新执行同一命令：将从中断处继续。",
        )
