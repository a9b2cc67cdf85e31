"""From the outbox to the bus: in order, and each row once, however often the sender is killed.

Rows are sent in Kafka transactions. The outbox stores a name for the transaction before it begins. The transaction then
commits, beside its rows, an offset for the consumer group of this outbox: the position (the seq of its last row + 1), with
the name as metadata. After a kill, opening a connection ends the open transaction. If the name in the outbox is committed
on the bus, the rows below the position are removed from the outbox; otherwise they are sent again. An outbox restored from
an old backup has another name, so none of its rows is counted as sent by mistake.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from producers.outbox import Outbox, Waiting
from producers.send.connect import choose_transport
from producers.send.not_sent import no_progress, unavailable
from producers.send.transport import (
    Connect,
    Identity,
    RefusedError,
    Transport,
    TransportError,
    TransportName,
)
from schemas.errors import UnavailableError
from schemas.ports.kafka_access import KafkaAccess
from schemas.ports.lease import Lease

ROWS, BYTES = 5_000, 8 << 20  # of one transaction, whichever is reached first
RETRY_PAUSE = 0.3  # seconds between two connections
ROWS_POLL = 0.02  # seconds between two checks for more rows
LEASE_POLL = 0.1  # seconds between two checks of the progress of another sender


@dataclass(frozen=True)
class FlushInfo:
    """The result of one flush: rows that reached the bus, rows that still wait, and its duration."""

    sent: int
    waiting: int
    seconds: float


def flush(
    outbox_path: str | Path,
    kafka: KafkaAccess | str,
    timeout: float = 30.0,
    *,
    transport: TransportName | Connect = "kafka-python",
    progress: Callable[[int], None] | None = None,
    more: Callable[[], bool] = lambda: False,
) -> FlushInfo:
    """Send all rows that wait in an outbox. Killed and run again, it sends each row once.

    UnavailableError if there is no progress for `timeout` seconds; the rows that wait are kept. If another process sends the
    same outbox, it waits for that one.

    `transport`: the name of a transport, or a function that connects, such as `MemoryBus.connect`. `progress` gets the
    number of rows sent so far. While `more` returns true, rows are still being accepted, and it waits for them.
    """
    start = time.monotonic()
    connect = choose_transport(transport)
    with Outbox(outbox_path) as outbox:
        sender = _Sender(outbox, KafkaAccess.to(kafka), connect, timeout, progress, more)
        sender.run()
        return FlushInfo(sender.sent, outbox.waiting(), time.monotonic() - start)


@dataclass
class _Sender:
    outbox: Outbox
    access: KafkaAccess
    connect: Connect
    timeout: float
    progress: Callable[[int], None] | None
    more: Callable[[], bool]
    sent: int = 0
    deadline: float = 0.0
    rows: int = 0  # of the next transaction
    transport: Transport | None = None  # of the latest connection

    def run(self) -> None:
        self.deadline = time.monotonic() + self.timeout
        self.rows = ROWS
        with self._lease() as held:
            while held and (self.more() or self.outbox.waiting()):
                try:
                    self._send_all()
                except RefusedError as error:
                    raise self._unavailable(error) from None
                except (TransportError, OSError) as error:  # a TimeoutError is an OSError
                    if time.monotonic() >= self.deadline:
                        raise self._unavailable(error) from None
                    if isinstance(error, TimeoutError):  # the connection may be slow: send fewer rows at once
                        self.rows = max(self.rows // 4, 50)
                    time.sleep(RETRY_PAUSE)

    @contextmanager
    def _lease(self) -> Iterator[bool]:
        """Hold the outbox's lease; False, without it, if another sender has emptied the outbox in the meantime.

        UnavailableError if the other sender makes no progress for `timeout` seconds.
        """
        lease = Lease(Path(f"{self.outbox.path}.lock"))
        left = self.outbox.waiting()
        while True:
            with lease.hold_if_free(LEASE_POLL) as held:
                if held:
                    yield True
                    return
            now = self.outbox.waiting()
            if not now and not self.more():
                yield False
                return
            if now < left or not now:
                self.deadline = time.monotonic() + self.timeout
            left = now
            if time.monotonic() >= self.deadline and (holder := lease.holder()):
                raise no_progress(holder.pid, left, self.outbox)

    def _remaining(self) -> float:
        return max(self.deadline - time.monotonic(), 1.0)

    def _send_all(self) -> None:
        """Send over one connection until no row waits; after an error the next connection settles the open transaction."""
        seconds = min(self._remaining(), 10.0)
        transport = self.transport = self.connect(self.access, Identity.of(self.outbox), seconds)
        try:
            transport.open()
            self._settle(transport)
            last: tuple[list[Waiting], str] | None = None
            while rows := self._next_rows():
                name = self.outbox.begin_attempt()
                # A restarted broker may never answer for a transaction that it has lost; only a new connection helps then.
                # One second more than the transport's own limit, since the transport's error names the cause.
                limit = min(self._remaining(), max(self.timeout / 3, 5.0)) + 1.0
                _within(limit, partial(_transact, transport, rows, name))
                self._note_sent(rows[-1].seq + 1)
                last = rows[-1:], name
            if last:
                _within(seconds + 1.0, partial(_wait_until_readable, transport, *last))
            transport.close()
        except BaseException:
            transport.abandon()
            raise

    def _next_rows(self) -> list[Waiting]:
        """The rows of the next transaction, none if all are sent; while rows are still being accepted, wait for a full one."""
        while self.more() and self.outbox.waiting() < self.rows:
            time.sleep(ROWS_POLL)
            self.deadline = time.monotonic() + self.timeout
        return self.outbox.next_rows(self.rows, BYTES * self.rows // ROWS)

    def _settle(self, transport: Transport) -> None:
        """Remove the rows of the last transaction from the outbox if it was committed and the sender did not learn of it."""
        attempt = self.outbox.attempt
        position = None if attempt is None else transport.committed(attempt)
        if position is not None:
            self.sent += self.outbox.sent(position)

    def _note_sent(self, position: int) -> None:
        self.sent += self.outbox.sent(position)
        self.deadline = time.monotonic() + self.timeout
        if self.progress:
            self.progress(self.sent)

    def _unavailable(self, error: Exception) -> UnavailableError:
        return unavailable(error, self.transport, self.outbox, self.access.servers, self.timeout)


def _transact(transport: Transport, rows: Sequence[Waiting], name: str) -> None:
    """Commit all rows together with their position. After an error `_settle` finds out whether they were committed."""
    transport.begin()
    transport.produce(rows)
    transport.add_position(rows, name)
    transport.commit()


def _wait_until_readable(transport: Transport, rows: Sequence[Waiting], name: str) -> None:
    """Wait until consumers that read committed records can read the transaction with this position.

    Kafka answers a commit before it has written the commit marker into every partition, and such a consumer stops before
    the marker. Kafka accepts the next transaction of the same transactional id only after all markers are written, so one
    is begun that holds no new row, and aborted.
    """
    transport.begin()
    transport.add_position(rows, name)
    transport.abort()


def _within(seconds: float, call: Callable[[], None]) -> None:
    """Run the call in a thread; TimeoutError if it takes longer, and the thread is left running.

    kafka-python waits for the answer to a commit without limit.
    """
    failed: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:  # raised again in the caller's thread
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True, name="suibus-transaction")
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError("the transaction was not confirmed in time")
    if failed:
        raise failed[0]
