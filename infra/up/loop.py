"""What runs every second while the bus is up: a look at the topics, the contract folders and the outboxes, and a pass if something is new."""

from __future__ import annotations

import logging
import threading
import time

from infra.bus.bus import Bus
from pipelines.ingest.offsets import TopicState
from schemas.errors import SuibusError, first_line
from schemas.tell import Tell

log = logging.getLogger(__name__)
RETRY_AFTER = 10.0  # seconds before a pass or dataset that failed is tried again
LOOK_EVERY = 1.0  # seconds between two looks at the topics, the contract folders and the outboxes


def send_outboxes(bus: Bus, stop: threading.Event) -> None:
    """Send what nodes on this machine accept, beside the passes: a long outbox holds up no pass, nor a pass an outbox."""
    while not stop.wait(LOOK_EVERY):
        bus.flush_outboxes()


def watch(bus: Bus, stop: threading.Event, services_only: bool, fresh: set[str], tell: Tell) -> None:
    """Look once a second; run a pass when something was published, a contract is new, or a retry is due."""
    told: tuple[str, str] | None = None  # the error that a person was told last: once, not every second
    seen: dict[str, TopicState] | None = None
    due: set[str] | None = None  # the datasets that the next pass takes beside those with news; None is all
    retry_at = time.monotonic()
    while not stop.is_set():
        try:
            if not bus.settings.access and not bus.broker.running():
                tell(f"Kafka had stopped; it answers again at {bus.broker.start(tell)}", "Kafka 曾停止，现已恢复")
            if bus.contracts.changed():
                fresh |= {d.id for d in bus.adopt_contracts(tell)}
            if not services_only:
                latest = bus.kafka.states(bus.contracts.topics())
                if latest != seen or fresh or (due != set() and time.monotonic() >= retry_at):
                    info = bus.sync(None if due is None else due | fresh, tell)
                    seen, fresh, due = latest, set(), set(info.failures)
                    retry_at = time.monotonic() + RETRY_AFTER
                    if any(info.ingested.values()) and not info.failures:
                        told = None
                        continue  # more came while it ran, as long as somebody publishes steadily
            told = None
        except Exception as error:  # a look or pass that failed is tried again; nothing is lost by waiting
            if not isinstance(error, SuibusError):
                log.exception("the pass failed and will be tried again")
            reason = (error.en, error.zh) if isinstance(error, SuibusError) else (first_line(error), first_line(error))
            if reason != told:
                tell(*reason)
            told = reason
            stop.wait(RETRY_AFTER if seen is not None else LOOK_EVERY)
        stop.wait(LOOK_EVERY)
