"""A changed contract widens the tables, and its records are read and judged by it from then on."""

from __future__ import annotations

from pathlib import Path

from infra.bus.bus import Bus
from infra.operate.listings import quarantined_records
from pipelines.sync import Inputs, sync
from schemas.contract import parse_contract
from tests.integration.conftest import CONTRACT, Road

RECORD = """\
      - name: address
        logicalType: object
        properties:
{members}      - name: visits
        logicalType: array
        items:
          logicalType: object
          properties:
{items}"""


def test_members_added_inside_records_and_arrays_widen_the_tables(road: Road) -> None:
    def columns(*names: str) -> str:
        members = "".join(f"          - {{name: {n}, logicalType: string}}\n" for n in names)
        items = "".join(f"            - {{name: {n}, logicalType: string}}\n" for n in names)
        return RECORD.format(members=members, items=items)

    road.contract(columns=columns("street"))
    road.publish({"id": "a", "seq": 1, "address": {"street": "x"}, "visits": [{"street": "v"}]})
    road.merge()
    road.contract(version="1.1.0", columns=columns("order", "street"))  # a reserved word of SQL, before the old column
    new = {"order": "2", "street": "y"}
    road.publish({"id": "b", "seq": 1, "address": new, "visits": [new]})
    road.sync()
    rows = road.query("SELECT id, address.street, address.order, visits[0].street AS v, visits[0].order AS o FROM t")
    assert sorted(tuple(row.values()) for row in rows) == [("a", "x", None, "v", None), ("b", "y", "2", "y", "2")]


def test_a_record_of_a_contract_put_in_force_during_the_pass_is_read_with_it(road: Road) -> None:
    old = road.dataset
    new = parse_contract(
        CONTRACT.format(
            name=road.name,
            version="1.1.0",
            least=1,
            sharing="none",
            columns="      - {name: note, logicalType: string}\n",
        )
    )
    road.dataset = new  # a node has the new contract already
    road.publish({"id": "a", "seq": 1, "note": "新"})
    assert road.bus.store.datasets()[old.id].hash == old.hash
    info = sync(
        Inputs(road.lake, road.bus.store, road.bus.kafka), only=(), refresh=lambda: road.bus.store.register(new)
    )
    assert info.records[new.id].contract_sha256 == new.hash
    assert quarantined_records(road.bus, road.name) == []
    assert road.query("SELECT note FROM t") == [{"note": "新"}]


def test_a_contract_changed_while_a_pass_waits_is_put_in_force_before_its_records_are_read(
    road: Road, tmp_path: Path
) -> None:
    folder = tmp_path / "contracts"
    folder.mkdir()
    bus = Bus(road.bus.settings.model_copy(update={"contracts": str(folder)}))
    bus.contracts.folders = (folder,)
    (folder / "t.yaml").write_text(road.dataset.text, "utf-8")
    assert bus.adopt_contracts() == []
    columns = "      - {name: note, logicalType: string}\n"
    changed = CONTRACT.format(name=road.name, version="1.1.0", least=1, sharing="none", columns=columns)
    (folder / "t.yaml").write_text(changed, "utf-8")
    road.dataset = parse_contract(changed)
    road.publish({"id": "a", "seq": 1, "note": "新"})
    assert not bus.sync().failures
    assert road.query("SELECT note FROM t") == [{"note": "新"}]


def test_a_dataset_whose_contract_changed_is_judged_again_by_the_next_pass_of_any_dataset(road: Road) -> None:
    road.publish({"id": "a", "seq": 1})
    road.sync()
    road.contract(version="1.1.0", least=5)
    info = sync(Inputs(road.lake, road.bus.store, road.bus.kafka), only=("another.v1",))
    assert [r.status for r in info.releases] == ["held"]
