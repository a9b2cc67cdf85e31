"""`suibus up`: the process that runs a bus, from the start of the broker to a pass whenever something is new."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from infra.bus.bus import Bus
from infra.bus.state import Running, now
from infra.operate.metrics import serve_metrics
from pipelines.ingest.offsets import TopicState
from schemas.errors import InputError, SuibusError, UnavailableError, first_line
from schemas.ports.state_format import make_state_folder
from schemas.tell import Tell

if TYPE_CHECKING:
    from pipelines.lake.lake import Lake

log = logging.getLogger(__name__)
RETRY_AFTER = 10.0  # seconds before a pass or dataset that failed is tried again
LOOK_EVERY = 1.0  # seconds between two looks at the topics, the contract folders and the outboxes


def run(bus: Bus, tell: Tell, *, services_only: bool = False, secure: bool = False) -> None:
    """Run the bus until told to stop (SIGTERM or Ctrl-C); the pass that runs then is finished first.

    With `secure` the embedded broker lets nobody in without credentials, from now on. StateError if the bus runs already.
    """
    settings = bus.settings
    if secure and settings.access:
        raise InputError(
            f"--secure is for the embedded broker; who may do what on {settings.access.servers} is set up there.",
            f"--secure 只用于内置消息代理；{settings.access.servers} 的权限请在该处设置。",
        )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with bus.only_one():
        if settings.metrics_port:
            serve_metrics(bus, settings.metrics_port)
        beside = ThreadPoolExecutor(1, "suibus-spark")
        spark: list[Future[Lake]] = []

        def start_spark() -> None:
            if not services_only:
                spark.append(beside.submit(bus.lake))

        try:
            if settings.access:
                start_spark()
            else:
                address = bus.broker.start(tell, secure=secure, meanwhile=start_spark)
                tell(f"Kafka answers at {address}", f"Kafka 已就绪：{address}")
            fresh = {d.id for d in bus.adopt_contracts(tell)}
            for started in spark:
                started.result()
                tell("Spark is ready; the pipeline runs", "Spark 已就绪，流水线运行中")
            bus.state.note_running(Running(os.getpid(), not services_only, now()))
            tell("ready", "就绪")
            # It is cut off when the process ends, which an outbox survives.
            threading.Thread(target=_send_outboxes, args=(bus, stop), name="suibus-outboxes", daemon=True).start()
            _watch(bus, stop, services_only, fresh, tell)
        finally:
            bus.state.note_running(None)
            if not settings.access:
                bus.broker.stop()
            tell("stopped", "已停止")


def start_detached(
    bus: Bus, tell: Tell, *, services_only: bool = False, secure: bool = False, timeout: float = 180
) -> None:
    """Start `suibus up` as a process of its own and wait until it is ready."""
    if bus.state.up_lease.holder():
        raise bus.running_already()
    make_state_folder(bus.home)
    said = bus.state.up_log
    said.parent.mkdir(parents=True, exist_ok=True)
    flags = [*(["--services-only"] if services_only else []), *(["--secure"] if secure else [])]
    with said.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "infra.cli", "up", *flags],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env=os.environ | {"SUIBUS_HOME": str(bus.home)},
        )
    deadline = time.monotonic() + timeout
    while process.poll() is None and time.monotonic() < deadline:
        running = bus.state.running()
        if running and running.pid == process.pid:
            tell(f"ready; log in {said}", f"就绪，日志：{said}")
            return
        time.sleep(0.1)
    process.terminate()
    lines = "\n".join(said.read_text("utf-8", "replace").splitlines()[-15:])
    raise UnavailableError(
        f"The bus did not become ready. The end of {said}:\n{lines}\nRun `suibus doctor`.",
        f"总线未能就绪，日志 {said} 的末尾：\n{lines}\n请运行 suibus doctor。",
    )


def stop(bus: Bus, timeout: float = 120) -> bool:
    """Stop the bus and its broker; False if neither ran. A pass under way is finished, or after the timeout cut off."""
    lease = bus.state.up_lease
    pid = lease.holder()
    if pid:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + timeout
        while lease.holder() == pid and time.monotonic() < deadline:
            time.sleep(0.1)
        if lease.holder() == pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    orphaned = bus.broker.running()
    bus.broker.stop()
    return bool(pid) or orphaned


def _send_outboxes(bus: Bus, stop: threading.Event) -> None:
    """Send what nodes on this machine accept, beside the passes: a long outbox holds up no pass, nor a pass an outbox."""
    while not stop.wait(LOOK_EVERY):
        bus.flush_outboxes()


def _watch(bus: Bus, stop: threading.Event, services_only: bool, fresh: set[str], tell: Tell) -> None:
    """Look once a second; run a pass when something was published, a contract is new, or a retry is due."""
    told: tuple[str, str] | None = None  # the error that a person was told last: once, not every second
    seen: dict[str, TopicState] | None = None
    due: set[str] | None = None  # the datasets that the next pass takes beside those with news; None is all
    retry_at = time.monotonic()
    while not stop.is_set():
        try:
            if not bus.settings.access and not bus.broker.running():
                tell(f"Kafka had stopped; it answers again at {bus.broker.start(tell)}", "Kafka 曾停止，现已恢复")
            if bus.contracts.changed():
                fresh |= {d.id for d in bus.adopt_contracts(tell)}
            if not services_only:
                latest = bus.kafka.states(bus.contracts.topics())
                if latest != seen or fresh or (due != set() and time.monotonic() >= retry_at):
                    info = bus.sync(None if due is None else due | fresh, tell)
                    seen, fresh, due = latest, set(), set(info.failures)
                    retry_at = time.monotonic() + RETRY_AFTER
                    if any(info.ingested.values()) and not info.failures:
                        told = None
                        continue  # more came while it ran, as long as somebody publishes steadily
            told = None
        except Exception as error:  # a look or pass that failed is tried again; nothing is lost by waiting
            if not isinstance(error, SuibusError):
                log.exception("the pass failed and will be tried again")
            reason = (error.en, error.zh) if isinstance(error, SuibusError) else (first_line(error), first_line(error))
            if reason != told:
                tell(*reason)
            told = reason
            stop.wait(RETRY_AFTER if seen is not None else LOOK_EVERY)
        stop.wait(LOOK_EVERY)
