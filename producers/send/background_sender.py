"""A child process that sends the outbox while the parent still accepts rows, so that the two use two cores.

The parent writes the order as the first line to its standard input, and `END` once all rows are accepted; the child then
sends the rest and ends. If its input ends before it has finished, the parent has died, and the child ends at
once: otherwise a publish that is run again would find its outbox changed by the child of the killed run. Whichever of the
two is killed, the outbox and the bus show which rows were sent.
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

from producers.send.sender import RETRY_PAUSE, flush
from producers.send.transport import TransportName
from schemas.errors import SuibusError, UnavailableError
from schemas.ports.kafka_access import KafkaAccess

END = b"all is accepted\n"


@dataclass(frozen=True)
class SendOrder:
    """What the child process is to send, and how.

    It is passed on standard input, since it holds a password and arguments are visible to other users of the machine.
    """

    outbox_path: Path
    kafka: KafkaAccess
    timeout: float
    transport: TransportName

    def to_json(self) -> bytes:
        """The order as one line of JSON, with the password in plain text."""
        return json.dumps(asdict(self), default=_plain).encode()

    @staticmethod
    def from_json(line: bytes) -> SendOrder:
        """The order that `to_json` wrote."""
        return TypeAdapter(SendOrder).validate_json(line)


def _plain(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


class BackgroundSender:
    """The child process, as the parent sees it. If it dies, the rows that it has not sent still wait in the outbox."""

    def __init__(self, order: SendOrder) -> None:
        self.sent = 0
        self._problem: SuibusError | None = None
        # The child gets our sys.path, so that it finds this package even if it is not installed.
        code = f"import sys; sys.path = {sys.path!r}; from producers.send.background_sender import main; main()"
        process = self._process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the parent
        )  # fmt: skip
        self._input, self._output = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
        with suppress(BrokenPipeError):  # it has died: the next flush sends all
            self._input.write(order.to_json() + b"\n")
            self._input.flush()

    def finish(self, progress: Callable[[int], None] | None = None) -> None:
        """Report that all rows are accepted, and wait until they are sent and the child has ended.

        `progress` gets the number of rows sent so far. UnavailableError if the bus cannot be reached; the rows that wait are
        kept.
        """
        try:
            with suppress(BrokenPipeError):
                self._input.write(END)
                self._input.flush()
            for line in self._output:
                report = json.loads(line)
                if "en" in report:
                    self._problem = UnavailableError(report["en"], report["zh"])
                else:
                    self.sent = report["sent"]
                    if progress:
                        progress(self.sent)
            self._process.wait()
        finally:
            self.stop()
        if self._problem:
            raise self._problem

    def stop(self) -> None:
        """Kill the child if it runs; the next sender settles a transaction that it left open."""
        if self._process.poll() is None:
            self._process.kill()
        with suppress(BrokenPipeError):
            self._input.close()
        self._output.close()
        self._process.wait()


def main() -> None:
    """The child process: send until all rows are accepted and none waits.

    It writes a line of JSON for each transaction, `sent`, and one at the end if rows still wait, the reason in `en` and `zh`.
    """
    from_parent = FileIO(0, closefd=False)  # not sys.stdin: the thread below would hold its lock when the process ends
    line = from_parent.readline()
    if not line:
        return
    order = SendOrder.from_json(line)
    all_accepted, before, sent = threading.Event(), 0, 0

    def wait_for_end() -> None:
        if from_parent.readline() == END:
            all_accepted.set()
            from_parent.read()
        os._exit(1)  # the parent has died; the next sender settles a transaction left open

    def report_sent(now: int) -> None:
        nonlocal sent
        sent = before + now
        _report(sent=sent)

    threading.Thread(target=wait_for_end, daemon=True).start()
    while True:
        last_try = all_accepted.is_set()
        try:
            flush(
                order.outbox_path, order.kafka, order.timeout, transport=order.transport,
                progress=report_sent, more=lambda: not all_accepted.is_set(),
            )  # fmt: skip
        except SuibusError as error:
            if last_try:
                _report(en=error.en, zh=error.zh)
                return
            time.sleep(RETRY_PAUSE)
        else:
            return
        before = sent


def _report(**members: Any) -> None:
    """Write one line of JSON to the parent."""
    sys.stdout.write(json.dumps(members) + "\n")
    sys.stdout.flush()
