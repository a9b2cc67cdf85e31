"""Kills the processes of a working bus many times, and compares the bus with a model in plain Python.

    make faults [KILLS=200] [SEED=…]

Three districts publish random files into two datasets, and the city releases them: real outboxes, a real broker, real
Spark and Delta. Meanwhile the node's process, the city's (alone, or with its JVM) and the broker are killed with SIGKILL,
at named points and at random moments, and started again. At the end everything is sent and released, without kills, and
compared with what was accepted. The last line is `kills N lost N doubled N wrong N`. Exit status 0: lost, doubled and wrong
are 0 and every point that was tried was hit; 1: not so; 2: the run could not continue, and says why. A first Ctrl-C ends
the killing early and compares; a second one ends the run.

The seed decides the files, their order, and how each process is killed; how far the process gets first depends on the machine.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.faults.kill.harness import Harness
from tests.faults.kill.points import missing
from tests.faults.kill.process import RunError
from tests.own_settings import forget_own_settings


def main() -> int:
    """Run and print the result; returns the exit status."""
    forget_own_settings()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument(
        "--home", type=Path, help="folder for the bus, kept; else a temporary one, kept if anything is wrong"
    )
    given = parser.parse_args()
    if gone := missing():
        print("\n".join(gone), "Name in tests/faults/kill/points.py what took their place.", sep="\n")
        return 2
    home = given.home or Path(tempfile.mkdtemp(prefix="suibus-faults-")) / "bus"
    print(f"KILLS={given.kills} SEED={given.seed}  {home}", flush=True)
    harness = Harness(home, given.kills, given.seed)
    deaths = harness.deaths

    def enough(*_: object) -> None:
        if not deaths.target:
            sys.exit("stopped")
        deaths.target = 0

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, enough)
    stopped = ""
    try:
        tally = harness.run()
    except RunError as error:
        tally, stopped = harness.tally, str(error)
    print("\n".join(deaths.statement()))
    events = [e for found in harness.model.events.values() for e in found]
    refused = sum(e.refused for e in events)
    print(f"{len(events):,} records of {len(harness.files)} files were accepted, {refused} of them break the rule")
    for note in tally.notes:
        print(note)
    if stopped:
        print(f"stopped after {deaths.kills.total()} kills, nothing was compared: {stopped}", flush=True)
        return 2
    unreachable = deaths.unreachable()
    if unreachable:
        print(f"Tried three times and never hit, so look where the function is called now: {'; '.join(unreachable)}")
    good = not (tally.lost or tally.doubled or tally.wrong or unreachable)
    if good and not given.home:
        shutil.rmtree(home.parent)
    print(f"kills {deaths.kills.total()} lost {tally.lost} doubled {tally.doubled} wrong {tally.wrong}", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
