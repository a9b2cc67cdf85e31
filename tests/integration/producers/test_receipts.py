"""Every refused record gives its district one receipt; a correction answers it and overwrites no newer version."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from infra.cli import main
from infra.kafka.topics import Kafka
from pipelines.back import receipts as feedback
from pipelines.back.receipts import send_receipts
from pipelines.merge.merge import merge_pending
from producers.fetch_receipts import FetchInfo, fetch_receipts
from producers.inbox import Inbox
from producers.sources.source import RECEIPT_COLUMNS
from schemas.contract import load_contract
from schemas.dataset import receipts_topic
from schemas.districts import districts
from schemas.errors import UnavailableError
from schemas.ports.kafka_access import KafkaAccess
from schemas.row.coercer import RowCoercer
from schemas.wire.encoder import Encoder
from schemas.wire.receipt import LARGEST, Receipt
from tests.integration.conftest import CONTRACT, Road
from tests.integration.outside_changes import recreate
from tests.integration.pipelines.test_types import PATH, PLAIN, ROWS
from tests.unit.schemas.test_receipt import RECEIPT

NOWHERE = "127.0.0.1:1"


class Node:
    """A district's command line and inbox, and the city's side of the same bus."""

    def __init__(self, road: Road, district: str = "440106") -> None:
        self.road, self.district, self.sent = road, district, 0
        Kafka(road.bus.access).ensure([receipts_topic(code) for code in districts()])

    @property
    def inbox_path(self) -> Path:
        return self.road.bus.outbox(self.district).with_name("inbox.sqlite")

    def city(self) -> int:
        """Ingest everything and send the receipts; returns their number."""
        self.road.ingest()
        first, self.sent = self.sent + 1, self.road.lake.bronze(self.road.dataset).version
        return self.send(first, self.sent)

    def silver(self) -> list[tuple[Any, ...]]:
        """Merge everything; returns the rows of silver: key, deletion, amount."""
        assert self.city() == 0
        merge_pending(self.road.dataset, self.road.lake)
        return [(key, deleted, amount) for key, deleted, *_, amount in self.road.silver()]

    def send(self, first: int, last: int, servers: str = "") -> int:
        access = KafkaAccess.to(servers or self.road.bus.access)
        return send_receipts(self.road.dataset, self.road.lake, first, last, access)

    def fetch(self) -> FetchInfo:
        with Inbox(self.inbox_path) as inbox:
            return fetch_receipts(inbox, self.road.bus.access.servers, self.district)

    def receipts(self, state: Any = None) -> list[Receipt]:
        """The receipts of this dataset (all tests share the return topic)."""
        with Inbox(self.inbox_path) as inbox:
            return [h.receipt for h in inbox.receipts(state, self.road.dataset.id)]

    def write(self, *records: Mapping[str, Any], topic: str = "") -> None:
        """Send records without the node's code, as another program may."""
        producer = KafkaProducer(bootstrap_servers=self.road.bus.access.servers, acks="all", max_request_size=4 << 20)
        for record in records:
            producer.send(topic or self.road.dataset.topic(self.district), **record).get(timeout=30)
        producer.close()

    def suibus(self, *words: str, servers: str = "") -> Result:
        """Run a command of the node in this process."""
        folder = self.road.bus.home / "contracts-folder"
        folder.mkdir(exist_ok=True)
        (folder / "it.yaml").write_text(self.road.dataset.text, "utf-8")
        environment = {
            "SUIBUS_HOME": str(self.road.bus.home),
            "SUIBUS_CONTRACTS": str(folder),
            "SUIBUS_BOOTSTRAP_SERVERS": servers or self.road.bus.access.servers,
        }
        return CliRunner().invoke(main, words, env={**os.environ, **environment}, catch_exceptions=False)


@pytest.fixture
def node(road: Road) -> Node:
    return Node(road)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def rewrite_csv(path: Path, change: Callable[[dict[str, str]], dict[str, str]]) -> Path:
    rows = [change(row) for row in read_csv(path)]
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def contract(node: Node, old: str, new: str, version: str = "1.0.0") -> None:
    """Put in force the node's contract with one part changed."""
    assert CONTRACT.count(old) == 1
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tests.integration.conftest.CONTRACT", CONTRACT.replace(old, new))
        node.road.contract(version=version)


def without_sequence(node: Node) -> None:
    node.road.name += "n"
    contract(node, "  - {{property: suibus.sequence, value: seq}}\n", "")


@pytest.fixture(params=[True, False], ids=["sequence column", "no sequence column"])
def ordered(request: pytest.FixtureRequest, node: Node) -> bool:
    """The contract with and without a sequence column."""
    if not request.param:
        without_sequence(node)
    return bool(request.param)


# --- from the city to the node --------------------------------------------------------------------


def test_each_refused_record_gives_its_own_district_one_receipt_with_every_reason(road: Road) -> None:
    mine, other = Node(road), Node(road, "440103")
    road.publish({"id": "good", "seq": 1}, {"id": "bad", "seq": 1, "amount": -1})
    road.publish({"id": "theirs", "seq": 2, "amount": -5}, district="440103")
    mine.write({"key": b'{"id":"gone"}', "value": None}, {"key": b"\xff", "value": b"\xc3\x01nonsense"})
    assert mine.city() == 4
    bronze = road.lake.bronze(road.dataset).read().where("_quarantined").collect()
    expected = {(r["_topic"], r["_partition"], r["_offset"]): r for r in bronze}
    found = []
    for node in (mine, other):
        assert node.fetch().unreadable == 0
        assert {r.district for r in node.receipts()} == {node.district}
        found += node.receipts()
    assert {(r.topic, r.partition, r.offset) for r in found} == set(expected)
    for receipt in found:
        row = expected[receipt.topic, receipt.partition, receipt.offset]
        assert [(r.rule, r.column, r.found, r.reason, r.reason_zh) for r in receipt.reasons] == [
            tuple(r) for r in row["_reasons"]
        ]
        assert receipt.timestamp_ms == int(row["_timestamp"].timestamp() * 1000)
        assert (receipt.dataset, receipt.dataset_id, receipt.contract_version) == (road.name, road.dataset.id, "1.0.0")
    by_key = {r.key: r for r in found}
    assert by_key['{"id":"bad"}'].record == {"id": "bad", "district_code": "440106", "seq": "1", "amount": "-1"}
    assert by_key['{"id":"bad"}'].reasons[0].rule == "amount_not_negative"
    assert by_key['{"id":"gone"}'].deleted
    assert by_key["\ufffd"].record is None


def test_receipts_sent_again_after_a_crash_are_kept_once(node: Node) -> None:
    node.road.publish(*({"id": f"r{i}", "seq": 1, "amount": -1} for i in range(1_500)))
    assert node.city() == 1_500
    node.fetch()
    with Inbox(node.inbox_path) as inbox:
        receipt = node.receipts()[0]
        inbox.set_state([(receipt.topic, receipt.partition, receipt.offset)], "acknowledged")
    assert node.send(1, node.road.lake.bronze(node.road.dataset).version) == 1_500
    assert node.fetch().new == 0
    assert (len(node.receipts()), len(node.receipts("acknowledged"))) == (1_500, 1)


def test_without_quarantined_records_no_receipt_producer_is_opened(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.road.publish({"id": "a", "seq": 1})
    monkeypatch.setattr(feedback, "KafkaProducer", None)
    assert node.city() == 0


def test_receipts_are_sent_later_when_the_bus_does_not_answer(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.road.publish({"id": "a", "seq": 1, "amount": -1})
    node.road.ingest()
    last = node.road.lake.bronze(node.road.dataset).version
    with monkeypatch.context() as patched:
        patched.setattr(feedback, "WAIT_MS", 1_000)
        with pytest.raises(UnavailableError, match="next pass"):
            node.send(1, last, NOWHERE)
        topic = receipts_topic("440106")
        patched.setattr(feedback, "receipts_topic", lambda _: f"{topic}.missing")
        with pytest.raises(UnavailableError, match="return topics"):
            node.send(1, last)
    assert node.send(1, last) == 1
    node.fetch()
    assert len(node.receipts()) == 1


def test_receipt_of_a_record_of_a_megabyte_fits_on_the_bus(node: Node) -> None:
    columns = "".join(f"      - {{name: t{i}, logicalType: string}}\n" for i in range(3))
    node.road.contract(version="1.1.0", columns=columns)
    texts = {f"t{i}": c * n for i, (c, n) in enumerate([("穗", 200_000), ("\u0001", 150_000), ('"', 150_000)])}
    node.road.publish({"id": "k" * 40_000, "seq": 1, "amount": -1, **texts})
    assert node.city() == 1
    node.fetch()
    (receipt,) = node.receipts()
    assert len(receipt.to_json()) <= LARGEST
    assert receipt.shortened == ("id", "t0", "t1", "t2")
    assert receipt.record is not None
    assert all(texts[name].startswith(receipt.record[name] or "none") for name in texts)


def test_an_answers_header_of_any_bytes_is_shortened_and_quarantines_nothing(node: Node) -> None:
    row = RowCoercer(node.road.dataset, False).coerce({"id": "a", "district_code": "440106", "seq": 1, "amount": 1})
    encoder = Encoder(node.road.dataset)
    record = {"key": encoder.key(row), "value": encoder.value(row)}
    headers: list[list[tuple[str, bytes | None]]] = [
        [("answers", b"\xff\xfe")], [("answers", b"x" * 900_000)], [],
        [("other", b"1"), ("answers", b"first"), ("answers", b"second")], [("answers", "穗".encode() * 400)],
    ]  # fmt: skip
    node.write(*({**record, "headers": h} for h in headers))
    assert node.city() == 0
    rows = node.road.lake.bronze(node.road.dataset).read().orderBy("_offset").collect()
    assert [r["_answers"] for r in rows] == ["\ufffd\ufffd", "x" * 300, None, "first", "穗" * 300]
    assert not any(r["_quarantined"] for r in rows)


def test_a_record_that_is_no_receipt_of_this_district_is_skipped_and_reported(node: Node) -> None:
    node.fetch()
    node.road.publish({"id": "a", "seq": 1, "amount": -1})
    values = [b"", b"\xff\xff", b"[]", b"{}", b"[" * 200_000, b"9" * 3_000_000]
    node.write(*({"value": v, "headers": [("\u0000", b"\xff")]} for v in values), topic=receipts_topic("440106"))
    node.city()
    foreign = replace(RECEIPT, topic=node.road.dataset.topic("440103"))
    node.write({"value": foreign.to_json()}, topic=receipts_topic("440106"))
    info = node.fetch()
    assert (info.new, info.unreadable) == (1, len(values) + 1)
    assert "skipped" in info.notes[0][0]
    assert node.fetch() == FetchInfo(0, 0)


def test_a_return_topic_that_was_recreated_or_cut_is_read_from_its_start(road: Road) -> None:
    node = Node(road, "440118")
    road.publish(*({"id": f"r{i}", "seq": 1, "amount": -1} for i in range(3)), district="440118")
    assert node.city() == 3
    assert node.fetch().notes == ()
    topic = receipts_topic("440118")
    admin = KafkaAdminClient(bootstrap_servers=road.bus.access.servers)
    try:
        recreate(road, topic)
        node.send(1, 1)
        road.publish({"id": "r3", "seq": 1, "amount": -1}, district="440118")
        node.city()  # one more than were read: the offsets alone do not show that the topic is another
        info = node.fetch()
        assert (info.new, len(node.receipts())) == (1, 4)
        assert "recreated" in info.notes[0][0]
        assert node.fetch().notes == ()
        road.publish(*({"id": f"r{i}", "seq": 1, "amount": -1} for i in (4, 5)), district="440118")
        node.city()
        admin.delete_records({TopicPartition(topic, 0): 5})
    finally:
        admin.close()
    info = node.fetch()
    assert (info.new, len(node.receipts())) == (1, 5)
    assert "lost receipts" in info.notes[0][0]


# --- the command ----------------------------------------------------------------------------------


def test_receipts_are_listed_acknowledged_and_shown_when_the_bus_does_not_answer(node: Node) -> None:
    node.road.publish(*({"id": i, "seq": 1, "amount": -1} for i in ("one\u001b[31m", "two", "three")))
    node.city()
    name = node.road.name
    listed = node.suibus("receipts", name, "--district", "440106")
    assert listed.exit_code == 0
    first, second, third = (r.short_id for r in node.receipts())
    for text in (first, second, third, "amount_not_negative", "(amount: -1)"):
        assert text in listed.output
    assert "\u001b" not in listed.output
    assert node.suibus("receipts", "--district", "440106", "--acknowledge", first).output.startswith("1 receipts")
    away = node.suibus("receipts", name, "--district", "440106", "--timeout", "1", servers=NOWHERE)
    assert away.exit_code == 3
    assert "kept" in away.stderr
    assert (first in away.stdout, second in away.stdout) == (False, True)
    away = node.suibus("receipts", name, "--district", "440106", "--acknowledge", "all", servers=NOWHERE)
    assert (away.exit_code, away.output.splitlines()[0]) == (0, "2 receipts acknowledged")
    assert "no receipt is open" in node.suibus("receipts", name, "--district", "440106").output
    shown = json.loads(node.suibus("receipts", name, "--district", "440106", "--json").stdout)
    assert [(r["receipt"], r["state"]) for r in shown] == [(r.id, "acknowledged") for r in node.receipts()]
    assert shown[0]["reasons"][0]["reason_zh"]
    wrong = node.suibus("receipts", "--district", "440106", "--acknowledge", f"{name}.v1:0:999")
    assert (wrong.exit_code, "Nothing was acknowledged" in wrong.output) == (2, True)
    assert node.suibus("receipts", "--district", "440106", "--csv", "x.csv").exit_code == 2


def test_exported_csv_gives_back_exactly_the_values_of_every_type(road: Road, tmp_path: Path) -> None:
    dataset = load_contract(PATH)
    road.dataset, node = dataset, Node(road, "440111")
    road.bus.store.register(dataset)
    Kafka(road.bus.access).ensure([dataset.topic("440111")])
    coerce, encoder = RowCoercer(dataset, False).coerce, Encoder(dataset)
    rows = {name: coerce({"id": name, **PLAIN, **changes}) for name, changes in ROWS.items()}
    node.write(*({"key": b'{"id":"not its key"}', "value": encoder.value(row)} for row in rows.values()))
    node.city()
    node.fetch()
    file = tmp_path / "corrected.csv"
    assert node.suibus("receipts", dataset.name, "--district", "440111", "--csv", str(file)).exit_code == 0
    assert file.read_bytes().startswith(b"\xef\xbb\xbf_receipt,_reason,")
    again = node.suibus("receipts", dataset.name, "--district", "440111", "--csv", str(file))
    assert (again.exit_code, "exists already" in again.output) == (2, True)
    back = RowCoercer(dataset, True).coerce
    rows.pop("empty is not null")  # a CSV cell has no other way to write null
    for cells in read_csv(file):
        assert cells["_receipt"]
        assert "主键" in cells["_原因"]
        if cells["id"] in rows:
            assert back({k: v for k, v in cells.items() if k not in RECEIPT_COLUMNS}) == rows.pop(cells["id"])
    assert rows == {}


# --- corrections ----------------------------------------------------------------------------------


def refused(node: Node, tmp_path: Path, *rows: Mapping[str, Any]) -> Path:
    """Publish rows that the city refuses, and export their receipts."""
    node.road.publish(*rows)
    assert node.city() == len(rows)
    file = tmp_path / "corrected.csv"
    done = node.suibus("receipts", node.road.name, "--district", "440106", "--csv", str(file))
    assert done.exit_code == 0
    return file


def correct(node: Node, file: Path, *more: str, status: int = 0) -> Result:
    done = node.suibus("publish", node.road.name, str(file), "--district", "440106", "--corrections", *more)
    assert done.exit_code == status, done.output
    return done


def test_a_correction_takes_the_refused_records_position_and_never_overwrites_a_newer_version(
    node: Node, ordered: bool, tmp_path: Path
) -> None:
    node.road.publish({"id": "after older", "seq": 1, "amount": 5})
    publish = [
        {"id": i, "seq": 2, "amount": -7} for i in ("after older", "before newer", "before deletion", "same file")
    ]
    same_file = [{"id": "same file", "seq": 2, "amount": 99}]  # accepted in one chunk, like the rows of one file
    node.road.publish(*publish, *same_file)
    assert node.city() == 4
    file = tmp_path / "corrected.csv"
    node.suibus("receipts", node.road.name, "--district", "440106", "--csv", str(file))
    node.road.publish({"id": "before newer", "seq": 3, "amount": 99}, delete=[{"id": "before deletion", "seq": 3}])
    correct(
        node, rewrite_csv(file, lambda row: {**row, "amount": "7", "seq": "1" if "same" in row["id"] else row["seq"]})
    )
    assert node.silver() == [
        ("after older", False, 7), ("before deletion", True, None), ("before newer", False, 99), ("same file", False, 99),
    ]  # fmt: skip
    assert (len(node.receipts("answered")), node.receipts("new")) == (4, [])
    bronze = node.road.lake.bronze(node.road.dataset).read().where("_answers IS NOT NULL").collect()
    stamps = {r.id: r.timestamp_ms for r in node.receipts()}
    assert {r["_answers"] for r in bronze} == set(stamps)
    at_its_time = {int(r["_timestamp"].timestamp() * 1000) == stamps[r["_answers"]] for r in bronze}
    assert at_its_time == {not ordered}


def test_deletion_answers_a_receipt_and_a_row_never_answers_a_refused_deletion(node: Node, tmp_path: Path) -> None:
    without_sequence(node)
    file = refused(node, tmp_path, {"id": "a", "seq": 2, "amount": -7}, {"id": "b", "seq": 2, "amount": -8})
    node.road.publish({"id": "a", "seq": 3, "amount": 99})
    node.write({"key": b"not a key", "value": None})
    assert node.city() == 1
    exported = node.suibus("receipts", node.road.name, "--district", "440106", "--csv", str(tmp_path / "second.csv"))
    assert "1 refused deletions are not among them" in exported.output
    correct(node, file, "--delete")
    (deletion,) = node.receipts("new")
    wrong = tmp_path / "wrong.csv"
    wrong.write_text(f"_receipt,id,district_code,seq,amount\n{deletion.short_id},a,440106,9,1\n")
    assert "was a deletion" in correct(node, wrong, status=1).output
    assert node.silver() == [("a", False, 99), ("b", True, None)]


def test_row_that_answers_no_receipt_of_its_dataset_and_district_is_rejected(node: Node, tmp_path: Path) -> None:
    file = refused(node, tmp_path, {"id": "a", "seq": 2, "amount": -7})
    (receipt,) = node.receipts()
    name = node.road.name
    ids = [
        "", "nonsense", f"{name}.v1:0:99999", "other.v1:0:0", f"gz.up.440103.{name}.v1:0:0", receipt.short_id, receipt.id,
    ]  # fmt: skip
    (row,) = read_csv(file)
    with file.open("w", encoding="utf-8-sig", newline="") as out:
        writer = csv.DictWriter(out, list(row))
        writer.writeheader()
        writer.writerows({**row, "_receipt": i, "amount": "1"} for i in ids)
        writer.writerow({**row, "amount": "x"})  # rejected like any other row
    correct(node, file, status=1)
    bad = read_csv(file.with_name("corrected.rejects.csv"))
    assert [int(r["line"]) for r in bad] == [2, 3, 4, 5, 6, 9]
    reasons = (
        ["not a receipt's id"] * 2 + ["no such receipt"] + ["another dataset or district"] * 2 + ["not a whole number"]
    )
    assert all(reason in r["reason"] for r, reason in zip(bad, reasons, strict=True))
    assert len(node.receipts("answered")) == 1
    missing = tmp_path / "plain.csv"
    missing.write_text("id,district_code,seq,amount\na,440106,1,1\n")
    assert "missing _receipt" in correct(node, missing, status=2).output
    assert "exclude" in correct(node, file, "--snapshot", status=2).output


def test_a_text_that_the_receipt_cut_short_is_not_published_unchanged(node: Node, tmp_path: Path) -> None:
    node.road.contract(version="1.1.0", columns="      - {name: note, logicalType: string}\n")
    file = refused(node, tmp_path, {"id": "a", "seq": 2, "amount": -7, "note": "穗" * 100_000})
    rewrite_csv(file, lambda row: {**row, "amount": "7"})
    correct(node, file, status=1)
    assert "only the beginning" in read_csv(file.with_name("corrected.rejects.csv"))[0]["reason"]
    correct(node, rewrite_csv(file, lambda row: {**row, "note": "short"}))


def test_correction_refused_again_gives_a_receipt_of_its_own(node: Node, tmp_path: Path) -> None:
    file = refused(node, tmp_path, {"id": "a", "seq": 2, "amount": -7})
    correct(node, rewrite_csv(file, lambda row: {**row, "amount": "-1"}))
    assert node.city() == 1
    node.fetch()
    first, second = node.receipts()
    assert ([first], [second]) == (node.receipts("answered"), node.receipts("new"))
    assert second.record is not None
    assert second.record["amount"] == "-1"


def test_a_record_almost_as_old_as_the_topics_retention_cannot_be_corrected(node: Node, tmp_path: Path) -> None:
    """Topics keep records for a year: one with that timestamp would be deleted before it is read."""
    without_sequence(node)
    row = RowCoercer(node.road.dataset, False).coerce({"id": "a", "district_code": "440106", "seq": 1, "amount": -1})
    encoder = Encoder(node.road.dataset)
    ago = int((datetime.now(UTC).timestamp() - 362 * 86_400) * 1000)
    node.write({"key": encoder.key(row), "value": encoder.value(row), "timestamp_ms": ago})
    assert node.city() == 1
    file = tmp_path / "corrected.csv"
    node.suibus("receipts", node.road.name, "--district", "440106", "--csv", str(file))
    correct(node, rewrite_csv(file, lambda row: {**row, "amount": "7"}), status=1)
    assert "too old" in read_csv(file.with_name("corrected.rejects.csv"))[0]["reason"]


def test_the_next_snapshot_sends_a_refused_row_again_and_deletes_a_missing_one(node: Node, tmp_path: Path) -> None:
    file = tmp_path / "all.csv"
    rows = {name: f"{name},440106,1,{amount}\n" for name, amount in (("a", 1), ("b", -2), ("c", -3))}

    def snapshot(*names: str) -> str:
        file.write_text("id,district_code,seq,amount\n" + "".join(rows[n] for n in names))
        done = node.suibus("publish", node.road.name, str(file), "--district", "440106", "--snapshot")
        assert done.exit_code == 0, done.output
        return done.output.splitlines()[0]

    snapshot("a", "b", "c")
    assert node.city() == 2
    assert "accepted 0, deleted 0, unchanged 3" in snapshot("a", "b", "c")  # no receipt has been fetched yet
    node.fetch()
    contract(node, "amount < 0", "amount < -9", "1.0.1")  # the city corrects its rule; the row was right
    assert "accepted 1, deleted 1, unchanged 1" in snapshot("a", "b")
    assert node.silver() == [("a", False, 1), ("b", False, -2), ("c", True, None)]
