"""A lake that another Suibus wrote is left as it is, and made again from the topics when asked to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.bus.bus import Bus
from schemas.errors import StateError
from schemas.ports.state_format import FORMAT_FILE
from tests.integration.conftest import Road


def test_lake_of_another_format_is_refused_and_made_again_from_the_topics(road: Road) -> None:
    road.publish({"id": "a", "seq": 1, "amount": 5}, {"id": "b", "seq": 1})
    road.sync()
    before, lake = road.silver(), Path(road.bus.settings.lake_path)
    (lake / FORMAT_FILE).write_text(json.dumps({"format": 99, "suibus": "9.0.0"}))
    road.bus = Bus(road.bus.settings)
    with pytest.raises(StateError, match="suibus rebuild --lake") as caught:
        road.bus.lake()
    assert "suibus rebuild --lake" in caught.value.zh
    assert not road.bus.rebuild_lake().failures
    assert road.silver() == before
    (old,) = lake.parent.glob("lake.set-aside-*")
    assert json.loads((old / FORMAT_FILE).read_text())["format"] == 99
