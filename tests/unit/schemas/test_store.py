"""Every contract that was ever in force stays readable; one that cannot read earlier records never comes into force."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from schemas.contract import parse_contract
from schemas.dataset import Dataset
from schemas.errors import ContractError
from schemas.store import ContractStore
from schemas.wire.avro import avro_schema, schema_fingerprint
from schemas.wire.encoder import Encoder
from tests.avro_reader import decode

CONTRACT = """\
apiVersion: v3.1.0
kind: DataContract
id: t
version: {version}
schema:
  - name: t
    properties:
      - {{name: id, logicalType: string, required: true, primaryKey: true}}
{columns}"""
A = "      - {name: a, logicalType: string}\n"
B = "      - {name: b, logicalType: string}\n"
A_INTEGER = "      - {name: a, logicalType: integer}\n"


def contract(version: str = "1.0.0", columns: str = "") -> Dataset:
    return parse_contract(CONTRACT.format(version=version, columns=columns), "t.yaml")


@pytest.fixture
def store(tmp_path: Path) -> ContractStore:
    return ContractStore(tmp_path / "contracts")


def test_store_that_does_not_exist_is_empty(store: ContractStore) -> None:
    assert store.datasets() == {}
    assert store.versions("t.v1") == []
    assert store.writer_schemas("t.v1") == {}


def test_a_registered_contract_is_in_force_and_is_read_back_whole(store: ContractStore) -> None:
    dataset = contract()
    assert store.register(dataset)
    assert store.datasets() == {"t.v1": dataset}
    assert ContractStore(store.folder).datasets() == {"t.v1": dataset}


def test_registering_again_changes_nothing(store: ContractStore) -> None:
    store.register(contract())
    before = {p: p.read_bytes() for p in store.folder.rglob("*") if p.is_file()}
    assert not store.register(contract())
    assert {p: p.read_bytes() for p in store.folder.rglob("*") if p.is_file()} == before


def test_text_with_windows_line_ends_is_registered_once(store: ContractStore) -> None:
    dataset = parse_contract(contract().text.replace("\n", "\r\n"), "t.yaml")
    assert store.register(dataset)
    assert not ContractStore(store.folder).register(dataset)


def test_versions_are_kept_oldest_first(store: ContractStore) -> None:
    first, second = contract(), contract("1.1.0", A)
    store.register(first)
    store.register(second)
    assert store.versions("t.v1") == [first, second]
    assert store.datasets() == {"t.v1": second}


def test_contract_that_could_not_read_earlier_records_never_comes_into_force(store: ContractStore) -> None:
    good = contract("1.0.0", A)
    store.register(good)
    with pytest.raises(ContractError, match=r"1\.1\.0 cannot replace 1\.0\.0.*start version 2") as caught:
        store.register(contract("1.1.0", A_INTEGER))
    assert "不能取代" in caught.value.zh
    assert "新的主版本 2" in caught.value.zh
    assert store.datasets() == {"t.v1": good}
    assert list(store.writer_schemas("t.v1")) == [schema_fingerprint(avro_schema(good))]


def test_a_contract_is_checked_against_every_earlier_version_not_only_the_last(store: ContractStore) -> None:
    """A removed column cannot come back with another type, even if the version in between does not have it."""
    store.register(contract("1.0.0"))
    store.register(contract("1.1.0", A))
    folder = store.folder / "t.v1"
    lines = (folder / "history.jsonl").read_text("utf-8").split("\n")
    (folder / "history.jsonl").write_text("\n".join([lines[0], lines[2], lines[1]]), "utf-8")  # 1.0.0 is in force last
    with pytest.raises(ContractError, match=r"cannot replace 1\.1\.0"):
        ContractStore(store.folder).register(contract("1.2.0", A_INTEGER))


def test_a_new_major_version_need_not_be_compatible_with_the_old_one(store: ContractStore) -> None:
    store.register(contract("1.0.0", A))
    store.register(contract("2.0.0", A_INTEGER))
    assert sorted(store.datasets()) == ["t.v1", "t.v2"]


def test_a_stricter_rule_is_not_refused(store: ContractStore) -> None:
    store.register(contract("1.0.0", A))
    tighter = A.replace("string}", "string, logicalTypeOptions: {maxLength: 5}}")
    assert store.register(contract("1.1.0", tighter))


def test_record_of_an_old_version_is_read_with_the_contract_in_force(store: ContractStore) -> None:
    old, new = contract("1.0.0", A), contract("1.1.0", A + B)
    store.register(old)
    value = Encoder(old).value({"id": "1", "a": "x"})
    store.register(new)
    assert decode(value, store.writer_schemas("t.v1"), avro_schema(new)) == {"id": "1", "a": "x", "b": None}


def test_a_registration_cut_off_in_its_line_keeps_the_earlier_ones_and_accepts_the_next(store: ContractStore) -> None:
    first, second = contract(), contract("1.1.0", A)
    store.register(first)
    with (store.folder / "t.v1" / "history.jsonl").open("a", encoding="utf-8") as history:
        history.write('\n{"version": "1.1.0", "file": "1.1.0-')
    assert ContractStore(store.folder).versions("t.v1") == [first]
    assert store.register(second)
    assert ContractStore(store.folder).versions("t.v1") == [first, second]


def test_registration_cut_off_before_its_line_leaves_the_earlier_one_in_force(store: ContractStore) -> None:
    first, second = contract(), contract("1.1.0", A)
    store.register(first)
    history = store.folder / "t.v1" / "history.jsonl"
    before = history.read_bytes()
    store.register(second)
    history.write_bytes(before)
    again = ContractStore(store.folder)
    assert again.datasets() == {"t.v1": first}
    assert again.register(second)
    assert again.datasets() == {"t.v1": second}


def test_a_stored_contract_that_is_damaged_stops_its_own_dataset_and_is_named(store: ContractStore) -> None:
    store.register(contract())
    store.register(replace(contract(), name="other"))
    (file,) = (store.folder / "t.v1").glob("*.yaml")
    file.write_text("kind: [", "utf-8")
    again = ContractStore(store.folder)
    assert list(again.datasets()) == ["other.v1"]
    (refused,) = again.broken()
    assert str(file) in refused.en
    assert "backup" in refused.en
    with pytest.raises(ContractError, match="cannot be served"):
        again.register(contract("1.1.0"))
