"""A lease: whoever holds it works alone. Today it is a lock on a file of this machine, which ends with its process, however that ends."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_LOOK_EVERY = 0.05  # seconds between two attempts, where the system cannot wait by itself

if sys.platform == "win32":  # not run yet: imported by a test only
    import msvcrt

    _LOCKED_BYTE = 1 << 30  # beyond any text: Windows lets nobody read a locked byte

    def _take(file: IO[str], *, shared: bool = False) -> bool:
        file.seek(_LOCKED_BYTE)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _wait(file: IO[str]) -> None:
        while not _take(file):
            time.sleep(_LOOK_EVERY)

else:
    import fcntl

    def _take(file: IO[str], *, shared: bool = False) -> bool:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _wait(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX)


class Lease:
    """The lease that a file stands for. The file stays when nobody holds the lease; its text is the last holder's process id."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def hold(self, waiting: Callable[[], object] = lambda: None) -> Iterator[None]:
        """Hold the lease, however long another holds it; `waiting` is called once if another does."""
        with self._open() as file:
            if not _take(file):
                waiting()
                _wait(file)
            _sign(file)
            yield

    @contextmanager
    def hold_if_free(self, seconds: float = 0.0) -> Iterator[bool]:
        """Hold the lease if it is or becomes free within some seconds; whether it is held."""
        until = time.monotonic() + seconds
        with self._open() as file:
            while not (held := _take(file)) and time.monotonic() < until:
                time.sleep(_LOOK_EVERY)
            if held:
                _sign(file)
            yield held

    def holder(self) -> int | None:
        """The id of the process that holds the lease, None if none does. Two processes that ask do not see each other."""
        if not self.path.exists():
            return None
        with self.path.open() as file:
            return None if _take(file, shared=True) else int(self.path.read_text("ascii") or 0) or None

    def _open(self) -> IO[str]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.path.open("a+", encoding="ascii")


def _sign(file: IO[str]) -> None:
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
