"""A detached process outlives its starter, is not confused with another process of the same id, and can always be ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.jvm.process import Process, birth, exchanged_environment, start_detached, tail


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Process]:
    process = start_detached(["sleep", "60"], tmp_path, "out", os.environ)
    yield process
    process.end()


def test_a_detached_process_outlives_its_starter_and_can_be_ended(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from infra.jvm.process import start_detached\n"
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
    while process.alive:
        time.sleep(0.01)
    assert tail(tmp_path / "out") == "before\nsaid\nwrong"


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
    while not tail(tmp_path / "out"):
        time.sleep(0.01)
    process.end(asked=0.1)
    assert not process.alive


def test_process_that_was_killed_and_not_waited_for_is_not_alive() -> None:
    child = subprocess.Popen(["sleep", "60"])
    process = Process(child.pid, birth(child.pid) or "")
    child.send_signal(signal.SIGKILL)
    while process.alive:
        time.sleep(0.01)
    child.wait()


def test_a_running_process_keeps_its_start_time(sleeper: Process) -> None:
    assert birth(sleeper.pid) == birth(sleeper.pid) == sleeper.born
    assert birth(sleeper.pid) != birth(os.getpid())


def test_the_environment_is_replaced_in_a_block_and_restored_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEFORE", "1")
    before = dict(os.environ)

    def fail() -> None:
        with exchanged_environment({"ONLY": "2"}):
            assert dict(os.environ) == {"ONLY": "2"}
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert dict(os.environ) == before


def test_tail_of_a_log_that_is_absent_is_empty(tmp_path: Path) -> None:
    assert tail(tmp_path / "none") == ""
