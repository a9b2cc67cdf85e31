"""A process of its own that sends the outbox while this one still accepts: two cores, and no waiting for each other.

One line on its input says that all is accepted: then it sends what waits, and ends. When its input ends, its parent has
ended, and it ends too, as if both were one process: were it to go on, a publish that was killed and is run again would not
know its own rows. Wherever either is killed, the outbox knows what was sent.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import IO, Any, cast

from pydantic import SecretStr, TypeAdapter

from producers.send.sender import PAUSE, flush
from producers.send.transport import TransportName
from schemas.errors import SuibusError, UnavailableError
from schemas.ports.kafka_access import KafkaAccess

END = b"all is accepted\n"


@dataclass(frozen=True)
class Order:
    """What the process is to do: one line on its input, where no other user of the machine sees the password in it."""

    outbox_path: Path
    kafka: KafkaAccess
    timeout: float
    transport: TransportName

    def to_json(self) -> bytes:
        """The order as one line, the password in plain text."""
        return json.dumps(asdict(self), default=_plain).encode()

    @staticmethod
    def from_json(line: bytes) -> Order:
        """The order of a line."""
        return TypeAdapter(Order).validate_json(line)


def _plain(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


class Ahead:
    """Such a process; whatever becomes of it, what it did not send still waits in the outbox."""

    def __init__(self, order: Order) -> None:
        self.sent = 0
        self._problem: SuibusError | None = None
        # It finds this package where this process found it, installed or not.
        code = f"import sys; sys.path = {sys.path!r}; from producers.send.background_sender import main; main()"
        process = self._process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the parent
        )  # fmt: skip
        self._input, self._output = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
        with suppress(BrokenPipeError):  # it has ended: whoever flushes next sends all
            self._input.write(order.to_json() + b"\n")
            self._input.flush()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

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
    orders = FileIO(0, closefd=False)  # sys.stdin has a lock, which the thread below would hold at the end
    line = orders.readline()
    if not line:
        return
    order = Order.from_json(line)
    ended, before, sent = threading.Event(), 0, 0

    def wait_for_end() -> None:
        if orders.readline() == END:
            ended.set()
            orders.read()
        os._exit(1)  # what it does not finish, the next sender settles

    def say_sent(now: int) -> None:
        nonlocal sent
        sent = before + now
        say(sent=sent)

    threading.Thread(target=wait_for_end, daemon=True).start()
    while True:
        last = ended.is_set()
        try:
            flush(
                order.outbox_path, order.kafka, order.timeout, transport=order.transport,
                progress=say_sent, more=lambda: not ended.is_set(),
            )  # fmt: skip
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
