"""A process that goes on when the command that started it ends: start it, recognize it by its start time, end it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process of this machine. Process ids are used again: the same id with another start time is another process."""

    pid: int
    born: str

    @property
    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        return birth(self.pid) == self.born

    def end(self, asked: float = 20.0, killed: float = 10.0) -> None:
        """Ask it to end; kill it after `asked` seconds; wait at most `killed` more seconds until it has ended."""
        for number, seconds in ((signal.SIGTERM, asked), (signal.SIGKILL, killed)):
            if self.alive:
                os.kill(self.pid, number)
                until = time.monotonic() + seconds
                while self.alive and time.monotonic() < until:
                    time.sleep(0.05)


def start_detached(command: Sequence[str], folder: Path, output: str, environment: Mapping[str, str]) -> Process:
    """Start a command in a folder, in a new session; its output is appended to the file `output` there."""
    # The shell puts the command into the background and ends. So the command does not end with this process and leaves no zombie.
    in_background = ["sh", "-c", 'output=$1; shift; nohup "$@" >>"$output" 2>&1 </dev/null & echo $!', "sh", output]
    started = subprocess.run(
        [*in_background, *command],
        cwd=folder,
        env=environment,
        start_new_session=True,
        capture_output=True,
        text=True,
        check=True,
    )
    pid = int(started.stdout)
    return Process(pid, birth(pid) or "over")


def birth(pid: int) -> str | None:
    """When a process started, as a text that no other process with this id has; None if none runs."""
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return None if fields[0] in "ZX" else f"{boot} {fields[19]}"  # clock ticks since that boot
    asked = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    status, _, began = asked.stdout.strip().partition(" ")
    return began.strip() if status and not status.startswith("Z") else None
