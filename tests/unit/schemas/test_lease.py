"""A lease: one process holds it, others wait or are refused, and it ends when its process ends or is killed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from schemas.ports.lease import Holder, Lease

HOLD = (
    "import sys, time; from pathlib import Path; from schemas.ports.lease import Lease\n"
    "with Lease(Path(sys.argv[1])).hold_if_free(0, 'copying'):\n    print('held', flush=True)\n    time.sleep(60)"
)


@pytest.fixture
def lease(tmp_path: Path) -> Lease:
    return Lease(tmp_path / "run" / "some.lock")


def holding(lease: Lease) -> subprocess.Popen[str]:
    """Another process that holds the lease."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(lease.path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_nobody_holds_a_lease_that_was_never_taken_and_asking_makes_no_file(lease: Lease) -> None:
    assert lease.holder() is None
    assert not lease.path.exists()


def test_a_lease_names_its_holder_and_its_work_and_ends_when_that_is_killed(lease: Lease) -> None:
    other = holding(lease)
    try:
        assert lease.holder() == Holder(other.pid, "copying")
        with lease.hold_if_free() as held:
            assert not held
        with lease.hold_if_free(0.2) as held:
            assert not held
    finally:
        other.kill()
        other.wait()
    assert lease.holder() is None, "the holder ended; its id is still in the file, and may be another process's now"
    with lease.hold_if_free() as held:
        assert held


def test_a_waiting_process_is_told_once_and_continues_when_the_holder_ends(lease: Lease) -> None:
    other, told = holding(lease), list[float]()

    def waiting() -> None:
        told.append(time.monotonic())
        other.kill()

    with lease.hold(waiting):
        assert len(told) == 1
    other.wait()


def test_two_processes_that_ask_for_the_holder_do_not_see_each_other(lease: Lease) -> None:
    with lease.hold_if_free():
        pass
    asking = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"from schemas.ports.lease import Lease; from pathlib import Path\n"
                f"assert all(Lease(Path({str(lease.path)!r})).holder() is None for _ in range(2000))",
            ]
        )
        for _ in range(2)
    ]
    assert [process.wait(60) for process in asking] == [0, 0]
