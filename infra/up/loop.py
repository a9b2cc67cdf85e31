"""The loops of a running bus: once a second check topics and contract folders, run a pass if something is new, send the outboxes."""

from __future__ import annotations

import logging
import threading
import time

from infra.bus.bus import Bus
from pipelines.ingest.topics import TopicState
from schemas.errors import SuibusError, first_line
from schemas.progress_messages import Tell

log = logging.getLogger(__name__)
RETRY_AFTER = 10.0  # seconds before a failed pass or dataset is retried
CHECK_EVERY = 1.0  # seconds between two checks of the topics, the contract folders and the outboxes


def send_outboxes(bus: Bus, stop: threading.Event) -> None:
    """Send the outboxes on this machine until `stop` is set. It runs in its own thread, so that outboxes and passes do not delay each other."""
    while not stop.wait(CHECK_EVERY):
        bus.flush_outboxes()


def watch(bus: Bus, stop: threading.Event, services_only: bool, fresh: set[str], tell: Tell) -> None:
    """Run a pass whenever something was published, a contract is new or a retry is due, until `stop` is set.

    Checks once a second. An error is reported once and retried; an embedded broker that has ended is started again.
    """
    reported: tuple[str, str] | None = None  # the error reported last, so that it is not repeated every second
    seen: dict[str, TopicState] | None = None
    due: set[str] | None = None  # datasets that the next pass processes besides those with new records; None: all
    retry_at = time.monotonic()
    while not stop.is_set():
        try:
            if not bus.settings.access and not bus.broker.running():
                address = bus.broker.start(tell)
                tell(f"Kafka had stopped; it runs again at {address}", f"Kafka 曾停止，现已恢复：{address}")
            if bus.contracts.changed():
                fresh |= {d.id for d in bus.adopt_contracts(tell)}
            if not services_only:
                latest = bus.kafka.states(bus.contracts.topics())
                if latest != seen or fresh or (due != set() and time.monotonic() >= retry_at):
                    info = bus.sync(None if due is None else due | fresh, tell)
                    seen, fresh, due = latest, set(), set(info.failures)
                    retry_at = time.monotonic() + RETRY_AFTER
                    if any(info.ingested.values()) and not info.failures:
                        reported = None
                        continue  # more may have come meanwhile: check at once
            reported = None
        except Exception as error:  # whatever failed is retried; nothing is lost by waiting
            if not isinstance(error, SuibusError):
                log.exception("the pass failed and will be retried")
            reason = (error.en, error.zh) if isinstance(error, SuibusError) else (first_line(error), first_line(error))
            if reason != reported:
                tell(*reason)
            reported = reason
            stop.wait(RETRY_AFTER if seen is not None else CHECK_EVERY)
        stop.wait(CHECK_EVERY)
