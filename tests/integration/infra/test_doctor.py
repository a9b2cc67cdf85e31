"""The doctor finds what a machine lacks, says what to do, and changes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from infra.kafka.broker import Broker
from infra.operate.doctor import Check, examine
from infra.settings import Settings


def _named(checks: Sequence[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_healthy_node_is_ok_in_every_check(settings: Settings, broker: Broker) -> None:
    checks = examine(settings)
    assert [check for check in checks if not check.ok] == []
    assert broker.access.servers in _named(checks)["broker"].found


def test_a_stopped_embedded_broker_is_ok_and_an_outside_broker_that_does_not_answer_is_not(tmp_path: Path) -> None:
    stopped = _named(examine(Settings(home=tmp_path)))["broker"]
    assert stopped.ok
    assert "suibus up" in stopped.found
    away = _named(examine(Settings(home=tmp_path, bootstrap_servers="127.0.0.1:9")))["broker"]
    assert not away.ok
    assert "suibus up" in away.remedy_en
    assert "suibus up" in away.remedy_zh


def test_the_doctor_changes_nothing(tmp_path: Path) -> None:
    examine(Settings(home=tmp_path / "home"))
    assert list(tmp_path.iterdir()) == []


def test_missing_java_and_jars_are_reported_without_an_exception(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUIBUS_JARS", str(tmp_path / "none"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    checks = _named(examine(Settings(home=tmp_path)))
    for name in ("java", "spark jars", "broker jars"):
        assert not checks[name].ok
        assert checks[name].remedy_en
        assert checks[name].remedy_zh


def test_spark_leaves_nothing_in_the_current_folder_and_ends_with_a_killed_process(tmp_path: Path) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from infra.settings import Settings
from infra.jvm.spark import spark_session
spark = spark_session(Settings(home=Path(sys.argv[1]), spark_memory="1g"))
spark.range(3).write.format("delta").save(Settings(home=Path(sys.argv[1])).lake_path + "/t")
print(spark.sparkContext._gateway.proc.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    current = tmp_path / "current"
    current.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "穗 数, 通")],
        cwd=current,
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout.strip().isdigit(), done.stderr
    assert done.stderr == ""
    assert list(current.iterdir()) == []
    assert (tmp_path / "穗 数, 通" / "lake" / "t" / "_delta_log").is_dir()
    _wait_until_gone(int(done.stdout))


def _wait_until_gone(pid: int) -> None:
    while True:  # ended by the time limit of the test
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
