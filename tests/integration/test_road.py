"""From publish to query on real data, in one process: eleven registers, a year of flights, enterprises with check digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from infra.bus.bus import Bus
from infra.demo.rounds import REGISTER
from infra.kafka.broker import Broker
from infra.operate.listings import account_records, quarantined_records
from infra.settings import Settings
from pipelines.share.query import query
from producers.publish.delivery import PublishInfo, publish_source
from producers.publish.publisher import Publisher
from producers.sources.files import open_source
from schemas.districts import districts
from tests.integration.sources import check_digit, write_enterprises, write_flights

FIRST_ROUND = {
    "440103": 201, "440104": 222, "440105": 267, "440106": 230, "440111": 404, "440112": 167, "440113": 276,
    "440114": 261, "440115": 172, "440117": 281, "440118": 370,
}  # fmt: skip


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory, broker: Broker, spark: Any) -> Bus:
    """A bus with the shipped contracts in force."""
    home = tmp_path_factory.mktemp("road") / "home"
    found = Bus(Settings(home=home, bootstrap_servers=broker.access.servers))
    found.adopt_contracts()
    return found


def publish(bus: Bus, name: str, district: str, path: Path) -> PublishInfo:
    dataset = bus.store.datasets()[f"{name}.v1"]
    publisher = Publisher(dataset, district, bus.outbox(district), bus.access.servers)
    with publisher.outbox:
        info = publish_source(publisher, open_source(path, dataset), "snapshot")
    assert info.problem is None
    return info


def select(bus: Bus, sql: str) -> list[dict[str, Any]]:
    return [row.asDict() for row in query(sql, bus.lake(), bus.store, "民政局").collect()]


def test_the_eleven_registers_become_one_released_table(bus: Bus) -> None:
    for district in districts():
        sent = publish(bus, "grassroots_division", district, REGISTER / f"{district}.csv")
        assert (sent.accepted, sent.rejected) == (FIRST_ROUND[district], 0)
    info = bus.sync()
    assert [(r.dataset, r.status, r.verdict.rows) for r in info.releases] == [
        ("grassroots_division.v1", "released", 2851)
    ]
    rows = select(bus, "SELECT district_code, count(*) AS n FROM grassroots_division GROUP BY 1")
    assert {r["district_code"]: r["n"] for r in rows} == FIRST_ROUND
    account = {r["district"]: r for r in account_records(bus, "grassroots_division")}
    assert {d: r["inserted"] for d, r in account.items()} == FIRST_ROUND


def test_a_year_of_flights_from_three_ports_keeps_its_nulls(bus: Bus, tmp_path: Path) -> None:
    for district, path in write_flights(tmp_path).items():
        assert publish(bus, "flights", district, path).rejected == 0
    (released,) = bus.sync().releases
    assert (released.status, released.verdict.rows) == ("released", 336_776)
    (sums,) = select(
        bus,
        "SELECT count(*) AS n, count_if(dep_time IS NULL) AS cancelled, count_if(tailnum IS NULL) AS tails, "
        "count_if(air_time IS NULL) AS air, sum(distance) AS miles, min(time_hour) AS first FROM flights",
    )
    # counted by hand from the package's own file
    assert (sums["n"], sums["cancelled"], sums["tails"], sums["air"]) == (336_776, 8_255, 2_512, 9_430)
    assert sums["miles"] == 350_217_607
    ports = select(bus, "SELECT origin, count(*) AS n FROM flights GROUP BY 1")
    assert {r["origin"]: r["n"] for r in ports} == {"EWR": 120_835, "JFK": 111_279, "LGA": 104_662}


def test_a_credit_code_with_a_wrong_check_digit_is_quarantined(bus: Bus, tmp_path: Path) -> None:
    path = write_enterprises(tmp_path / "enterprise.csv", "440106", 200)
    lines = path.read_text("utf-8").splitlines()
    code = lines[5].split(",")[0]
    wrong = code[:-1] + ("0" if code[-1] != "0" else "1")
    path.write_text("\n".join([*lines[:5], lines[5].replace(code, wrong), *lines[6:]]) + "\n", "utf-8")
    assert publish(bus, "enterprise", "440106", path).accepted == 200
    (released,) = bus.sync().releases
    assert released.verdict.rows == 199
    (record,) = quarantined_records(bus, "enterprise")
    assert [r["rule"] for r in record["reasons"]] == ["uscc_check_digit"]
    assert record["record"]["uscc"] == wrong
    (row,) = select(bus, "SELECT count(*) AS n, count(DISTINCT former_names) AS names FROM enterprise")
    assert row["n"] == 199
    assert row["names"] > 1


@pytest.mark.parametrize("code", ["91110000802100433B", "91440300708461136T"])
def test_published_credit_codes_carry_the_check_digit_that_is_computed(code: str) -> None:
    assert check_digit(code) == code[-1]
