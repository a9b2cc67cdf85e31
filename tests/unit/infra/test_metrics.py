"""Metrics and log lines as programs read them: names, labels, help in both languages, one JSON object per line."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from infra.bus.bus import Bus
from infra.bus.state import PassState
from infra.bus.totals import Spent, Totals
from infra.operate.metrics import metrics_text
from infra.settings import Settings
from infra.terminal.logs import JsonLines, TextLines, logged, set_up_logging
from pipelines.fates import FATES
from pipelines.release.release_record import ReleaseRecord
from producers.encoded_row import EncodedRow
from producers.outbox import Outbox
from schemas.contract import load_contract
from schemas.contract_folders import SHIPPED
from schemas.districts import districts
from schemas.log_context import log_about, log_context

FLIGHTS = load_contract(SHIPPED / "flights.yaml")  # fresh for a day
ROOT = Path(__file__).parents[3]
COUNTS = dict.fromkeys(("received", *FATES), 0)


@pytest.fixture
def bus(tmp_path: Path) -> Bus:
    """A stopped bus whose one pass held the release of its flights; its Kafka does not answer."""
    found = Bus(Settings(home=tmp_path / "home"))
    found.store.register(FLIGHTS)
    released, held = (datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2))
    record = ReleaseRecord(2, "held", 3, "id", FLIGHTS.hash, 5, ("some_rule",), held, released)
    found.state.note_pass(PassState({FLIGHTS.id: record}, {FLIGHTS.id: "why"}, ended_at=held.isoformat()))
    fates = {FLIGHTS.id: {"440106": COUNTS | {"received": 5, "inserted": 3, "quarantined": 2}}}
    found.state.note_totals(Totals(fates, {"merge": {FLIGHTS.id: Spent(2.5, 2)}}))
    with Outbox(found.outbox("440106")) as outbox:
        outbox.accept(FLIGHTS.topic("440106"), [EncodedRow(b"k1", b"v"), EncodedRow(b"k2", b"v")])
    return found


def families(bus: Bus) -> list[Metric]:
    return list(text_string_to_metric_families(metrics_text(bus)))


def test_metrics_of_a_stopped_bus_come_from_its_state_folder(bus: Bus) -> None:
    found = {(s.name, *s.labels.values()): s.value for family in families(bus) for s in family.samples}
    assert found["suibus_broker_up",] == 0
    assert found["suibus_release_held", FLIGHTS.id] == 1
    assert found["suibus_dataset_failed", FLIGHTS.id] == 1
    assert (
        found["suibus_release_age_seconds", FLIGHTS.id]
        > found["suibus_contract_freshness_seconds", FLIGHTS.id]
        == 86_400
    )
    assert found["suibus_release_late", FLIGHTS.id] == 1
    assert found["suibus_received_records_total", FLIGHTS.id, "440106"] == 5
    assert found["suibus_accounted_records_total", FLIGHTS.id, "440106", "quarantined"] == 2
    assert found["suibus_batch_seconds_sum", FLIGHTS.id, "merge"] == 2.5
    assert found["suibus_batch_seconds_count", FLIGHTS.id, "merge"] == 2
    assert found["suibus_outbox_rows_waiting", "440106"] == 2
    assert found["suibus_last_pass_timestamp_seconds",] == datetime.fromisoformat("2026-01-02T00:00:00Z").timestamp()
    assert not any(name[0] == "suibus_offsets_waiting" for name in found)  # only Kafka knows it, and does not answer


def test_a_bus_that_never_ran_has_metrics(tmp_path: Path) -> None:
    assert {family.name for family in families(Bus(Settings(home=tmp_path / "home")))} >= {"suibus_broker_up"}


def test_every_metric_has_its_prefix_and_help_in_both_languages(bus: Bus) -> None:
    for family in families(bus):
        assert family.name.startswith("suibus_")
        assert re.match(r"[A-Z][^。]*\. .*[\u4e00-\u9fff].*。$", family.documentation), family.documentation


def test_labels_hold_only_names_that_the_bus_knows_and_nothing_of_a_record(bus: Bus) -> None:
    known = {"dataset": {FLIGHTS.id}, "district": set(districts()), "fate": set(FATES), "hop": {"merge"}}
    for family in families(bus):
        for sample in family.samples:
            assert all(value in known[name] for name, value in sample.labels.items()), sample


@pytest.mark.parametrize("page", ["docs/engineer.md", "docs/engineer.zh-CN.md"])
def test_every_metric_is_documented_and_every_alert_names_one(bus: Bus, page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    names = {family.name + ("_total" if family.type == "counter" else "") for family in families(bus)}
    names |= {"suibus_offsets_waiting", "suibus_near_retention", "suibus_oldest_waiting_record_age_seconds"}
    assert not {name for name in names if f"`{name}`" not in text}
    assert set(re.findall(r"suibus_[a-z_]+", text)) <= names


# ── the log ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """Returns what is on standard error; restores logging afterwards."""
    before, hook = logging.getLogger().handlers[:], sys.excepthook
    yield lambda: capsys.readouterr().err
    set_up_logging("text")
    logging.getLogger().handlers[:], sys.excepthook = before, hook


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_json_line_has_time_level_logger_event_and_context(said: Callable[[], str]) -> None:
    set_up_logging("json")
    with log_context(dataset="a.v1", batch="bronze 3"), log_context(district="440106"):
        logging.getLogger("pipelines.merge.merge").info("took %d", 5, extra={"about": {"seconds": 1.5}})
    logging.getLogger("pipelines.merge.merge").warning("outside")
    first, second = lines(said())
    assert datetime.fromisoformat(first.pop("time")).utcoffset() is not None
    assert first == {
        "level": "INFO", "logger": "pipelines.merge.merge", "event": "took 5", "dataset": "a.v1", "batch": "bronze 3",
        "district": "440106", "seconds": 1.5,
    }  # fmt: skip
    assert "dataset" not in second


def test_every_json_log_message_is_one_object_on_one_line(said: Callable[[], str]) -> None:
    set_up_logging("json")
    assert logged("two\nlines", "两行")
    try:
        raise ValueError("of several\nlines")
    except ValueError as error:
        logging.getLogger("infra.bus.bus").exception("failed")
        sys.excepthook(type(error), error, error.__traceback__)
    logging.getLogger("py4j").info("chatter of a library")
    told, failed, crashed = lines(said())
    assert (told["event"], told["event_zh"]) == ("two\nlines", "两行")
    assert "ValueError" in failed["exception"]
    assert (crashed["level"], "ValueError" in crashed["exception"]) == ("CRITICAL", True)


def test_the_text_log_has_warnings_only_and_messages_stay_on_the_terminal(said: Callable[[], str]) -> None:
    set_up_logging("text")
    assert not logged("told", "告知")
    logging.getLogger("pipelines.sync").info("too much")
    with log_context(dataset="a.v1"):
        logging.getLogger("pipelines.sync").warning("careful")
    assert re.fullmatch(r"\d{4}-\S+\+00:00 WARNING pipelines\.sync careful \[dataset=a\.v1\]\n", said())


def test_log_context_ends_with_its_block_and_reaches_no_other_thread() -> None:
    import threading

    seen: list[dict[str, str]] = []
    with log_context(dataset="a.v1"):
        thread = threading.Thread(target=lambda: seen.append(dict(log_about())))
        thread.start()
        thread.join()
        assert dict(log_about()) == {"dataset": "a.v1"}
    assert dict(log_about()) == {}
    assert seen == [{}]


def test_both_formatters_show_the_context_of_a_line() -> None:
    record = logging.makeLogRecord({"msg": "m", "about": {"district": "440106"}})
    assert json.loads(JsonLines().format(record))["district"] == "440106"
    assert TextLines().format(record).endswith("[district=440106]")
