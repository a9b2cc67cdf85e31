"""A node's state in one SQLite file: whole after any kill or power cut, and upgraded in place.

WAL with synchronous=FULL, every change one transaction. The file's `application_id` says what it is, and its
`user_version` which steps made it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Self

from schemas.errors import StateError, UnavailableError

MOST_VALUES = 999  # of one statement: what every SQLite takes, however it was built


class StateFile:
    """One such file, made where there is none, brought up to the newest version where it is older.

    StateError if it is another program's, or was written by a newer Suibus or one from before version 1; then nothing was
    changed. One thread at a time; several processes may open it at once.
    """

    kind: ClassVar[tuple[str, str]]  # what it is, as messages say it
    application_id: ClassVar[int]  # SQLite's own field for what wrote a file, 4 bytes; each kind has its own
    steps: ClassVar[tuple[str, ...]]  # SQL that makes version 1 of nothing, version 2 of version 1, …
    unmarked: ClassVar[tuple[str, str]]  # what else to do with one that a Suibus from before version 1 wrote

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
        en, zh = self.kind
        try:
            self._db.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, MOST_VALUES)
            self._check_version()
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

    def _check_version(self) -> int:
        """The file's version, 0 where it is new; StateError if it is none that this Suibus reads."""
        mark, version = (int(self._ask(f"PRAGMA {name}")) for name in ("application_id", "user_version"))
        (en, zh), known = self.kind, len(self.steps)
        if mark == version == 0 and not self._ask("SELECT count(*) FROM sqlite_master"):
            return 0
        if mark != self.application_id:
            raise StateError(
                f"{self.path} is not marked as an {en}: another program wrote it, or a Suibus from before {en} version 1. Move "
                f"it away. If Suibus wrote it, {self.unmarked[0]}.",
                f"{self.path} 没有{zh}的标记：它由其他程序写入，或由{zh}版本 1 之前的 Suibus 写入。请将其移走。"
                f"如由 Suibus 写入，{self.unmarked[1]}。",
            )
        if version > known:
            raise StateError(
                f"{self.path} was written by a newer Suibus ({en} version {version}, known here "
                f"{known}). Upgrade Suibus on this node.",
                f"{self.path} 由更新版本的 Suibus 写入（{zh}版本 {version}，此处支持 {known}）。"
                "请升级本节点的 Suibus。",
            )
        return version

    def _bring_up(self) -> None:
        if self._check_version() < len(self.steps):
            with self._write() as db:
                for step in self.steps[self._check_version() :]:  # another process may have been faster
                    for statement in step.split(";"):
                        db.execute(statement)
                db.execute(f"PRAGMA application_id={self.application_id}")
                db.execute(f"PRAGMA user_version={len(self.steps)}")

    def _ask(self, sql: str) -> int:
        return int(self._db.execute(sql).fetchone()[0])

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
