"""The class archives that `make setup` makes are used. (A Java that cannot use one starts without it and without a message.)"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from infra.jvm.class_archive import archive_path
from infra.kafka.broker import Broker
from infra.settings import Settings


def test_broker_and_spark_use_the_class_archives_that_setup_made(
    broker: Broker, spark: Any, settings: Settings
) -> None:
    broker_pid = json.loads((broker.home / "run" / "broker.json").read_text())["pid"]
    spark_pid = spark.sparkContext._gateway.proc.pid
    for pid, archive in ((broker_pid, archive_path("broker", settings)), (spark_pid, archive_path("spark", settings))):
        maps = Path(f"/proc/{pid}/maps")
        if not (archive.is_file() and maps.is_file()):
            pytest.skip(f"this Java keeps no archive, or this system has no {maps}")
        assert str(archive) in maps.read_text()
