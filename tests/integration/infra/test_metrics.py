"""Metrics and logs show what each step of a pass did, also after a restart and a kill."""

from __future__ import annotations

import io
import json
import logging
import socket
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from infra.bus.bus import Bus
from infra.operate.metrics import metrics_text, serve_metrics
from infra.terminal.logs import JsonLines
from schemas.errors import InputError
from tests.integration.conftest import Road


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Every sample by its name and the values of its labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_and_log_cover_each_hop_and_counters_survive_a_restart_and_a_kill(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.kafka.topics.FETCH_SECONDS", 60.0)
    dataset, code = road.dataset.id, "440106"
    road.publish({"id": "a", "seq": 1}, {"id": "b", "seq": 1}, {"id": "key-c", "seq": 1, "amount": -98765})
    before = samples(metrics_text(road.bus))
    assert before["suibus_broker_up",] == 1
    assert before["suibus_offsets_waiting", dataset, code] >= 3
    assert before["suibus_offsets_waiting", dataset, "440103"] == 0
    assert 0 <= before["suibus_oldest_waiting_record_age_seconds", dataset, code] < 600
    assert ("suibus_oldest_waiting_record_age_seconds", dataset, "440103") not in before

    lines = logged_json(road.sync)
    ours = [line for line in lines if line.get("dataset") == dataset]
    assert {line["hop"] for line in ours if "hop" in line} >= {"ingest", "merge", "account", "release"}
    assert all(line["batch"] and line["seconds"] > 0 for line in ours if "hop" in line)
    (accounted,) = [line for line in ours if "district" in line]
    assert (accounted["district"], accounted["received"], accounted["quarantined"]) == (code, 3, 1)
    assert not any(held in json.dumps(line) for line in lines for held in ("key-c", "98765"))

    after = samples(metrics_text(Bus(road.bus.settings)))  # another process
    assert after["suibus_offsets_waiting", dataset, code] == 0
    assert after["suibus_received_records_total", dataset, code] == 3
    assert after["suibus_accounted_records_total", dataset, code, "inserted"] == 2
    assert after["suibus_accounted_records_total", dataset, code, "quarantined"] == 1
    for hop in ("ingest", "merge", "account", "release"):
        assert after["suibus_batch_seconds_count", dataset, hop] == 1
        assert after["suibus_batch_seconds_sum", dataset, hop] > 0
    assert after["suibus_release_held", dataset] == after["suibus_dataset_failed", dataset] == 0
    assert 0 <= after["suibus_release_age_seconds", dataset] < 600
    assert after["suibus_outbox_rows_waiting", code] == 0

    files = [road.bus.home / "run" / name for name in ("metrics.json", "pipeline.json")]
    counted = [file.read_bytes() for file in files]
    road.publish({"id": "a", "seq": 2})
    road.sync()
    for file, content in zip(files, counted, strict=True):  # as if the process had been killed before it wrote them
        file.write_bytes(content)
    road.sync()
    assert samples(metrics_text(road.bus))["suibus_received_records_total", dataset, code] == 4


def logged_json(work: Callable[[], object]) -> list[dict[str, Any]]:
    """What a call logs, each line read as JSON."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonLines())
    parts = [logging.getLogger(name) for name in ("infra", "pipelines")]
    for part in parts:
        part.addHandler(handler)
        part.setLevel(logging.INFO)
    try:
        work()
    finally:
        for part in parts:
            part.removeHandler(handler)
            part.setLevel(logging.NOTSET)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_metrics_are_served_and_a_taken_port_is_refused_in_a_sentence(road: Road) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = serve_metrics(road.bus, port)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            served = samples(answer.read().decode())
        assert served["suibus_offsets_waiting", road.dataset.id, "440106"] == 0
        with pytest.raises(InputError, match="SUIBUS_METRICS_PORT"):
            serve_metrics(road.bus, port)
    finally:
        server.shutdown()
        server.server_close()
