"""Run one call for several datasets in parallel, each in its own Spark session."""

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
AT_ONCE = 4  # threads; half of the time of a small dataset is spent waiting for Spark's driver or for one task


def side_by_side(lake: Lake, call: Callable[[_Item, Lake], _Result], items: Sequence[_Item]) -> list[_Result]:
    """The results of `call` for each item, in order. Up to AT_ONCE calls run in parallel, each with the lake in its own session.

    Sessions are separate because a commit's user metadata and ANSI mode are settings of the session; a new session begins with the
    settings of Spark's start. A single item is called in this thread, in the lake's own session. Ctrl-C takes effect when all calls
    have ended.
    """
    if len(items) < 2:
        return [call(item, lake) for item in items]

    def one(item: _Item) -> _Result:
        with lake.in_own_session() as own:
            return call(item, own)

    # Wrapping copies the local properties of this thread, which must not be shared: so each call is wrapped separately.
    work = [inheritable_thread_target(lake.spark)(partial(one, item)) for item in items]
    with _no_jobs_cancelled(), ThreadPoolExecutor(AT_ONCE, "suibus-dataset") as threads:
        return list(threads.map(lambda run: run(), work))


@contextmanager
def _no_jobs_cancelled() -> Iterator[None]:
    """Delay a Ctrl-C until the block has ended.

    PySpark's handler would cancel all jobs, and the threads would report that as failures. A second Ctrl-C is ignored: it would
    release the pass's lease while jobs still run.
    """

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    if (
        threading.current_thread() is not threading.main_thread()
        or getattr(handler, "__module__", "") != "pyspark.core.context"
    ):
        yield
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
