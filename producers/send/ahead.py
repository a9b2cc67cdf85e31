"""A process of its own that sends the outbox while this one still accepts: two cores, and no waiting for each other.

It is told on its input when all is accepted: then it sends what waits, and ends. The end of its input is its parent's, and it ends
with it, as if both were one process: were it to go on, a publish that was killed and is run again would not know its own rows.
Wherever either is killed, the outbox knows what was sent.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import IO, Any, cast

from producers.send.sender import PAUSE, flush
from producers.send.transport import TransportName
from schemas.errors import SuibusError, UnavailableError

ROOT = Path(__file__).parents[2]
END = b"all is accepted\n"


class Background:
    """Such a process; whatever becomes of it, what it did not send still waits in the outbox."""

    def __init__(
        self, outbox_path: Path, servers: str, timeout: float, client: Mapping[str, Any], transport: TransportName
    ) -> None:
        self.sent = 0
        self._problem: SuibusError | None = None
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]  # found as this one was, installed or not
        process = self._process = subprocess.Popen(
            [sys.executable, "-m", "producers.send.ahead"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)}, start_new_session=True,  # Ctrl-C is for the parent
        )  # fmt: skip
        asked = {
            "outbox_path": str(outbox_path.absolute()), "bootstrap_servers": servers, "timeout": timeout,
            "client": dict(client), "transport": transport,
        }  # fmt: skip
        self._input, self._output = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
        with suppress(BrokenPipeError):  # it is gone: whoever flushes next sends all
            self._input.write(json.dumps(asked).encode() + b"\n")  # where no other user of the machine sees it
            self._input.flush()

    def finish(self, progress: Callable[[int], None] | None = None) -> None:
        """All is accepted: wait until it is sent. UnavailableError if the bus is away, and what waits is kept."""
        try:
            with suppress(BrokenPipeError):
                self._input.write(END)
                self._input.flush()
            for line in self._output:
                found = json.loads(line)
                if "en" in found:
                    self._problem = UnavailableError(found["en"], found["zh"])
                else:
                    self.sent = found["sent"]
                    if progress:
                        progress(self.sent)
            self._process.wait()
        finally:
            self.stop()
        if self._problem:
            raise self._problem

    def stop(self) -> None:
        """End it where it is; the next sender settles what was open."""
        if self._process.poll() is None:
            self._process.kill()
        with suppress(BrokenPipeError):
            self._input.close()
        self._output.close()
        self._process.wait()


def main() -> None:
    """Send until all is accepted and nothing waits; a line for each transaction, and one for what keeps rows waiting."""
    told = FileIO(0, closefd=False)  # sys.stdin has a lock, which the thread below would hold at the end
    asked = json.loads(told.readline() or "{}")
    if not asked:
        return
    ended, before, sent = threading.Event(), 0, 0

    def wait_for_end() -> None:
        if told.readline() == END:
            ended.set()
            told.read()
        os._exit(1)  # what it does not finish, the next sender settles

    def tell(now: int) -> None:
        nonlocal sent
        sent = before + now
        say(sent=sent)

    threading.Thread(target=wait_for_end, daemon=True).start()
    while True:
        last = ended.is_set()
        try:
            flush(**asked, progress=tell, more=lambda: not ended.is_set())
        except SuibusError as error:
            if last:
                say(en=error.en, zh=error.zh)
                return
            time.sleep(PAUSE)
        else:
            return
        before = sent


def say(**line: Any) -> None:
    """One line to the parent."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
