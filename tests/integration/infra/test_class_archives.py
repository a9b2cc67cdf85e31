"""The class archives that `make setup` makes are used. (A Java that cannot use one starts without it and without a message.)"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from infra.jvm.class_archive import archive_path
from infra.jvm.java import find_java
from infra.kafka.broker import Broker
from infra.settings import Settings


def test_broker_and_spark_use_the_class_archives_that_setup_made(
    broker: Broker, spark: Any, settings: Settings
) -> None:
    if not Path("/proc/self/maps").is_file():
        pytest.skip("this system does not say what a process has mapped")
    java = find_java(settings.java_home).program.parent.parent
    if not (java / "lib" / "server" / "classes.jsa").is_file():
        pytest.skip(f"{java} has no archive of its own classes, so it makes none of others")
    broker_pid = json.loads(broker.state_file.read_text())["pid"]
    spark_pid = spark.sparkContext._gateway.proc.pid
    for pid, archive in ((broker_pid, archive_path("broker", settings)), (spark_pid, archive_path("spark", settings))):
        assert archive.is_file(), "make setup makes it: python -m infra.operate.make_class_archives"
        assert str(archive) in Path(f"/proc/{pid}/maps").read_text()
