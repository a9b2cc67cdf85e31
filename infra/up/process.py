"""The process that runs a bus: run it in the foreground, start it in the background, stop it."""

from __future__ import annotations

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
from infra.terminal.log_tail import tail
from infra.up.loop import send_outboxes, watch
from schemas.errors import InputError, UnavailableError
from schemas.ports.state_format import make_state_folder
from schemas.progress_messages import Tell

if TYPE_CHECKING:
    from pipelines.lake.lake import Lake


def run(bus: Bus, tell: Tell, *, services_only: bool = False, secure: bool = False) -> None:
    """Run the bus in this process until SIGTERM or Ctrl-C; a pass under way is finished first.

    With `secure` the embedded broker accepts only clients with credentials, now and in later runs. StateError if the bus is
    already running; InputError for `secure` with an external Kafka.
    """
    settings = bus.settings
    if secure and settings.access:
        raise InputError(
            f"--secure is only for the embedded broker. Set up the access rights of {settings.access.servers} there.",
            f"--secure 只用于内置消息代理；{settings.access.servers} 的权限请在该处设置。",
        )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with bus.only_one("up"):
        if settings.metrics_port:
            serve_metrics(bus, settings.metrics_port)
        executor = ThreadPoolExecutor(1, "suibus-spark")
        spark: list[Future[Lake]] = []

        def start_spark() -> None:
            if not services_only:
                spark.append(executor.submit(bus.lake))

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
            # A daemon thread: it ends with the process, and outboxes lose nothing by that.
            threading.Thread(target=send_outboxes, args=(bus, stop), name="suibus-outboxes", daemon=True).start()
            watch(bus, stop, services_only, fresh, tell)
        finally:
            bus.state.note_running(None)
            if not settings.access:
                bus.broker.stop()
            tell("stopped", "已停止")


def start_in_background(
    bus: Bus, tell: Tell, *, services_only: bool = False, secure: bool = False, timeout: float = 180
) -> None:
    """Start `suibus up` as a separate process and wait until it is ready.

    UnavailableError with the end of its log if it ends or is not ready within `timeout` seconds; it is then terminated.
    """
    if bus.state.up_lease.holder():
        raise bus.busy()
    make_state_folder(bus.home)
    log_file = bus.state.up_log
    log_file.parent.mkdir(parents=True, exist_ok=True)
    flags = [*(["--services-only"] if services_only else []), *(["--secure"] if secure else [])]
    with log_file.open("wb") as out:
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
            tell(f"ready; log in {log_file}", f"就绪，日志：{log_file}")
            return
        time.sleep(0.1)
    process.terminate()
    lines = tail(log_file)
    raise UnavailableError(
        f"The bus did not become ready. The end of the log {log_file}:\n{lines}\nRun `suibus doctor`.",
        f"总线未能就绪，日志 {log_file} 的末尾：\n{lines}\n请运行 suibus doctor。",
    )


def stop(bus: Bus, timeout: float = 120) -> bool:
    """Stop the bus and its broker; False if neither was running. StateError if a backup or restore is at work: that is not ended.

    A pass under way may finish within `timeout` seconds; after that the process is killed, and the next pass continues.
    """
    lease = bus.state.up_lease
    holder = lease.holder()
    if holder and holder.work != "up":
        raise bus.busy()
    if holder:
        with suppress(ProcessLookupError):
            os.kill(holder.pid, signal.SIGTERM)
        deadline = time.monotonic() + timeout
        while lease.holder() == holder and time.monotonic() < deadline:
            time.sleep(0.1)
        if lease.holder() == holder:
            with suppress(ProcessLookupError):
                os.kill(holder.pid, signal.SIGKILL)
    orphaned = bus.broker.running()
    bus.broker.stop()
    return holder is not None or orphaned
