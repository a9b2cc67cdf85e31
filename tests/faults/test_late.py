"""Records that arrive late, twice, or in another version of the schema than the records around them.

More such tests elsewhere: an older update after a newer delete and any order and duplication of the same events (test_merge), a
record of an older version (test_ingest), contracts changed during a pass (test_contracts_in_force), snapshots of an outbox (test_outbox).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from infra.bus.bus import Bus
from infra.kafka.broker import Broker
from infra.kafka.topics import Kafka
from infra.settings import Settings
from pipelines.release.release_table import last_records
from producers.publish.delivery import publish_source
from producers.publish.publisher import Publisher
from producers.sources.files import open_source
from schemas.contract import parse_contract
from schemas.dataset import Dataset
from tests.integration.conftest import CONTRACT, Road, write_csv

_NUMBERS = count()
HERE, THERE = "440106", "440104"
NOTE = "      - {name: note, logicalType: string}\n"
GRADE = "      - {name: grade, logicalType: integer}\n"
KIND = "      - {name: kind, logicalType: string, required: true}\n"


@pytest.fixture
def road(tmp_path: Path, broker: Broker, spark: Any) -> Road:
    """A bus with one dataset of four columns in force."""
    settings = Settings(home=tmp_path / "home", bootstrap_servers=broker.access.servers)
    return Road(Bus(settings), f"late{next(_NUMBERS)}")


def node(road: Road, dataset: Dataset, district: str) -> Publisher:
    """A district's node that has this version of the contract."""
    return Publisher(dataset, district, road.bus.outbox(district), road.bus.access.servers)


def test_rows_accepted_days_ago_under_older_versions_take_their_place_by_sequence(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = road.dataset
    with monkeypatch.context() as patched:
        patched.setattr(time, "time_ns", _ago(days=5))
        offline = node(road, old, HERE)
        for row in ({"id": "a", "seq": 10}, {"id": "b", "seq": 10}, {"id": "c", "seq": 90}):
            offline.publish({"district_code": HERE, "amount": 1, **row})
        offline.accept()  # this node cannot reach the bus
    road.contract(version="1.1.0", columns=NOTE)
    newest = road.contract(version="1.2.0", columns=NOTE + GRADE)
    with node(road, newest, THERE) as online:
        for row in ({"id": "a", "seq": 20}, {"id": "c", "seq": 20}):
            online.publish({"district_code": THERE, "amount": 2, "note": "new", "grade": 3, **row})
        online.publish({"id": "b", "seq": 20, "district_code": THERE, "amount": 2})
        online.delete({"id": "b", "seq": 30})
    road.sync()
    offline.close()  # this sends its rows
    road.sync()
    assert road.query("SELECT id, seq, amount, note, grade FROM t ORDER BY id") == [
        {"id": "a", "seq": 20, "amount": 2, "note": "new", "grade": 3},
        {"id": "c", "seq": 90, "amount": 1, "note": None, "grade": None},
    ]
    here = road.account()[HERE]
    assert (here["received"], here["superseded"], here["quarantined"]) == (3, 2, 0)
    arrived = road.lake.bronze(road.dataset).read().where(f"_district = '{HERE}'").select("_timestamp").collect()
    assert all(datetime.now(UTC) - row[0].astimezone(UTC) > timedelta(days=4) for row in arrived)


def test_without_a_sequence_an_older_update_does_not_undo_a_newer_delete(
    road: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = CONTRACT.format(name=road.name, version="2.0.0", least=0, sharing="unconditional", columns="")
    text = text.replace("  - {property: suibus.sequence, value: seq}\n", "")
    by_time = parse_contract(text, "by_time.yaml")
    road.bus.store.register(by_time)
    Kafka(road.bus.access).ensure(by_time.topics)
    with monkeypatch.context() as patched:
        patched.setattr(time, "time_ns", _ago(days=3))
        offline = node(road, by_time, HERE)
        for key in ("a", "b"):
            offline.publish({"id": key, "district_code": HERE, "seq": 1, "amount": 1})
        offline.accept()
    with node(road, by_time, THERE) as online:
        online.publish({"id": "a", "district_code": THERE, "seq": 1, "amount": 2})
        online.delete({"id": "a"})
    road.sync()
    offline.close()
    road.sync()
    assert road.query("SELECT id, amount FROM t") == [{"id": "b", "amount": 1}]


def test_a_snapshot_published_again_sends_nothing_and_a_file_published_again_changes_nothing(
    road: Road, tmp_path: Path
) -> None:
    rows = [{"id": f"k{i}", "district_code": HERE, "seq": i, "amount": i} for i in range(30)]
    path = write_csv(tmp_path / "all.csv", rows)

    def publish(mode: Any) -> tuple[int, int]:
        publisher = node(road, road.dataset, HERE)
        with publisher.outbox:
            info = publish_source(publisher, open_source(path, road.dataset), mode)
        return info.accepted, info.sent

    assert publish("snapshot") == (30, 30)
    assert sum(road.sync().ingested.values()) == 30
    assert publish("snapshot") == (0, 0)
    again = road.sync()
    assert (sum(again.ingested.values()), again.releases) == (0, ())
    assert publish("append") == (30, 30)
    assert publish("append") == (30, 30)
    once_more = road.sync()
    assert (sum(once_more.ingested.values()), once_more.releases) == (60, ())
    account = road.account()[HERE]
    assert (account["received"], account["inserted"]) == (90, 30)
    assert account["unchanged"] + account["superseded"] + account["duplicate"] == 60
    assert publish("snapshot") == (0, 0)
    assert road.query("SELECT count(*) AS n, sum(amount) AS s FROM t") == [{"n": 30, "s": 435}]


def test_nodes_on_two_minor_versions_publish_into_one_table_at_the_same_time(road: Road) -> None:
    first = road.dataset
    second = road.contract(version="1.1.0", columns=NOTE)
    for turn in range(2):  # each overwrites a row of the other
        with node(road, first, HERE) as here, node(road, second, THERE) as there:
            here.publish({"id": "h", "district_code": HERE, "seq": turn, "amount": turn})
            there.publish({"id": "t", "district_code": THERE, "seq": turn, "amount": turn, "note": f"turn {turn}"})
            here.publish({"id": f"both{turn}", "district_code": HERE, "seq": 1 + turn, "amount": 7})
            there.publish({"id": f"both{turn}", "district_code": THERE, "seq": 2 - turn, "amount": 8, "note": "mine"})
        road.sync()
    assert [tuple(r.values()) for r in road.query("SELECT id, district_code, amount, note FROM t ORDER BY id")] == [
        ("both0", THERE, 8, "mine"),
        ("both1", HERE, 7, None),  # the later version had no note
        ("h", HERE, 1, None),
        ("t", THERE, 1, "turn 1"),
    ]
    assert [a["quarantined"] for a in road.account().values()] == [0, 0]


def test_a_breaking_version_is_a_new_major_and_both_majors_are_served(road: Road) -> None:
    old = road.dataset
    with node(road, old, HERE) as here:
        here.publish({"id": "a", "district_code": HERE, "seq": 1, "amount": 1})
    road.sync()
    new = road.contract(version="2.0.0", columns=KIND)
    assert old.topic(HERE) != new.topic(HERE)
    road.sync()  # nothing is published under the new major yet: the plain name is still the old one's
    assert road.query("SELECT id, amount FROM t") == [{"id": "a", "amount": 1}]
    with node(road, old, HERE) as here, node(road, new, THERE) as there:
        here.publish({"id": "b", "district_code": HERE, "seq": 1, "amount": 2})
        there.publish({"id": "c", "district_code": THERE, "seq": 1, "amount": 3, "kind": "new"})
    info = road.sync()
    assert sorted(r.dataset for r in info.releases) == [old.id, new.id]
    records = last_records(road.lake)
    assert (records[old.id].rows, records[new.id].rows) == (2, 1)
    assert road.query("SELECT id, kind FROM t") == [{"id": "c", "kind": "new"}]  # the plain name is the newest major's


def _ago(days: int) -> Callable[[], int]:
    real = time.time_ns
    return lambda: real() - days * 86_400 * 10**9
