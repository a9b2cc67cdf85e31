"""A process under test: started, given commands, killed. Every wait for it has a time limit."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock

from tests.faults.kill.deaths import AtMoment, AtPoint
from tests.faults.kill.points import Side
from tests.faults.kill.worker import Answer, Order, work

ANSWER_SECONDS = 300.0  # a process that does not answer for so long hangs
END_SECONDS = 30.0

# Each is forked from a process that has imported everything. Importing takes five seconds, longer than most of them live.
_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(["tests.faults.kill.preload"])
# One of the libraries creates locks when it is imported, and Python would warn at the end that they are not released.
os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")
_ONE_AT_A_TIME = Lock()  # starting a process also collects ended ones, and two threads must not collect the same one


class RunError(Exception):
    """The run cannot continue; the message says why."""


class Process:
    """One process under test, in a process group of its own (the city's JVM is in it)."""

    def __init__(self, side: Side, home: Path, environment: Mapping[str, str]) -> None:
        self._log = home / f"{side}.log"
        self._orders: Connection[Order, Answer]
        self._orders, there = _FORKED.Pipe()
        self._process = _FORKED.Process(target=work, args=(side, home, environment, there))
        with _ONE_AT_A_TIME:
            self._process.start()
        there.close()
        self._ready = False

    @property
    def group(self) -> int:
        """The id of its process group."""
        assert self._process.pid
        return self._process.pid

    def order(
        self, words: tuple[str, ...], death: AtPoint | AtMoment | None = None, seconds: float = 0.0
    ) -> Answer | None:
        """Run a command; None if the process was killed as planned, `AtMoment` after so many seconds from here.

        RunError if it ends in another way or does not answer in time; its log then shows where each of its threads was.
        """
        if not self._ready:
            self._receive(ANSWER_SECONDS, "it was started", None)
            self._ready = True
        shown = f"`suibus {' '.join(words)}`"
        point = death if isinstance(death, AtPoint) else None
        with suppress(BrokenPipeError):  # it has ended: reported below
            self._orders.send(Order(words, point))
        if isinstance(death, AtMoment) and not self._orders.poll(seconds):
            self.kill(death.group)
            return None
        return self._receive(ANSWER_SECONDS, shown, point)

    def _receive(self, seconds: float, since: str, death: AtPoint | None) -> Answer | None:
        if not self._orders.poll(seconds):
            os.kill(self.group, signal.SIGABRT)
            self._status()
            raise RunError(f"no answer in {seconds:.0f} s since {since}; the end of {self._log}:\n{self._tail()}")
        try:
            return self._orders.recv()
        except (EOFError, ConnectionResetError):
            status = self._status()
            if death and status == -signal.SIGKILL:
                return None
            raise RunError(
                f"the process ended by itself ({status}) after {since}; the end of {self._log}:\n{self._tail()}"
            ) from None

    def _tail(self) -> str:
        return "\n".join(self._log.read_text("utf-8", "replace").splitlines()[-40:])

    def kill(self, group: bool = True) -> None:
        """Kill it, with its JVM or alone. It may have ended already."""
        with suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.group, signal.SIGKILL)
        self._status()

    def _status(self) -> int | None:
        with _ONE_AT_A_TIME:
            self._process.join(END_SECONDS)
            return self._process.exitcode

    def close(self) -> None:
        """Close the connection to it after it has ended. Its JVM may live and work a little longer."""
        self._orders.close()


def alive(group: int) -> bool:
    """Whether any process of a group lives."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
