"""Metrics of every hop in Prometheus's text format, read from the state folder and from Kafka, without Spark."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from infra.bus.bus import Bus
from infra.bus.status import Status, read_status
from infra.bus.totals import Totals
from pipelines.fates import FATES
from producers.outbox import Outbox
from schemas.dataset import parse_topic
from schemas.districts import districts
from schemas.errors import InputError, SuibusError, first_line

log = logging.getLogger(__name__)
DATASET, DISTRICT = ("dataset",), ("dataset", "district")


class Metrics(Collector):
    """The metrics of one bus, read again for each scrape. If Kafka does not answer, the metrics that come from Kafka are left out."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def collect(self) -> Iterator[Metric]:
        """Every metric with its samples."""
        status = read_status(self._bus)
        yield from _of_the_bus(status)
        yield from _of_datasets(status, self._bus)
        yield from _of_topics(status)
        yield from _totals(self._bus.state.totals())
        yield self._outboxes()

    def _outboxes(self) -> Metric:
        waiting = _gauge(
            "outbox_rows_waiting", "Rows waiting in outboxes on this machine. 本机发件箱中待发送的行数。", ("district",)
        )
        for path in self._bus.outboxes():
            try:
                with Outbox(path) as outbox:
                    waiting.add_metric([path.parent.name], outbox.waiting())
            except (SuibusError, sqlite3.Error) as error:
                log.warning(
                    "outbox: %s",
                    error.en if isinstance(error, SuibusError) else error,
                    extra={"about": {"district": path.parent.name}},
                )
        return waiting


def metrics_text(bus: Bus) -> str:
    """All metrics in Prometheus's text format."""
    return generate_latest(_registry(bus)).decode()


def serve_metrics(bus: Bus, port: int) -> WSGIServer:
    """Serve the metrics at http://127.0.0.1:<port>/metrics until shut down. InputError if the port cannot be used."""
    try:
        return start_http_server(port, "127.0.0.1", _registry(bus))[0]
    except OSError as error:
        raise InputError(
            f"Metrics cannot be served at 127.0.0.1:{port}: {first_line(error)}. Set SUIBUS_METRICS_PORT to a free port.",
            f"无法在 127.0.0.1:{port} 提供监控指标：{first_line(error)}。请将 SUIBUS_METRICS_PORT 设为空闲端口。",
        ) from None


def _registry(bus: Bus) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(Metrics(bus))
    return registry


# ── one function a group of metrics ──────────────────────────────────────────────────────────────────────────


def _gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"suibus_{name}", text, labels=labels)


def _of_the_bus(status: Status) -> Iterator[Metric]:
    for name, text, value in (
        ("broker_up", "Whether Kafka answers. Kafka 是否应答。", status.broker_reachable),
        ("pipeline_running", "Whether `suibus up` runs the pipeline. 流水线是否运行。", status.pipeline),
        (
            "refused_contracts",
            "Contract files that cannot be put in force. 无法生效的契约文件数。",
            len(status.refused_contracts),
        ),
    ):
        gauge = _gauge(name, text)
        gauge.add_metric([], value)
        yield gauge
    gauge = _gauge("last_pass_timestamp_seconds", "When the last pass ended. 最近一轮处理的结束时间。")
    if status.last_pass:
        gauge.add_metric([], datetime.fromisoformat(status.last_pass).timestamp())
    yield gauge


def _of_datasets(status: Status, bus: Bus) -> Iterator[Metric]:
    held = _gauge("release_held", "Whether the newest candidate is held. 最新候选版本是否暂缓发布。", DATASET)
    late = _gauge(
        "release_late",
        "Whether changes have waited longer than the contract allows. 变更等待是否超过契约时限。",
        DATASET,
    )
    failed = _gauge(
        "dataset_failed", "Whether the dataset stopped in the last pass. 该数据集在最近一轮处理中是否已停止。", DATASET
    )
    age = _gauge("release_age_seconds", "Seconds since a version was last released. 距最近一次发布的秒数。", DATASET)
    fresh = _gauge(
        "contract_freshness_seconds",
        "The age of a release that the contract allows. 契约允许的发布时限（秒）。",
        DATASET,
    )
    datasets = bus.store.datasets()
    now = datetime.now(UTC)
    for one in status.datasets:
        dataset, record = datasets[one.id], one.last_decision
        held.add_metric([dataset.id], record is not None and record.status == "held")
        late.add_metric([dataset.id], one.late)
        failed.add_metric([dataset.id], one.failure is not None)
        if record and record.released_at:
            age.add_metric([dataset.id], (now - record.released_at).total_seconds())
        if dataset.freshness is not None:
            fresh.add_metric([dataset.id], dataset.freshness.total_seconds())
    yield from (held, late, failed, age, fresh)


def _of_topics(status: Status) -> Iterator[Metric]:
    if (backlog := status.backlog) is None:
        return
    waiting = {(found.id, code): 0 for found in status.datasets for code in districts()}
    oldest: dict[tuple[str, str], float] = {}
    for topic_and_partition, (at, end) in backlog.offsets.items():
        code, dataset = parse_topic(topic_and_partition[0])
        waiting[dataset, code] += end - at
        if since := backlog.oldest_accepted.get(topic_and_partition):
            oldest[dataset, code] = min(since, oldest.get((dataset, code), since))
    near = {parse_topic(topic)[::-1] for topic in backlog.near_retention}
    lag = _gauge(
        "offsets_waiting", "Offsets on the topic that no pass has ingested yet. 主题中尚未入库的偏移量个数。", DISTRICT
    )
    danger = _gauge(
        "near_retention",
        "Whether records have waited half of the topic's retention. 记录等待的时间是否已达主题保留期的一半。",
        DISTRICT,
    )
    age = _gauge(
        "oldest_waiting_record_age_seconds",
        "Seconds since a node accepted the oldest waiting record. 最早一条待入库记录自节点接收以来的秒数。",
        DISTRICT,
    )
    for labels, count in waiting.items():
        lag.add_metric(labels, count)
        danger.add_metric(labels, labels in near)
        if labels in oldest:
            age.add_metric(labels, max(time.time() - oldest[labels], 0))
    yield from (lag, danger, age)


def _totals(totals: Totals) -> Iterator[Metric]:
    received = CounterMetricFamily(
        "suibus_received_records",
        "Records ingested from the topics and accounted for. 已入库并计入收支的记录数。",
        labels=DISTRICT,
    )
    fates = CounterMetricFamily(
        "suibus_accounted_records", "The same records by fate. 按去向统计的同一批记录数。", labels=(*DISTRICT, "fate")
    )
    for dataset, by_district in totals.fates.items():
        for code, counts in by_district.items():
            received.add_metric([dataset, code], counts["received"])
            for fate in FATES:
                fates.add_metric([dataset, code, fate], counts[fate])
    spent = SummaryMetricFamily(
        "suibus_batch_seconds",
        "Seconds that a hop took for a batch. 各环节每批的耗时（秒）。",
        labels=("hop", "dataset"),
    )
    for hop, by_dataset in totals.seconds.items():
        for dataset, (seconds, batches) in by_dataset.items():
            spent.add_metric([hop, dataset], count_value=batches, sum_value=seconds)
    yield from (received, fates, spent)
