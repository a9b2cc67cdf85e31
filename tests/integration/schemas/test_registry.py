"""Confluent framing: records with a registry's ids are published and read, with no wrong value and no lost record.

The registry here is a small HTTP server that answers the two calls as Confluent's API documents them. With the base
URL of a real, Confluent-compatible one in REAL_REGISTRY_URL the same tests run against that too (tried by hand on
Apicurio Registry 3.0.9, whose download is too large to be part of the suite).
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from fastavro import parse_schema, schemaless_reader, schemaless_writer
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from infra.bus.bus import Bus
from infra.commands.publish import publish_rows
from infra.kafka.broker import Broker
from infra.operate.listings import quarantined_records
from infra.settings import Settings
from schemas.errors import InputError, UnavailableError
from schemas.wire.avro import MAGIC, avro_schema
from schemas.wire.registry import Registry
from tests.integration.conftest import Road, write_csv

DISTRICT = "440106"
AWAY = "http://127.0.0.1:1"
TYPE = "application/vnd.schemaregistry.v1+json"


class FakeRegistry:
    """``GET /schemas/ids/{id}`` and ``POST /subjects/{subject}/versions``, with the API's own error codes."""

    def __init__(self) -> None:
        self.schemas: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        self.answer: tuple[int, bytes] | None = None  # given instead of the API's
        self.moved_to = ""  # another base URL, to which every call is redirected

    def get(self, path: str) -> tuple[int, Any]:
        number = path.removeprefix("/schemas/ids/")
        if not number.isdigit():
            return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}
        if 1 <= int(number) <= len(self.schemas):
            return 200, {"schema": self.schemas[int(number) - 1]}
        return 404, {"error_code": 40403, "message": "Schema not found"}

    def post(self, path: str, body: dict[str, str]) -> tuple[int, Any]:
        if not (path.startswith("/subjects/") and path.endswith("/versions")):
            return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}
        if body["schema"] not in self.schemas:
            self.schemas.append(body["schema"])
        return 200, {"id": self.schemas.index(body["schema"]) + 1}

    @contextmanager
    def serve(self) -> Iterator[str]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def reply(self, status: int, value: Any) -> None:
                fake.headers.append(dict(self.headers))
                status, body = fake.answer or (status, json.dumps(value).encode())
                self.send_response(302 if fake.moved_to else status)
                if fake.moved_to:
                    self.send_header("Location", fake.moved_to + self.path)
                self.send_header("Content-Type", TYPE)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                self.reply(*fake.get(self.path))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.reply(*fake.post(self.path, body))

            def log_message(self, format: str, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


@pytest.fixture
def fake() -> FakeRegistry:
    return FakeRegistry()


@pytest.fixture(params=["documented", "real"])
def registry(request: pytest.FixtureRequest, fake: FakeRegistry) -> Iterator[str]:
    """The base URL of a registry that answers."""
    if request.param == "real":
        if "REAL_REGISTRY_URL" not in os.environ:
            pytest.skip("REAL_REGISTRY_URL names no real registry")
        yield os.environ["REAL_REGISTRY_URL"]
        return
    with fake.serve() as url:
        yield url


class Node:
    """A district's command and the city's pass, each with the given registry."""

    def __init__(self, broker: Broker, name: str, folder: Path) -> None:
        self.broker, self.name, self.folder = broker, name, folder
        self.road = Road(self.bus(None), name)
        columns = (
            '{name: price, logicalType: number, physicalType: "decimal(9,2)"}',
            "{name: seen, logicalType: timestamp}",
        )
        self.dataset = self.road.contract(columns="".join(f"      - {column}\n" for column in columns))
        self.topic = self.dataset.topic(DISTRICT)
        (folder / "contracts").mkdir()
        (folder / "contracts" / "t.yaml").write_text(self.dataset.text, "utf-8")

    def bus(self, registry: str | None) -> Bus:
        home, contracts = self.folder / "home", str(self.folder / "contracts")
        return Bus(
            Settings(
                home=home, bootstrap_servers=self.broker.access.servers, contracts=contracts, registry_url=registry
            )
        )

    def publish(self, registry: str | None, *ids: str) -> int:
        rows = [{"id": i, "district_code": DISTRICT, "seq": 1, "amount": 5, "price": "12.34", "seen": ""} for i in ids]
        path = write_csv(self.folder / f"{ids[0]}.csv", rows)
        bus = self.bus(registry)
        return publish_rows(bus, self.name, DISTRICT, file=path, timeout=30)

    def write(self, key: str, frame: bytes, schema: Mapping[str, Any], **row: Any) -> None:
        """Write one record as another producer does."""
        value = BytesIO()
        whole = {"id": key, "district_code": DISTRICT, "seq": 1, "amount": 5} | row
        schemaless_writer(value, parse_schema(json.loads(json.dumps(schema))), whole)
        producer = KafkaProducer(bootstrap_servers=self.broker.access.servers)
        producer.send(self.topic, frame + value.getvalue(), json.dumps({"id": key}, separators=(",", ":")).encode())
        producer.flush()
        producer.close()

    def values(self) -> list[bytes]:
        """Every value on the topic, in order."""
        consumer = KafkaConsumer(bootstrap_servers=self.broker.access.servers, isolation_level="read_committed")
        place = TopicPartition(self.topic, 0)
        consumer.assign([place])
        consumer.seek_to_beginning(place)
        end, found = consumer.end_offsets([place])[place], []
        while consumer.position(place) < end:
            found += [record.value for records in consumer.poll(500).values() for record in records]
        consumer.close()
        return found

    def silver(self) -> dict[str, tuple[Any, ...]]:
        frame = self.road.lake.silver(self.dataset).read().orderBy("id")
        return {r[0]: tuple(r)[1:] for r in frame.selectExpr("id", "string(price)", "unix_micros(seen)").collect()}


@pytest.fixture
def node(broker: Broker, spark: Any, names: Callable[[], str], tmp_path: Path) -> Node:
    return Node(broker, names(), tmp_path)


def frame(number: int) -> bytes:
    return b"\0" + number.to_bytes(4, "big")


def variant(schema: Mapping[str, Any], **types: Any) -> dict[str, Any]:
    """The schema as another producer may write it, with other types for some fields, or more fields."""
    fields = {f["name"]: f["type"] for f in schema["fields"]} | types
    listed = [{"name": name, "type": kind} for name, kind in fields.items()]
    return {"type": "record", "name": "Other", "namespace": "org.other", "doc": "theirs", "fields": listed}


def test_both_framings_are_read_and_records_whose_schema_the_registry_does_not_confirm_are_quarantined(
    node: Node, registry: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own = avro_schema(node.dataset)
    assert node.publish(registry, "framed") == 0
    assert node.publish(None, "single") == 0
    framed, single = node.values()
    number = Registry(registry).register(f"{node.topic}-value", own)
    assert framed[:5] == frame(number)
    assert schemaless_reader(BytesIO(framed[5:]), parse_schema(own))["id"] == "framed"  # type: ignore[index,call-overload]
    assert single[:2] == MAGIC

    fine = {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 4}
    millis = {"type": "long", "logicalType": "timestamp-millis"}
    schemas = {
        "renamed": variant(own, seq="int"),
        "fine": variant(own, price=fine),
        "millis": variant(own, seen=millis),
        "more": variant(own, extra="string"),
    }
    for key, schema in schemas.items():
        number = Registry(registry).register(f"{node.topic}-{key}", schema)
        price = Decimal("1.2345") if key == "fine" else None
        seen = datetime(2026, 3, 1, tzinfo=UTC) if key == "millis" else None
        node.write(key, frame(number), schema, price=price, seen=seen, extra="x")
    for key, unknown in (("unknown", 999_999), ("huge", 2**32 - 1)):
        node.write(key, frame(unknown), own, price=None, seen=None)
    assert len(node.values()) == 8

    info = node.bus(registry).sync()
    assert not info.failures
    assert info.ingested[f"{node.name}.v1"] == 8
    assert node.silver() == {"framed": ("12.34", None), "single": ("12.34", None), "renamed": (None, None)}
    bad = {json.loads(r["key"])["id"]: r["reasons"] for r in quarantined_records(node.bus(registry), node.name)}
    assert sorted(bad) == ["fine", "huge", "millis", "more", "unknown"]
    assert all([r["rule"] for r in reasons] == ["schema"] for reasons in bad.values())
    texts = {key: reasons[0]["reason"] for key, reasons in bad.items()}
    assert "price is bytes decimal(9,4), expected bytes decimal(9,2)" in texts["fine"]
    assert "seen is long timestamp-millis" in texts["millis"]
    assert "field extra is not in the contract" in texts["more"]
    assert texts["unknown"] == texts["huge"] == "The schema registry has no schema with this id."


def test_publish_and_ingest_stop_and_lose_nothing_when_the_registry_does_not_answer(
    node: Node, fake: FakeRegistry
) -> None:
    with pytest.raises(UnavailableError, match=r"schema registry at http.* did not answer") as away:
        node.publish(AWAY, "a", "b")
    assert away.value.exit_status == 3
    with fake.serve() as url:
        assert node.publish(url, "a", "b") == 0
        assert len(node.values()) == 2
        dataset = f"{node.name}.v1"
        assert "did not answer" in node.bus(AWAY).sync().failures[dataset]
        fake.answer = 500, b"<html>"
        assert "500 <html>" in node.bus(url).sync().failures[dataset]
        fake.answer = None
        assert node.bus(url).sync().ingested[dataset] == 2
    assert list(node.silver()) == ["a", "b"]
    assert not node.bus(AWAY).sync().failures  # no record needs the registry


def test_without_a_registry_at_the_city_its_frames_are_quarantined_with_the_remedy(
    node: Node, fake: FakeRegistry
) -> None:
    with fake.serve() as url:
        node.publish(url, "a")
    node.bus(None).sync()
    (record,) = quarantined_records(node.bus(None), node.name)
    (reason,) = record["reasons"]
    assert (reason["rule"], reason["found"]) == ("schema", "registry:1")
    assert "set SUIBUS_REGISTRY_URL" in reason["reason"]


def test_an_unknown_id_is_distinguished_from_a_wrong_url(registry: str) -> None:
    assert Registry(registry).schema(999_999) is None
    with pytest.raises(UnavailableError, match="404"):
        Registry(f"{registry}/nowhere").schema(1)
    with pytest.raises(UnavailableError, match="unset SUIBUS_REGISTRY_URL"):
        Registry(f"{registry}/nowhere").register("t-value", {"type": "string"})


def test_a_schema_registered_twice_has_one_id(registry: str) -> None:
    client = Registry(registry)
    number = client.register("kept-value", {"type": "int"})
    assert client.register("kept-value", {"type": "int"}) == number
    assert json.loads(client.schema(number) or "") == {"type": "int"}


def test_a_refused_schema_does_not_count_as_a_registry_that_does_not_answer(fake: FakeRegistry) -> None:
    fake.answer = 409, b'{"error_code": 409, "message": "Schema being registered is incompatible"}'
    with fake.serve() as url, pytest.raises(InputError, match=r"refused the schema of t-value: Schema being reg"):
        Registry(url).register("t-value", {"type": "string"})


@pytest.mark.parametrize("body", [b"{}", b"[]", b"7", b"<html>", b"", b'{"id": "x"}'])
def test_an_answer_that_is_no_registrys_counts_as_a_registry_that_does_not_answer(
    fake: FakeRegistry, body: bytes
) -> None:
    fake.answer = 200, body
    with fake.serve() as url:
        with pytest.raises(UnavailableError):
            Registry(url).schema(1)
        with pytest.raises(UnavailableError):
            Registry(url).register("t-value", {"type": "string"})


def test_a_login_in_the_url_is_sent_and_never_shown(fake: FakeRegistry) -> None:
    with fake.serve() as url:
        client = Registry(url.replace("http://", "http://u%40x:ge%3Aheim@"))
        assert client.register("t-value", {"type": "string"}) == 1
        fake.answer = 401, b'{"error_code": 40101, "message": "Unauthorized"}'
        with pytest.raises(UnavailableError, match="401 Unauthorized") as refused:
            client.schema(7)
    assert [h["Authorization"] for h in fake.headers] == ["Basic dUB4OmdlOmhlaW0="] * 2
    assert "heim" not in str(refused.value)


def test_a_login_is_not_sent_to_the_address_that_a_registry_redirects_to(fake: FakeRegistry) -> None:
    other = FakeRegistry()
    with fake.serve() as url, other.serve() as elsewhere:
        Registry(elsewhere).register("t-value", {"type": "string"})
        fake.moved_to = elsewhere
        assert Registry(url.replace("http://", "http://user:geheim@")).schema(1) == '{"type": "string"}'
    assert "Authorization" in fake.headers[0]
    assert [h for h in other.headers if "Authorization" in h] == []
