"""A lake of another format is refused and not changed; `suibus rebuild --lake` makes it again from the topics and keeps the old one."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from infra.bus.bus import Bus
from pipelines.lake.lake import set_lake_aside
from schemas.errors import StateError, UnavailableError
from schemas.ports.state_format import FORMAT_FILE, format_text
from tests.integration.conftest import Road


@pytest.mark.parametrize("root", ["/", "s3a://bucket", "s3a://bucket/"])
def test_a_whole_file_system_or_bucket_is_not_renamed(spark: Any, root: str) -> None:
    with pytest.raises(UnavailableError, match="must be a folder"):
        set_lake_aside(spark, root)


def test_a_lake_in_the_root_folder_can_be_rebuilt(spark: Any) -> None:
    root = Path(f"/suibus-test-{uuid.uuid4().hex}")
    try:
        root.mkdir()
    except OSError as error:
        pytest.skip(f"the root folder cannot be written to: {error}")
    aside = set_lake_aside(spark, str(root))
    try:
        assert aside is not None
        assert Path(aside).is_dir()
        assert not root.exists()
    finally:
        for left in Path("/").glob(f"{root.name}*"):
            left.rmdir()


def test_a_new_lake_records_its_format(road: Road) -> None:
    assert (Path(road.lake.root) / FORMAT_FILE).read_text("utf-8") == format_text()


@pytest.mark.parametrize("text", [None, '{"format": 99, "suibus": "9.0.0"}', "not JSON"])
def test_a_lake_of_another_format_is_refused_and_rebuilt_from_the_topics(road: Road, text: str | None) -> None:
    road.publish({"id": "a", "seq": 1, "amount": 1}, {"id": "b", "seq": 1, "amount": -1})
    road.sync()
    root = Path(road.lake.root)
    (root / FORMAT_FILE).unlink() if text is None else (root / FORMAT_FILE).write_text(text)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    bus = Bus(road.bus.settings)
    with pytest.raises(StateError, match="suibus rebuild --lake") as refusal:
        bus.lake()
    assert "suibus rebuild --lake" in refusal.value.zh
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert not bus.rebuild_lake().failures
    road.bus = bus
    assert road.query("SELECT id, amount FROM t") == [{"id": "a", "amount": 1}]
    assert road.account()["440106"]["quarantined"] == 1
    (aside,) = root.parent.glob(f"{root.name}.set-aside-*")
    assert {path.relative_to(aside) for path in aside.rglob("*")} == {path.relative_to(root) for path in before}
