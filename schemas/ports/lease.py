"""A lease, which one holder has at a time.

It is a lock on a local file, which the operating system releases when the process ends, also after a kill.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

_POLL = 0.05  # seconds between two attempts

if sys.platform == "win32":  # never run on Windows so far; a test only imports it
    import msvcrt

    _LOCKED_BYTE = 1 << 30  # behind the text of the file, since a locked byte cannot be read on Windows

    def _take(file: IO[str], *, shared: bool = False) -> bool:
        file.seek(_LOCKED_BYTE)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _wait(file: IO[str]) -> None:
        while not _take(file):
            time.sleep(_POLL)

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


class Holder(NamedTuple):
    """The process that holds a lease, and the work for which it does, in a word."""

    pid: int
    work: str


class Lease:
    """The lease of one lock file. The file is never removed; its text is the id of the last holder's process and its work."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def hold(self, waiting: Callable[[], object] = lambda: None) -> Iterator[None]:
        """Hold the lease, waiting without limit; `waiting` is called once if another process holds it."""
        with self._open() as file:
            if not _take(file):
                waiting()
                _wait(file)
            _write_holder(file)
            yield

    @contextmanager
    def hold_if_free(self, seconds: float = 0.0, work: str = "") -> Iterator[bool]:
        """Hold the lease if it is free or becomes free within `seconds`; yields whether it is held. `work`: as in `Holder`."""
        until = time.monotonic() + seconds
        with self._open() as file:
            while not (held := _take(file)) and time.monotonic() < until:
                time.sleep(_POLL)
            if held:
                _write_holder(file, work)
            yield held

    def holder(self) -> Holder | None:
        """Who holds the lease; None if nobody does. A process that only asks is not taken for a holder."""
        if not self.path.exists():
            return None
        with self.path.open() as file:
            if _take(file, shared=True):
                return None
            pid, _, work = self.path.read_text("ascii").partition(" ")
            return Holder(int(pid), work) if pid else None

    def _open(self) -> IO[str]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.path.open("a+", encoding="ascii")


def _write_holder(file: IO[str], work: str = "") -> None:
    file.truncate(0)
    file.write(f"{os.getpid()} {work}")
    file.flush()
