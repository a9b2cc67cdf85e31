"""A pass with nothing to do is recognized from file stats and topic ends alone; any change since the last pass makes it run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.bus.bus import Bus
from infra.bus.status import read_status
from infra.kafka.broker import Broker
from infra.settings import Settings
from pipelines.ingest.ingest import ingest_batch
from pipelines.lake.table import Table
from pipelines.sync import Inputs, sync
from pipelines.sync_info import SyncInfo
from schemas.errors import StateError
from tests.benchmarks.rows import jobs
from tests.integration.conftest import Road
from tests.integration.outside_changes import recreate


@pytest.fixture(scope="module")
def synced(tmp_path_factory: pytest.TempPathFactory, broker: Broker, spark: Any, names: Callable[[], str]) -> Road:
    """A bus after one pass. Tests do not change it."""
    home = tmp_path_factory.mktemp("synced") / "home"
    road = Road(Bus(Settings(home=home, bootstrap_servers=broker.access.servers)), names())
    road.publish({"id": "a", "seq": 1, "amount": 1})
    road.sync()
    return road


@pytest.fixture
def copy(synced: Road, tmp_path: Path) -> Road:
    """A copy of the state folder of `synced`, on the same topics. Files of the lake are linked: a copied file would count as changed."""
    lake, home = Path(synced.bus.settings.lake_path), tmp_path / "copy"

    def link_or_copy(source: str, target: str) -> None:
        (os.link if Path(source).is_relative_to(lake) else shutil.copy2)(source, target)

    shutil.copytree(synced.bus.home, home, copy_function=link_or_copy)
    return Road(Bus(synced.bus.settings.model_copy(update={"home": home})), synced.name)


def without_spark(road: Road) -> Bus:
    """A bus on the same state folder; the test fails if a pass asks it for Spark."""
    bus = Bus(road.bus.settings)
    bus.lake = lambda **_: pytest.fail("Spark was asked for")  # type: ignore[method-assign]
    return bus


def test_a_pass_with_nothing_new_uses_no_spark_and_changes_no_status(copy: Road) -> None:
    bus = without_spark(copy)
    before = read_status(bus).to_json()["datasets"]
    info = bus.sync()
    assert (info.ingested, info.merges, info.releases, info.failures) == ({}, (), (), {})
    assert bus.sync({copy.dataset.id}).releases == ()
    assert read_status(bus).to_json()["datasets"] == before


def test_a_pass_with_nothing_to_do_imports_no_spark(copy: Road) -> None:
    code = (
        "import sys; from infra.bus.bus import Bus; from infra.settings import Settings; from pathlib import Path\n"
        f"Bus(Settings(home=Path({str(copy.bus.home)!r}), bootstrap_servers={copy.bus.access.servers!r})).sync()\n"
        "print({'pyspark', 'delta', 'py4j', 'pyarrow'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


def _publishes(road: Road) -> None:
    road.publish({"id": "b", "seq": 1})


def _ingested_by_a_pass_that_was_killed(road: Road) -> None:
    road.publish({"id": "b", "seq": 1})
    ingest_batch(road.dataset, road.lake, road.bus.store, road.bus.kafka, road.bus.kafka.states(road.dataset.topics))


def _another_program_writes(layer: str) -> Callable[[Road], None]:
    def write(road: Road) -> None:
        path = f"{road.lake.root}/{layer}/{road.dataset.id}"
        Table(road.lake.spark, path).read().limit(1).write.format("delta").mode("append").save(path)

    return write


def _table_is_set_aside(road: Road) -> None:
    road.lake.set_aside("silver", road.dataset)


def _contract_changes(road: Road) -> None:
    road.contract(version="1.1.0", least=5)


def _topic_is_made_again(road: Road) -> None:
    recreate(road, road.dataset.topic("440106"))


def _dataset_comes(road: Road) -> None:
    Road(road.bus, f"{road.name}other")


@pytest.mark.parametrize(
    "change",
    [
        _another_program_writes("bronze"), _another_program_writes("silver"), _table_is_set_aside, _contract_changes,
        _dataset_comes,
    ],
)  # fmt: skip
def test_a_pass_runs_when_anything_in_the_state_changed(copy: Road, change: Callable[[Road], None]) -> None:
    without_spark(copy).sync()
    change(copy)
    with pytest.raises(pytest.fail.Exception, match="Spark was asked for"):
        without_spark(copy).sync()


def test_a_pass_runs_when_anything_on_the_topics_changed(road: Road) -> None:
    road.publish({"id": "a", "seq": 1, "amount": 1})
    for change in (_publishes, _ingested_by_a_pass_that_was_killed, _topic_is_made_again):
        road.sync()
        without_spark(road).sync()
        change(road)
        with pytest.raises(pytest.fail.Exception, match="Spark was asked for"):
            without_spark(road).sync()


def test_the_next_pass_of_any_dataset_finishes_what_a_killed_pass_left(road: Road) -> None:
    road.publish({"id": "a", "seq": 1})
    road.sync()
    road.publish({"id": "b", "seq": 1})
    road.ingest()  # as a pass does that is killed before it merges
    assert [r.status for r in road.bus.sync(set()).releases] == ["released"]
    assert len(road.query("SELECT id FROM t")) == 2


def test_a_failed_dataset_is_tried_again_when_nothing_is_new(road: Road) -> None:
    road.publish({"id": "a", "seq": 1})
    road.sync()
    _another_program_writes("bronze")(road)
    for _ in range(2):
        assert road.dataset.id in road.bus.sync().failures


def _damage(road: Road, table: str) -> None:
    """Overwrite a table's log."""
    for file in filter(Path.is_file, (Path(road.lake.root) / table / "_delta_log").iterdir()):
        file.write_bytes(b"{")
    road.forget()


@pytest.mark.parametrize("layer", ["bronze", "silver"])
def test_dataset_with_a_damaged_log_stops_alone_until_it_is_rebuilt(road: Road, layer: str) -> None:
    other = Road(road.bus, f"{road.name}other")
    road.publish({"id": "a", "seq": 1})
    road.sync()
    _damage(road, f"{layer}/{road.dataset.id}")
    for turn in range(2):
        other.publish({"id": f"b{turn}", "seq": 1})
        info = road.bus.sync()
        assert list(info.failures) == [road.dataset.id]
        assert "suibus rebuild" in info.failures[road.dataset.id]
        assert info.ingested[other.dataset.id] == 1
    assert not road.bus.rebuild(road.dataset, layer == "bronze").failures


@pytest.mark.parametrize("table", ["account", "releases"])
def test_a_damaged_log_of_a_table_that_all_datasets_share_is_named(road: Road, table: str) -> None:
    road.publish({"id": "a", "seq": 1})
    road.sync()
    _damage(road, table)
    with pytest.raises(StateError, match=rf"The log of .*/{table} cannot be read: .* from a backup"):
        road.bus.sync({road.dataset.id})


def test_datasets_with_nothing_new_cost_no_spark_job(road: Road, spark: Any) -> None:
    others = [Road(road.bus, f"{road.name}{n}") for n in range(2)]
    for each in (road, *others):
        each.publish({"id": "a", "seq": 1})
    road.sync()

    def idle() -> SyncInfo:
        return sync(Inputs(road.lake, road.bus.store, road.bus.kafka), only=())

    idle()
    assert jobs(spark, idle) == 0
