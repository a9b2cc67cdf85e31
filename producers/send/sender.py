"""From the outbox to the bus: in order, and each row once, however often the sender is killed.

Rows go in Kafka transactions. Each transaction also commits, for the consumer group of this outbox, the
position behind its last row and the transaction's own name, which the outbox wrote down first. After a kill,
`init_transactions` ends what was open, and the committed name tells whether the last transaction reached the
bus: if so its rows leave the outbox unsent, else they are sent again. An outbox put back from an old backup
knows another name, so none of its rows is taken for sent.
"""

from __future__ import annotations

import fcntl
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import kafka.errors as kafka_errors
from kafka import KafkaAdminClient

from producers.outbox import Outbox, Waiting
from producers.send.transport import MissingTopicError, Transport, TransportName, connect
from producers.send.why_refused import why_refused
from schemas.errors import SuibusError, UnavailableError

ROWS, BYTES = 5_000, 8 << 20  # of one transaction, the limit that is reached first
PAUSE = 0.3  # seconds between two attempts
LOOK_EVERY = 0.02  # seconds between two looks for more rows

# Failures that no waiting mends.
_FINAL = (
    kafka_errors.AuthorizationError,
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.UnsupportedVersionError,
    kafka_errors.MessageSizeTooLargeError,
)
logging.getLogger("kafka").addHandler(logging.NullHandler())  # its reconnects are told once, by the error here


@dataclass(frozen=True)
class FlushInfo:
    """What one flush did: rows on the bus now, and rows that still wait."""

    sent: int
    waiting: int
    seconds: float


def flush(
    outbox_path: str | Path,
    bootstrap_servers: str,
    timeout: float = 30.0,
    *,
    client: Mapping[str, Any] | None = None,
    transport: TransportName = "kafka-python",
    progress: Callable[[int], None] | None = None,
    more: Callable[[], bool] = lambda: False,
) -> FlushInfo:
    """Send all that waits in an outbox. Killed and run again, it sends each row once.

    UnavailableError when nothing went forward for `timeout` seconds: what waits is kept. Another sender of
    the same outbox is waited for.

    `client` holds further kafka-python settings (security), also for another `transport`; `progress` is told the
    rows sent so far; as long as `more` is true, rows are still being accepted and are waited for.
    """
    start = time.monotonic()
    with Outbox(outbox_path) as outbox:
        sender = _Sender(outbox, bootstrap_servers, timeout, client or {}, progress, transport, more)
        sender.run()
        return FlushInfo(sender.sent, outbox.waiting(), time.monotonic() - start)


@dataclass
class _Sender:
    outbox: Outbox
    servers: str
    timeout: float
    client: Mapping[str, Any]
    progress: Callable[[int], None] | None
    transport: TransportName = "kafka-python"
    more: Callable[[], bool] = lambda: False
    sent: int = 0
    deadline: float = 0.0
    rows: int = 0  # of the next transaction

    def run(self) -> None:
        self.deadline = time.monotonic() + self.timeout
        self.rows = ROWS
        with self._alone() as mine:
            while mine and (self.more() or self.outbox.waiting()):
                try:
                    self._connected()
                except _FINAL as error:
                    raise self._unavailable(error) from None
                except (kafka_errors.KafkaError, MissingTopicError, OSError, TimeoutError) as error:
                    if time.monotonic() >= self.deadline:
                        raise self._unavailable(error) from None
                    if isinstance(error, TimeoutError):  # a slow line takes less at once
                        self.rows = max(self.rows // 4, 50)
                    time.sleep(PAUSE)

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Hold the outbox's lock: True once held, False if another sender has emptied it meanwhile."""
        with Path(f"{self.outbox.path}.lock").open("a") as lock:
            left = self.outbox.waiting()
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    now = self.outbox.waiting()
                    if not now and not self.more():
                        yield False
                        return
                    if now < left or not now:
                        self.deadline = time.monotonic() + self.timeout
                    left = now
                    if time.monotonic() >= self.deadline:
                        raise UnavailableError(
                            f"Another process is sending {self.outbox.path} without getting on. "
                            f"{left} rows wait; they are kept. End it, or run `{self.flush}` later.",
                            f"另一个进程正在发送 {self.outbox.path}，但没有进展。"
                            f"有 {left} 行等待发送，均已保留。请结束该进程，或稍后执行 `{self.flush}`。",
                        ) from None
                    time.sleep(0.1)
            yield True

    def _remaining(self) -> float:
        return max(self.deadline - time.monotonic(), 1.0)

    def _connected(self) -> None:
        """Send until nothing waits; any error ends this connection, and the next settles what was open."""
        seconds = min(self._remaining(), 10.0)
        ids = self.transactional_id, self.group
        transport = connect(self.transport, self.client, self.servers, ids, seconds)
        try:
            transport.open()
            if self.outbox.attempt is not None:
                self._settle(seconds)
            last: tuple[list[Waiting], str] | None = None
            while rows := self._next():
                name = self.outbox.begin_attempt()
                # A transaction that a restarted broker has forgotten is never answered: better a new connection.
                # A second more than the transport waits by itself, whose error says more.
                limit = min(self._remaining(), max(self.timeout / 3, 5.0)) + 1.0
                _within(limit, partial(_transact, transport, rows, name))
                self._done(rows[-1].seq + 1, len(rows))
                last = rows[-1:], name
            if last:
                _within(seconds + 1.0, partial(_wait_for_marks, transport, *last))
            transport.close()
        except BaseException:
            transport.abandon()
            raise

    def _next(self) -> list[Waiting]:
        """The rows of the next transaction, none if all is sent; as long as more come, a full one is waited for."""
        while self.more() and self.outbox.waiting() < self.rows:
            time.sleep(LOOK_EVERY)
            self.deadline = time.monotonic() + self.timeout
        return self.outbox.head(self.rows, BYTES * self.rows // ROWS)

    def _settle(self, seconds: float) -> None:
        """Whether the last transaction, whose end is not known, reached the bus: then its rows are let go."""
        admin = KafkaAdminClient(
            **self.client, bootstrap_servers=self.servers.split(","), bootstrap_timeout_ms=int(seconds * 1000)
        )
        try:
            found = admin.list_group_offsets(self.group)[self.group]
            if not found:
                with suppress(kafka_errors.GroupAuthorizationFailedError):  # of a secure bus: it never knew that name
                    found = admin.list_group_offsets(self.former_group)[self.former_group]
        finally:
            admin.close()
        attempt = self.outbox.attempt
        # confluent-kafka commits a zero byte behind the name.
        positions = [place.offset for place in found.values() if place.metadata.rstrip("\0") == attempt]
        if positions:
            before = self.outbox.waiting()
            self.outbox.sent(max(positions))
            self.sent += before - self.outbox.waiting()

    @property
    def transactional_id(self) -> str:
        """The outbox's own, whoever sends it: under another name a killed sender's transaction could still end."""
        return f"suibus.{self.outbox.district}.{self.outbox.uuid}"

    @property
    def group(self) -> str:
        """Under the district's own prefix: no other district may read how far this outbox is."""
        return f"suibus.{self.outbox.district}.outbox.{self.outbox.uuid}"

    @property
    def former_group(self) -> str:
        """Where an outbox of before has its position."""
        return f"suibus.outbox.{self.outbox.uuid}"

    @property
    def flush(self) -> str:
        """The command that sends what waits."""
        return f"suibus flush --district {self.outbox.district}"

    def _done(self, position: int, rows: int) -> None:
        self.outbox.sent(position)
        self.sent += rows
        self.deadline = time.monotonic() + self.timeout
        if self.progress:
            self.progress(self.sent)

    def _unavailable(self, error: BaseException) -> SuibusError:
        waiting = self.outbox.waiting()
        why = " ".join(str(error).split())[:200] or type(error).__name__
        topic = next(iter(self.outbox.head(1, 1))).topic if waiting else ""
        kept = f"What was accepted is kept ({waiting} rows wait)"
        kept_zh = f"发件箱中有 {waiting} 行等待发送，均已保留"
        if isinstance(error, kafka_errors.AuthorizationError):
            return UnavailableError(
                f"The broker at {self.servers} does not let this node write {topic} ({why}). "
                f"{kept}. Ask the city for the right, then run `{self.flush}`.",
                f"{self.servers} 的消息总线不允许本节点写入 {topic}（{why}）。{kept_zh}。请向市级申请权限，"
                f"然后执行 `{self.flush}`。",
            )
        if refused := why_refused({**self.client, "bootstrap_servers": self.servers.split(",")}):
            return UnavailableError(
                f"The broker at {self.servers}: {refused[0]}. {kept}; run `{self.flush}` afterwards.",
                f"{self.servers} 的消息总线：{refused[1]}。{kept_zh}；之后请执行 `{self.flush}`。",
            )
        if isinstance(error, MissingTopicError):
            return UnavailableError(
                f"Topic {topic} is not on the broker at {self.servers} after {self.timeout:g} s. "
                f"{kept}. Check that the city's bus knows this contract, then run `{self.flush}`.",
                f"等待 {self.timeout:g} 秒后，{self.servers} 上仍没有主题 {topic}。{kept_zh}。"
                f"请确认市级总线已载入该契约，然后执行 `{self.flush}`。",
            )
        return UnavailableError(
            f"The broker at {self.servers} did not take anything for {self.timeout:g} s ({why}). "
            f"{kept}. Check the network and that the bus is up, then run `{self.flush}`.",
            f"{self.servers} 的消息总线在 {self.timeout:g} 秒内没有接收任何数据（{why}）。{kept_zh}。"
            f"请检查网络和总线是否运行，然后执行 `{self.flush}`。",
        )


def _transact(transport: Transport, rows: Sequence[Waiting], name: str) -> None:
    """All rows and the position behind them, or, on any error, none."""
    transport.begin()
    transport.produce(rows)
    transport.position(rows, name)
    transport.commit()


def _wait_for_marks(transport: Transport, rows: Sequence[Waiting], name: str) -> None:
    """Until who reads the bus finds what was committed with this position.

    Kafka answers a commit before it has marked the topics, and a reader stops at what is not marked. It lets a name's next
    transaction begin only after that, so one is begun, with nothing new in it, and given up.
    """
    transport.begin()
    transport.position(rows, name)
    transport.abort()


def _within(seconds: float, call: Callable[[], None]) -> None:
    """The call, or TimeoutError: kafka-python waits for a commit without limit; its thread is left behind."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:  # carried to the caller's thread
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True, name="suibus-transaction")
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError("the transaction was not confirmed in time")
    if failed:
        raise failed[0]
