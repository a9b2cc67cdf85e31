"""Copy folders: the copy is complete or absent, keeps modes and times, and is made while others write.

A copy is made in a draft folder beside its target, which gets the target's name once all of it is on disk.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from infra.file_digest import file_digest
from schemas.errors import StateError, UnavailableError, first_line
from schemas.ports.lease import Lease

BLOCK = 1 << 20
DRAFT_LEASE = "suibus.part"  # the lock file in a draft folder; it shows that a backup or restore made the folder


@contextmanager
def draft_of(target: Path) -> Iterator[Path]:
    """A folder next to the target that is renamed to the target once all of it is on disk; on an error it is deleted."""
    draft = target.with_name(f"{target.name}.part")
    in_use = StateError(
        f"{draft} cannot be used: another backup or restore is writing to it, or the folder belongs to something else. Wait, "
        "or move it away.",
        f"{draft} 无法使用：另一备份或恢复正在写入，或该文件夹另有用途。请等待，或将其移走。",
    )
    try:
        draft.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not ((draft / DRAFT_LEASE).exists() or not any(draft.iterdir())):
            raise in_use
        with Lease(draft / DRAFT_LEASE).hold_if_free() as held:
            if not held:
                raise in_use
            try:
                _empty(draft)
                yield draft
                os.sync()
                draft.rename(target)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise
            (target / DRAFT_LEASE).unlink()
    except OSError as error:
        raise UnavailableError(
            f"{target} was not created: {first_line(error)}. Check the disk and the permissions, then run the same command again.",
            f"未能生成 {target}：{first_line(error)}。请检查磁盘与权限，然后重新执行同一命令。",
        ) from error


def _empty(draft: Path) -> None:
    """Delete what a killed run left."""
    draft.chmod(0o700)
    for path in draft.iterdir():
        if path.name != DRAFT_LEASE:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def tree(root: Path, leave: Callable[[Path], bool] = lambda path: False) -> Iterator[Path]:
    """A folder and everything in it, parents first; links are followed.

    Sorted by name, so that an inbox is copied before its outbox: the inbox copy must not call a receipt answered
    if the outbox copy lacks the row that answers it.
    """
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        here = Path(folder)
        if (real := here.resolve()) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield here
        folders[:] = sorted(name for name in folders if not leave(here / name))
        yield from (here / name for name in sorted(files) if not leave(here / name))


def copy_file(source: Path, target: Path) -> str:
    """Copy a file with its mode and times; blocks of zeros become holes. The SHA-256 of the bytes read."""
    digest = hashlib.sha256()
    with source.open("rb") as read, target.open("xb") as write:
        while block := read.read(BLOCK):
            digest.update(block)
            if block == bytes(len(block)):  # Kafka preallocates its indexes
                write.seek(len(block), os.SEEK_CUR)
            else:
                write.write(block)
        write.truncate()
    shutil.copystat(source, target)
    return digest.hexdigest()


def copy_database(source: Path, target: Path) -> str:
    """Copy an SQLite file in a consistent state while others may write to it; the SHA-256 of the copy."""
    try:
        with closing(sqlite3.connect(source, timeout=60)) as database, closing(sqlite3.connect(target)) as copy:
            database.backup(copy)
    except sqlite3.DatabaseError as error:
        raise StateError(
            f"{source} cannot be read ({error}), so nothing was backed up. Restore it from an older backup, or move it away.",
            f"{source} 无法读取（{error}），因此未做备份。请从更早的备份恢复该文件，或将其移走。",
        ) from None
    shutil.copystat(source, target)
    return file_digest(target)
