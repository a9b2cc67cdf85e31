"""What tests share: settings with their own home, one embedded broker, one Spark session for all."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from infra.kafka.broker import Broker
from infra.settings import Settings
from tests.own_settings import forget_own_settings

forget_own_settings()

# No example has a deadline, so that a busy machine fails no property test.
hypothesis_settings.register_profile("suibus", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("suibus")

# A command's JVM lives for seconds: without the optimizing compiler it needs a third less CPU time.
_SHORT_LIVED = "-XX:TieredStopAtLevel=1"
os.environ.setdefault("JDK_JAVA_OPTIONS", _SHORT_LIVED)


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings whose home, lake included, is a temporary folder; two threads for Spark, and memory for what a whole suite leaves."""
    return Settings(home=tmp_path_factory.mktemp("home"), spark_master="local[2]", spark_memory="2g")


@pytest.fixture(scope="session")
def broker(settings: Settings) -> Iterator[Broker]:
    """One running embedded broker; a test makes topics of its own and stops nothing."""
    embedded = Broker(settings)
    embedded.start()
    yield embedded
    embedded.stop()


@pytest.fixture(scope="session")
def spark(settings: Settings) -> Iterator[object]:
    """One Spark session; a test puts its tables into a folder of its own."""
    from infra.jvm.spark import spark_session  # unit tests need no Spark

    with pytest.MonkeyPatch.context() as patch:
        if os.environ["JDK_JAVA_OPTIONS"] == _SHORT_LIVED:  # this JVM lives longer: a pass takes 10 s, not 17
            patch.delenv("JDK_JAVA_OPTIONS")
        session = spark_session(settings)
    session.conf.set("spark.sql.shuffle.partitions", "2")
    yield session
    session.stop()
