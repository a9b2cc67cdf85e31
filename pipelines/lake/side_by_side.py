"""Calls for several datasets at once, each in a Spark session of its own."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from pyspark.util import inheritable_thread_target

from pipelines.lake.lake import Lake

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
AT_ONCE = 4  # half of a small dataset's pass is waiting, for Spark's driver or for one task


def side_by_side(lake: Lake, call: Callable[[_Item, Lake], _Result], items: Sequence[_Item]) -> list[_Result]:
    """The results of a call for each item, in order; some run at once, each with the lake in a session of its own.

    What a commit says of itself and how a cast fails are settings of the session; a new one begins with those of Spark's start.
    One item alone is called here, in the lake's own session. A Ctrl-C is heard when all calls have ended.
    """
    if len(items) < 2:
        return [call(item, lake) for item in items]

    def one(item: _Item) -> _Result:
        with lake.in_own_session() as own:
            return call(item, own)

    # A thread inherits what its creator has set, which is copied when its work is wrapped: so each is wrapped by itself.
    work = [inheritable_thread_target(lake.spark)(partial(one, item)) for item in items]
    with _no_jobs_cancelled(), ThreadPoolExecutor(AT_ONCE, "suibus-dataset") as threads:
        return list(threads.map(lambda run: run(), work))


@contextmanager
def _no_jobs_cancelled() -> Iterator[None]:
    """Hear a Ctrl-C when the block has ended.

    PySpark's own answer is to cancel all jobs, which the threads would take for failures. A second Ctrl-C is not heard: it would
    free the pass's lease too early.
    """

    def hear(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    if (
        threading.current_thread() is not threading.main_thread()
        or getattr(handler, "__module__", "") != "pyspark.core.context"
    ):
        yield
        return
    signal.signal(signal.SIGINT, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
