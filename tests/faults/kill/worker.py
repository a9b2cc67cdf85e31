"""The process that the harness kills: it runs the commands it is given, and kills itself at the point it is given."""

from __future__ import annotations

import faulthandler
import io
import json
import os
import signal
import sqlite3
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

from tests.faults.kill.deaths import AtPoint
from tests.faults.kill.points import COMMIT, POINTS, PRELOADED, Side, changes, find, put, replaced

SHOWN = 4_000  # characters of what a command printed
DUMP = "dump"


@dataclass(frozen=True)
class Order:
    """A `suibus` command, and where its process is to kill itself; or `DUMP` and a file to write the lake's contents to."""

    words: tuple[str, ...]
    death: AtPoint | None = None


@dataclass(frozen=True)
class Answer:
    """The result of a command. Without status: it raised an unexpected error, whose traceback is in `errors`."""

    status: int | None
    said: str = ""
    errors: str = ""

    @property
    def reason(self) -> str:
        """The last lines that it printed; its errors if there are any."""
        lines = (self.errors.strip() or self.said.strip() or "it printed nothing").splitlines()
        return "\n".join(lines[-12:])


READY = Answer(0, "ready")


def work(side: Side, home: Path, environment: Mapping[str, str], orders: Connection[Answer, Order]) -> None:
    """Answer READY, then run each order and answer it, until the connection is closed."""
    os.setsid()
    with (home / f"{side}.log").open("ab") as log:
        for output in (1, 2):
            os.dup2(log.fileno(), output)
    if absent := [name for name in PRELOADED if name not in sys.modules]:
        raise ImportError(f"not imported before the fork: {', '.join(absent)}; see tests/faults/kill/preload.py")
    faulthandler.enable()  # SIGABRT makes a process that hangs write where each of its threads is
    os.environ.clear()
    os.environ.update(environment)
    for target, value in changes(home / "offered").items():
        put(target, value)
    if side == "city":
        _start_spark()
    orders.send(READY)
    while True:
        try:
            order = orders.recv()
        except EOFError:
            return
        if order.words[0] == DUMP:
            from tests.faults.kill.read_lake import read_lake

            Path(order.words[1]).write_text(json.dumps(read_lake(), ensure_ascii=False, default=str), "utf-8")
            orders.send(Answer(0))
            continue
        with _armed(order.death):
            answer = run(order.words)
        orders.send(answer)


def _start_spark() -> None:
    from infra.jvm.spark import spark_session
    from infra.settings import read_settings

    settings = read_settings()
    spark = spark_session(settings)
    for name in ("releases", "account"):
        if (path := Path(settings.lake_path) / name).exists():
            spark.read.format("delta").load(str(path)).count()


class _Both(io.StringIO):
    """Keeps what is printed, and writes it to the log too."""

    def __init__(self, log: IO[str]) -> None:
        super().__init__()
        self._log = log

    def write(self, text: str) -> int:
        self._log.write(text)
        return super().write(text)

    def flush(self) -> None:
        self._log.flush()


def run(words: tuple[str, ...], shown: int = SHOWN) -> Answer:
    """Run a `suibus` command in this process."""
    from infra.cli import main

    said, errors, status = io.StringIO(), _Both(sys.stderr), 0
    with redirect_stdout(said), redirect_stderr(errors):
        try:
            main.main(args=list(words), prog_name="suibus", standalone_mode=False)
        except SystemExit as end:
            status = int(end.code or 0)
        except Exception:
            return Answer(None, said.getvalue()[-shown:], traceback.format_exc()[-shown:])
    return Answer(status, said.getvalue()[-shown:], errors.getvalue()[-shown:])


def _die(group: bool) -> None:
    """Kill this process with SIGKILL, alone or with its JVM."""
    if group:
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def _armed(death: AtPoint | None) -> Iterator[None]:
    """Within the block this process kills itself when it reaches the point of `death`."""
    if death is None:
        yield
        return
    point, left = POINTS[death.point], death.nth

    def around(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal left
        if point.begins and not any(isinstance(a, str) and a.startswith(point.begins) for a in args):
            return call(*args, **kwargs)
        left -= 1
        if left:
            return call(*args, **kwargs)
        if point.when == "before":
            _die(death.group)
        if point.when == "during":
            timer = threading.Timer(death.delay, _die, (death.group,))
            timer.daemon = True
            timer.start()
            try:
                return call(*args, **kwargs)
            finally:
                _die(death.group)
        result = call(*args, **kwargs)
        _die(death.group)
        return result

    if point.target == COMMIT:  # a method of a C class cannot be replaced, so connections get another class
        target, connect = "sqlite3:connect", sqlite3.connect

        class Watched(sqlite3.Connection):
            def execute(self, *args: Any) -> sqlite3.Cursor:
                result: sqlite3.Cursor = around(super().execute, *args)
                return result

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return connect(*args, factory=Watched, **kwargs)
    else:
        target, (_, _, found) = point.target, find(point.target)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return around(found, *args, **kwargs)

    with replaced(target, wrapped):
        yield
