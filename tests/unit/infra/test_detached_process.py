"""A detached process outlives its starter, is not confused with another process of the same id, and can always be ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.kafka.detached_process import Process, birth, start_detached
from infra.terminal.log_tail import tail


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Process]:
    process = start_detached(["sleep", "60"], tmp_path, "out", os.environ)
    yield process
    process.end()


def soon(condition: Callable[[], object]) -> bool:
    """Whether it becomes true within ten seconds."""
    until = time.monotonic() + 10
    while not (found := condition()) and time.monotonic() < until:
        time.sleep(0.01)
    return bool(found)


def test_a_detached_process_outlives_its_starter_and_can_be_ended(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from infra.kafka.detached_process import start_detached\n"
        "print(start_detached(['sleep', '60'], Path(sys.argv[1]), 'out', os.environ).pid)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    process = Process(int(done.stdout), birth(int(done.stdout)) or "")
    assert process.alive
    process.end()
    assert not process.alive


def test_output_is_appended_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("before\n")
    process = start_detached(["sh", "-c", "echo said; echo wrong >&2"], tmp_path, "out", os.environ)
    assert soon(lambda: not process.alive)
    assert (tmp_path / "out").read_text() == "before\nsaid\nwrong\n"


def test_a_process_with_the_same_id_but_another_start_time_is_not_ended() -> None:
    stranger = Process(os.getpid(), "another boot 1")
    assert not stranger.alive
    stranger.end()  # must not end this test


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)",
    ]
    process = start_detached(command, tmp_path, "out", os.environ)
    assert soon(lambda: tail(tmp_path / "out"))
    process.end(asked=0.1)
    assert not process.alive


def test_process_that_was_killed_and_not_waited_for_is_not_alive() -> None:
    child = subprocess.Popen(["sleep", "60"])
    process = Process(child.pid, birth(child.pid) or "")
    assert process.alive
    child.send_signal(signal.SIGKILL)
    try:
        assert soon(lambda: not process.alive), "a zombie"
    finally:
        child.wait()


def test_a_running_process_keeps_its_start_time(sleeper: Process) -> None:
    assert birth(sleeper.pid) == birth(sleeper.pid) == sleeper.born
    assert birth(sleeper.pid) != birth(os.getpid())
