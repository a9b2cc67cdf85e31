"""Run every step once and save the Java classes that Kafka and Spark loaded. The last step of `make setup`.

A broker, and the first pass of a Spark, then take about two thirds of the time: Java need not read, check and link
thousands of classes again.
"""

from __future__ import annotations

import sys
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from infra.bus.bus import Bus
from infra.jvm.class_archive import archive_path
from infra.jvm.jars import SetName
from infra.jvm.spark import end_spark, spark_session
from infra.kafka.broker import Broker
from infra.settings import Settings, read_settings
from infra.terminal import console
from pipelines.share.query import query
from producers.publish.publisher import Publisher
from schemas.contract import parse_contract
from schemas.dataset import Dataset, receipts_topic
from schemas.errors import SuibusError
from schemas.progress_messages import Tell

CONTRACT = """\
apiVersion: v3.1.0
kind: DataContract
id: trial
version: 1.0.0
status: active
schema:
  - name: trial
    properties:
      - {name: id, logicalType: integer, primaryKey: true, required: true}
      - {name: name, logicalType: string, required: true, logicalTypeOptions: {maxLength: 20}}
      - {name: price, logicalType: number, physicalType: "decimal(10,2)"}
      - {name: day, logicalType: date}
      - {name: at, logicalType: timestamp, required: true}
      - {name: parts, logicalType: array, items: {logicalType: string}}
      - name: size
        logicalType: integer
        quality:
          - {name: size_not_negative, type: sql, query: "SELECT COUNT(*) FROM ${object} WHERE size < 0", mustBe: 0}
    quality:
      - {metric: rowCount, mustBeGreaterThan: 0}
customProperties:
  - {property: suibus.sharing, value: unconditional}
  - {property: suibus.sequence, value: at}
"""
DISTRICT = "440106"


def make_class_archives(settings: Settings, tell: Tell) -> None:
    """Publish, ingest, merge, judge, release and query a few rows in a folder that is then removed, and keep the classes.

    Where this Java keeps no archive, Kafka and Spark start without one. Java itself checks whether an archive fits, and goes
    on without it where it does not. Call it in a process of its own: Spark cannot be started there again.
    """
    tell("Classes of Kafka and Spark: one trial run", "Kafka 与 Spark 类库：试运行一次")
    names: tuple[SetName, ...] = ("broker", "spark")
    drafts = {name: archive_path(name, settings).with_suffix(".draft") for name in names}
    for draft in drafts.values():
        draft.unlink(missing_ok=True)
    dataset = parse_contract(CONTRACT, "trial.yaml")
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        trial = settings.of_own_home(Path(folder))
        broker = Broker(trial, [f"-XX:ArchiveClassesAtExit={drafts['broker']}"])
        try:
            broker.start()
            spark_session(trial, [f"-XX:ArchiveClassesAtExit={drafts['spark']}"])
            _run(Bus(trial), dataset)
            end_spark()
        finally:
            broker.stop()
    for name, draft in drafts.items():
        if draft.is_file():
            draft.replace(archive_path(name, settings))
            tell(f"Classes of {name}: ready", f"{name} 类库：已就绪")
        else:
            tell(f"Classes of {name}: this Java keeps no archive", f"{name} 类库：当前 Java 不支持类归档")


def _run(bus: Bus, dataset: Dataset) -> None:
    """Two passes: into new tables, and into those that hold rows; a row that is refused, a deletion, a query."""
    bus.store.register(dataset)
    bus.kafka.ensure([*dataset.topics, receipts_topic(DISTRICT)])
    _publish(bus, dataset, [1, 2, 3])
    bus.sync()
    _publish(bus, dataset, [3, 4, -5], gone=2)
    bus.sync()
    query("SELECT name, count(*), sum(price) FROM trial GROUP BY 1 ORDER BY 1", bus.lake(), bus.store).collect()


def _publish(bus: Bus, dataset: Dataset, numbers: list[int], gone: int | None = None) -> None:
    at = datetime.now(UTC)
    with Publisher(dataset, DISTRICT, bus.outbox(DISTRICT), bus.access) as publisher:
        for number in numbers:
            row: dict[str, Any] = {"id": number, "name": "穗", "price": "1.50", "day": date(2026, 1, 1), "at": at}
            publisher.publish({**row, "parts": ["a", "b"], "size": number})
        if gone is not None:
            publisher.delete({"id": gone, "at": at})


if __name__ == "__main__":
    try:
        make_class_archives(read_settings(), console.tell)
    except SuibusError as refused:
        console.say_error(refused.en, refused.zh)
        sys.exit(refused.exit_status)
