"""Who may do what on a secure bus: tried on a real broker, also by clients that may not."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ConfigResource,
    NewPartitions,
    ResourcePattern,
    ResourceType,
    UserScramCredentialDeletion,
    UserScramCredentialUpsertion,
)
from kafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    InvalidReceiveError,
    KafkaConnectionError,
    KafkaError,
    NoError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailedError,
    for_code,
)
from kafka.net.compat import KafkaNetClient
from kafka.protocol.admin import CreateAclsRequest
from kafka.protocol.consumer import FetchRequest
from kafka.structs import OffsetAndMetadata
from pydantic import SecretStr

from infra.bus.bus import Bus
from infra.cli import main
from infra.kafka.acls import every_right, rights_of
from infra.kafka.broker import Broker
from infra.kafka.certificates import Authority
from infra.kafka.passwords import users_with_password
from infra.kafka.quotas import lift_limit, limits
from infra.kafka.topics import Kafka
from infra.node_file import node_text, read_node_file
from infra.operate.nodes import Node, Nodes
from infra.settings import Settings
from producers.encoded_row import EncodedRow
from producers.outbox import CHUNK, Outbox
from producers.publish.publisher import Publisher
from producers.send.kafka_internals import ask
from producers.send.sender import flush
from producers.send.transport import TransportName
from schemas.dataset import Dataset, Field, receipts_topic
from schemas.errors import InputError, StateError, UnavailableError
from schemas.ports.files import write_whole
from schemas.ports.kafka_access import KafkaAccess
from schemas.ports.lease import Lease
from tests.integration.conftest import Road

ROOT = Path(__file__).parents[3]
OWN, OTHER, THIRD = "440106", "440103", "440104"
TRANSPORTS: tuple[TransportName, ...] = ("kafka-python", "librdkafka")

DATASET = Dataset(
    "secured", "1.0.0", (Field("code", "string", True), Field("at", "long", True)),
    ("code",), "at", None, "none", None, (), "", "", "t.yaml", "",
)  # fmt: skip
NO_ID = uuid.UUID(int=0)
FOREIGN = [
    DATASET.topic(OTHER),
    "gz.up.44010.secured.v1",  # a prefix of our code
    "gz.up.4401060.secured.v1",  # our code is a prefix of it
    receipts_topic(OTHER),
    receipts_topic(OWN),  # may be read, not written
]


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    """A bus that held a record before it was made secure."""
    bus = Bus(Settings(home=tmp_path_factory.mktemp("安全, 总线"), spark_master="local[2]"))
    bus.broker.start()
    bus.kafka.ensure([DATASET.topic(OWN), *FOREIGN, *DATASET.topics])
    with closing(KafkaProducer(bootstrap_servers=bus.access.servers)) as producer:
        producer.send(DATASET.topic(THIRD), b"before").get(10)
    bus.broker.start(secure=True)
    yield bus
    bus.broker.stop()


@pytest.fixture(scope="module")
def nodes(city: Bus) -> Nodes:
    return Nodes(city)


@pytest.fixture(scope="module")
def files(city: Bus, nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The node files of two districts, one with a password and one with a certificate."""
    folder = tmp_path_factory.mktemp("carried")
    paths = {OWN: folder / "own.toml", OTHER: folder / "other.toml"}
    nodes.add(OWN, paths[OWN])
    nodes.add(OTHER, paths[OTHER], mutual_tls=True)
    return paths


@pytest.fixture(scope="module")
def own(files: dict[str, Path]) -> dict[str, Any]:
    """kafka-python's settings of node 440106."""
    return client_of(files[OWN])


def client_of(path: Path) -> dict[str, Any]:
    """kafka-python's settings of the node whose file this is."""
    return {**read_node_file(path).access.kafka_python(), "bootstrap_timeout_ms": 10_000}


def client_of_city(city: Bus) -> dict[str, Any]:
    return city.kafka.access.kafka_python()


def send(outbox: Path, access: KafkaAccess, timeout: float = 60.0, transport: TransportName = "kafka-python") -> int:
    """Send what an outbox holds; returns the number of records sent."""
    return flush(outbox, access, timeout, transport=transport).sent


def admin(client: dict[str, Any]) -> closing[KafkaAdminClient]:
    return closing(KafkaAdminClient(**client))


def ends(city: Bus, topic: str) -> int:
    return sum(end for _, end in city.kafka.states([topic])[topic].partitions.values())


def read(client: dict[str, Any], topic: str) -> list[bytes]:
    """What a client reads of the only partition of a topic."""
    place = TopicPartition(topic, 0)
    with closing(KafkaConsumer(**client, auto_offset_reset="earliest", isolation_level="read_committed")) as consumer:
        consumer.assign([place])
        end = consumer.end_offsets([place])[place]
        found: list[bytes] = []
        while consumer.position(place) < end:
            for records in consumer.poll(timeout_ms=500).values():
                found += [record.value for record in records]
        return found


def publish(path: Path, district: str, outbox: Path, *codes: str) -> None:
    access = read_node_file(path).access
    with Publisher(DATASET, district, outbox, access, timeout=15) as publisher:
        for code in codes:
            publisher.publish({"code": code, "at": 1})


# ── what a node may do ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("district", [OWN, OTHER])
def test_node_publishes_its_own_rows_and_reads_its_own_receipts(
    city: Bus, files: dict[str, Path], tmp_path: Path, district: str
) -> None:
    before = len(read(client_of_city(city), DATASET.topic(district)))
    publish(files[district], district, tmp_path / "o", "a", "b")
    assert len(read(client_of_city(city), DATASET.topic(district))) == before + 2
    with closing(KafkaProducer(**client_of_city(city))) as producer:
        producer.send(receipts_topic(district), b"receipt").get(10)
    assert read(client_of(files[district]), receipts_topic(district))[-1] == b"receipt"


@pytest.mark.parametrize("district", [OWN, OTHER])
def test_the_background_sender_has_the_credentials_and_shows_them_in_no_argument_or_environment(
    city: Bus, files: dict[str, Path], tmp_path: Path, district: str
) -> None:
    access = read_node_file(files[district]).access
    with Publisher(DATASET, district, tmp_path / "o", access, timeout=30) as publisher:
        for n in range(CHUNK):
            publisher.publish({"code": f"{n}", "at": 1})
        lease, until = Lease(tmp_path / "o.lock"), time.monotonic() + 60
        while (sender := lease.holder()) is None:
            assert time.monotonic() < until
            time.sleep(0.02)
        shown = [Path(f"/proc/{sender.pid}/{name}").read_bytes() for name in ("cmdline", "environ")]
        assert publisher.send().sent == CHUNK
    assert not [secret for secret in hidden(city, files) if any(secret in text for text in shown)]


def test_a_bus_keeps_its_records_when_it_is_made_secure(city: Bus) -> None:
    assert read(client_of_city(city), DATASET.topic(THIRD)) == [b"before"]


def test_a_node_is_limited_to_its_rate(nodes: Nodes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nodes.add("440111", tmp_path / "n", rate=1)
    caplog.set_level("WARNING", logger="kafka")  # a command of another test has silenced it
    with closing(KafkaProducer(**client_of(tmp_path / "n"), linger_ms=0)) as producer:
        for _ in range(24):  # 12 MiB at once
            producer.send(DATASET.topic("440111"), os.urandom(1 << 19))
        producer.flush(60)
    assert "ProduceResponse throttled by broker" in caplog.text
    assert {n.bytes_per_second for n in nodes.all() if n.district == "440111"} == {1 << 20}
    nodes.remove("440111")


# ── what a node may not do ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("topic", FOREIGN)
def test_node_cannot_write_a_topic_that_is_not_its_own(city: Bus, own: dict[str, Any], topic: str) -> None:
    before = ends(city, topic)
    for more in ({"enable_idempotence": False}, {}, {"transactional_id": f"suibus.{OWN}.forged"}):
        with closing(KafkaProducer(**own, **more, max_block_ms=5000)) as producer:
            if "transactional_id" in more:
                producer.init_transactions()
                producer.begin_transaction()
            with pytest.raises(TopicAuthorizationFailedError):
                producer.send(topic, b"forged").get(10)
    assert ends(city, topic) == before


@pytest.mark.parametrize("topic", FOREIGN[:4])
def test_node_cannot_read_another_topic(city: Bus, own: dict[str, Any], topic: str) -> None:
    """Neither by name nor, as newer clients ask, by its id."""
    mine = DATASET.topic(OWN)
    ids = {name: uuid.UUID(state.id) for name, state in city.kafka.states([topic, mine]).items()}
    with admin(own) as node:
        for asked, expected in ((topic, TopicAuthorizationFailedError), (mine, NoError)):
            for request in (fetch(12, topic=asked), fetch(13, topic_id=ids[asked])):
                (answer,) = ask(node, request).responses[0].partitions
                assert for_code(answer.error_code) is expected
                assert asked == mine or not answer.records


def fetch(version: int, topic: str = "", topic_id: uuid.UUID = NO_ID) -> FetchRequest:
    """The request for the records of a topic, as a consumer sends it."""
    part = FetchRequest.FetchTopic.FetchPartition(
        partition=0, fetch_offset=0, partition_max_bytes=1 << 20, current_leader_epoch=-1, log_start_offset=-1
    )
    named = FetchRequest.FetchTopic(topic=topic, topic_id=topic_id, partitions=[part])
    return FetchRequest(
        version=version, replica_id=-1, max_wait_ms=100, min_bytes=0, max_bytes=1 << 20, isolation_level=0,
        session_id=0, session_epoch=-1, topics=[named], forgotten_topics_data=[], rack_id="",
    )  # fmt: skip


def test_a_node_cannot_list_another_topic(own: dict[str, Any]) -> None:
    with admin(own) as node:
        seen = node.list_topics()
    assert DATASET.topic(OWN) in seen
    assert all(name.startswith((f"gz.up.{OWN}.", f"gz.down.{OWN}.")) for name in seen)


def test_node_cannot_delete_empty_alter_or_make_its_own_topics(city: Bus, own: dict[str, Any]) -> None:
    topic, made = DATASET.topic(OWN), f"gz.up.{OWN}.made.v1"
    before = city.kafka.states([topic])
    attempts: list[Callable[[KafkaAdminClient], Any]] = [
        lambda a: a.delete_topics([topic]),
        lambda a: a.delete_records({TopicPartition(topic, 0): -1}),
        lambda a: a.create_partitions({topic: NewPartitions(3)}),
        lambda a: a.create_topics({made: {"num_partitions": 1, "replication_factor": 1}}),
    ]
    with admin(own) as node:
        for attempt in attempts:
            with pytest.raises(KafkaError, match=r"(?i)authoriz"):
                attempt(node)
        shorter = ConfigResource("TOPIC", topic, {"retention.ms": "1"})
        assert "Authorization" in str(node.alter_configs([shorter], raise_on_unknown=False))
    assert city.kafka.states([topic, made]) == before
    with admin(client_of_city(city)) as look:
        found = look.describe_configs([ConfigResource("TOPIC", topic, ["retention.ms"])], config_filter="all")
    assert found["topic"][topic]["retention.ms"]["value"] != "1"


@pytest.mark.parametrize("name", [f"suibus.{OTHER}.x", "suibus.44010.x", "suibus.4401060.x", "anything"])
def test_node_cannot_use_a_transactional_id_or_group_of_another(own: dict[str, Any], name: str) -> None:
    with (
        closing(KafkaProducer(**own, transactional_id=name, max_block_ms=5000)) as producer,
        pytest.raises(TransactionalIdAuthorizationFailedError),
    ):
        producer.init_transactions()
    with admin(own) as node:
        with pytest.raises(GroupAuthorizationFailedError):
            node.list_group_offsets(name)
        with pytest.raises(GroupAuthorizationFailedError):
            node.alter_group_offsets(name, {TopicPartition(DATASET.topic(OWN), 0): OffsetAndMetadata(9, "", -1)})
        assert node.list_groups() == [g for g in node.list_groups() if g["group_id"].startswith(f"suibus.{OWN}.")]


def test_node_cannot_see_or_change_rights_passwords_or_limits(city: Bus, own: dict[str, Any]) -> None:
    with admin(own) as node:
        with pytest.raises(ClusterAuthorizationFailedError):
            node.describe_acls(every_right(None))
        user = own["sasl_plain_username"]
        assert set(node.create_acls(rights_of(OTHER, user))["failed"]) == {ClusterAuthorizationFailedError}
        assert node.delete_acls([every_right(None)])[0][2] is ClusterAuthorizationFailedError
        with pytest.raises(ClusterAuthorizationFailedError):
            node.describe_user_scram_credentials([user])
        forged = UserScramCredentialUpsertion("city", "SCRAM-SHA-512", "forged")
        assert all(node.alter_user_scram_credentials([forged]).values())
        with pytest.raises(ClusterAuthorizationFailedError):
            lift_limit(node, user)
        with pytest.raises(ClusterAuthorizationFailedError):
            limits(node)
    with admin(client_of_city(city)) as look:
        assert "city" not in users_with_password(look)
        assert not [a for a in look.describe_acls(every_right(user))[0] if OTHER in a.resource_pattern.resource_name]


def test_an_undeclared_topic_is_never_created(city: Bus, own: dict[str, Any]) -> None:
    for client, topic in ((own, f"gz.up.{OWN}.undeclared.v1"), (client_of_city(city), "gz.up.undeclared")):
        with closing(KafkaProducer(**client, max_block_ms=1500)) as producer, pytest.raises(KafkaError):
            producer.send(topic, b"x").get(10)
        assert city.kafka.states([topic]) == {}


# ── who is refused ──────────────────────────────────────────────────────────────────────────────────────


def refused(city: Bus, tmp_path: Path) -> dict[str, tuple[KafkaAccess, str]]:
    """Clients that are refused, each with a part of the message."""
    here, foreign = Authority(city.broker.security), Authority(tmp_path / "foreign")
    by_password, by_certificate = city.broker.servers(False), city.broker.servers(True)

    def node(servers: str, trusted: Authority, **secret: Any) -> KafkaAccess:
        path = tmp_path / uuid.uuid4().hex
        text = node_text(servers, f"{OWN}.00000000", trusted.certificate, OWN, **secret)
        write_whole(path, text, secret=True)
        return read_node_file(path).access

    def certificate(authority: Authority, days: int = 9) -> dict[str, Any]:
        made, key = authority.issue(f"{OWN}.00000000", days=days)
        return {"key": key, "certificate": made}

    with closing(KafkaAdminClient(**client_of_city(city))) as a:
        a.alter_user_scram_credentials([UserScramCredentialUpsertion(f"{OWN}.00000000", "SCRAM-SHA-512", "right")])
    return {
        "wrong password": (node(by_password, here, password=SecretStr("wrong")), "refuses the password"),
        "expired certificate": (node(by_certificate, here, **certificate(here, -1)), "certificate has expired"),
        "foreign certificate": (
            node(by_certificate, here, **certificate(foreign)),
            "refuses this node's certificate: unable to get local issuer",
        ),
        "no certificate": (node(by_certificate, here, password=SecretStr("right")), "certificate: there is none"),
        "untrusted broker": (node(by_password, foreign, password=SecretStr("right")), "does not trust it: self-signed"),
        "plain text": (KafkaAccess(by_password), "lets nobody in without credentials"),
        "plain text at the city's door": (KafkaAccess(city.access.servers), "nobody in without credentials"),
    }


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_node_sends_to_its_own_topics_only_with_either_transport(
    city: Bus, files: dict[str, Path], tmp_path: Path, transport: TransportName
) -> None:
    """With a password and with a certificate."""
    for district, foreign in ((OWN, OTHER), (OTHER, OWN)):
        access, path = read_node_file(files[district]).access, tmp_path / f"{district}.sqlite"
        before = ends(city, DATASET.topic(district))
        with Outbox(path) as outbox:
            outbox.accept(DATASET.topic(district), [EncodedRow(b"k", b"v")])
        assert send(path, access, transport=transport) == 1
        assert ends(city, DATASET.topic(district)) != before
        with Outbox(path) as outbox:
            outbox.accept(DATASET.topic(foreign), [EncodedRow(b"k", b"v")])
        with pytest.raises(UnavailableError, match="does not let this node write"):
            send(path, access, transport=transport)


def test_wrong_or_absent_credentials_are_refused_with_the_cause_and_its_remedy(
    city: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producers.send.access_refused.WAIT_MS", 30_000)
    for name, (access, message) in refused(city, tmp_path).items():
        with Outbox(tmp_path / f"{name}.sqlite") as outbox:
            outbox.accept(DATASET.topic(OWN), [EncodedRow(b"k", b"forged")])
        before = ends(city, DATASET.topic(OWN))
        for transport in TRANSPORTS:
            with pytest.raises(UnavailableError, match=re.escape(message)) as caught:
                send(tmp_path / f"{name}.sqlite", access, 0.5, transport)
            assert "1 rows wait" in caught.value.en, name
            assert re.search("SUIBUS_NODE|suibus node rotate|servers", caught.value.zh), name
        assert ends(city, DATASET.topic(OWN)) == before


def asked_of_controller(city: Bus, client: dict[str, Any]) -> Any:
    """The controller's answer to a client that speaks its protocol."""
    port = json.loads((city.home / "run" / "broker.json").read_text("utf-8"))["controller_port"]
    net = KafkaNetClient(**{**client, "bootstrap_servers": [f"127.0.0.1:{port}"]})
    right = rights_of(OWN, "x")[0]
    creation = CreateAclsRequest.AclCreation(
        resource_type=right.resource_pattern.resource_type, resource_name=right.resource_pattern.resource_name,
        resource_pattern_type=right.resource_pattern.pattern_type, principal=right.principal, host=right.host,
        operation=right.operation, permission_type=right.permission_type,
    )  # fmt: skip
    request = CreateAclsRequest(creations=[creation])

    async def send_to_controller() -> Any:
        connection = await net._manager.get_connection("bootstrap-0", timeout_ms=5000, pop_on_close=False)
        return await connection.send_request(request)

    try:
        return net._manager.run(send_to_controller)
    finally:
        net.close()


def test_the_controller_refuses_clients_without_the_citys_certificate(city: Bus, files: dict[str, Path]) -> None:
    trust = {"security_protocol": "SSL", "ssl_cafile": str(city.broker.access.authority)}
    # A client without TLS may read the controller's TLS alert as a frame that is too long, before the connection ends.
    for client in ({}, trust):
        with pytest.raises((KafkaConnectionError, InvalidReceiveError)):
            asked_of_controller(city, client)
    node = asked_of_controller(city, client_of(files[OTHER]))
    assert for_code(node.results[0].error_code) is ClusterAuthorizationFailedError
    assert asked_of_controller(city, client_of_city(city)).results[0].error_code == 0
    with admin(client_of_city(city)) as look:
        look.delete_acls([every_right("x")])


def test_a_nodes_certificate_is_not_accepted_as_the_brokers(city: Bus, files: dict[str, Path]) -> None:
    """The authority that other nodes trust has signed it, but for use by a client only."""
    import ssl
    import threading

    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files[OTHER])
    client = ssl.create_default_context(cafile=str(files[OWN]))
    client.check_hostname = False
    with socket.create_server(("127.0.0.1", 0)) as door:

        def serve() -> None:
            peer, _ = door.accept()
            with peer, pytest.raises(ssl.SSLError):
                server.wrap_socket(peer, server_side=True).close()

        thread = threading.Thread(target=serve)
        thread.start()
        with socket.create_connection(door.getsockname()) as line, pytest.raises(ssl.SSLError, match="purpose"):
            client.wrap_socket(line)
        thread.join(10)


# ── add, rotate, remove ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mutual_tls", [False, True])
def test_rotate_and_remove_revoke_the_old_file_at_once_also_on_an_open_connection(
    city: Bus, nodes: Nodes, tmp_path: Path, mutual_tls: bool
) -> None:
    topic = DATASET.topic(THIRD)
    first, second = tmp_path / "1.toml", tmp_path / "2.toml"
    nodes.add(THIRD, first, mutual_tls=mutual_tls, rate=7)
    with closing(KafkaProducer(**client_of(first))) as old:
        old.send(topic, b"a").get(10)
        made = nodes.rotate(THIRD, second)
        before = ends(city, topic)
        with pytest.raises(TopicAuthorizationFailedError):
            old.send(topic, b"b").get(10)
    assert (made.mutual_tls, made.bytes_per_second) == (mutual_tls, 7 << 20)
    with Outbox(tmp_path / "o") as outbox:
        outbox.accept(topic, [EncodedRow(b"k", b"c")])
    with pytest.raises(UnavailableError, match="does not let this node" if mutual_tls else "refuses the password"):
        send(tmp_path / "o", read_node_file(first).access, 15.0)
    assert ends(city, topic) == before
    assert send(tmp_path / "o", read_node_file(second).access) == 1
    with closing(KafkaProducer(**client_of(second))) as old:
        old.send(topic, b"d").get(10)
        assert [n.user for n in nodes.remove(THIRD)] == [read_node_file(second).user]
        before = ends(city, topic)
        with pytest.raises(TopicAuthorizationFailedError):
            old.send(topic, b"e").get(10)
    assert ends(city, topic) == before > 0  # the topic and its records stay
    assert not [n for n in nodes.all() if n.district == THIRD]
    with pytest.raises(InputError, match=f"suibus node add {THIRD}"):
        nodes.remove(THIRD)


class KilledError(BaseException):
    """The process ends here."""


@contextmanager
def killed_at(step: str) -> Iterator[None]:
    """The block ends with KilledError right before a step."""

    def die(*_: Any) -> None:
        raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, die)
        yield


ADDING = [
    "infra.kafka.passwords.set_password",
    "infra.kafka.quotas.limit",
    "infra.kafka.acls.grant",
    "infra.kafka.acls.wait_until_applied",
    "infra.operate.nodes.hand_out",
]
ENDING = ["infra.kafka.acls.revoke", "infra.kafka.passwords.drop_password", "infra.kafka.quotas.lift_limit"]


@pytest.mark.parametrize(
    ("command", "step"), [*(("add", step) for step in ADDING), *(("rotate", step) for step in (*ADDING[1::2], *ENDING))]
)
def test_a_command_killed_at_any_step_and_repeated_leaves_one_set_of_credentials_in_force(
    city: Bus, nodes: Nodes, tmp_path: Path, command: str, step: str
) -> None:
    district, path = "440112", tmp_path / "node.toml"
    if command == "rotate":
        nodes.add(district, tmp_path / "first.toml")
    repeat = getattr(nodes, command)
    with killed_at(step), pytest.raises(KilledError):
        repeat(district, path)
    assert not path.exists()
    made: Node = repeat(district, path)
    listed = [n for n in nodes.all() if n.district == district]
    assert listed == [made]
    assert made.in_force
    assert read_node_file(path).user == made.user
    with closing(KafkaProducer(**client_of(path))) as producer:
        producer.send(DATASET.topic(district), b"let in").get(10)
    assert not list(tmp_path.glob("*.part"))
    nodes.remove(district)


@pytest.mark.parametrize("step", ENDING[1:])
def test_remove_killed_halfway_is_finished_when_repeated(nodes: Nodes, tmp_path: Path, step: str) -> None:
    nodes.add("440113", tmp_path / "n")
    with killed_at(step), pytest.raises(KilledError):
        nodes.remove("440113")
    assert [n.in_force for n in nodes.all() if n.district == "440113"] == [False]
    nodes.remove("440113")
    assert not [n for n in nodes.all() if n.district == "440113"]


def test_second_set_of_credentials_and_an_existing_file_are_refused(
    nodes: Nodes, files: dict[str, Path], tmp_path: Path
) -> None:
    text = files[OWN].read_text("utf-8")
    assert nodes.add(OWN, files[OWN]).user == read_node_file(files[OWN]).user  # made before: nothing changes
    with pytest.raises(InputError, match=f"suibus node rotate {OWN}"):
        nodes.add(OWN, tmp_path / "second.toml")
    with pytest.raises(InputError, match="is not overwritten"):
        nodes.rotate(OWN, files[OWN])
    with pytest.raises(InputError, match="is not known"):
        nodes.add("44010", tmp_path / "second.toml")
    assert files[OWN].read_text("utf-8") == text
    assert not list(tmp_path.iterdir())


def test_a_bus_without_security_makes_no_credentials(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="suibus up --secure"):
        Nodes(Bus(Settings(home=tmp_path)))


KEPT = "kept-by-the-administrator"


@contextmanager
def keeper(city: Bus, path: Path) -> Iterator[None]:
    """Writes the node file of an administrator of an outside Kafka, who has a password and the rights to manage nodes."""
    trusted = Authority(city.broker.security).certificate
    text = node_text(city.broker.servers(False), "keeper", trusted, password=SecretStr(KEPT))
    write_whole(path, text, secret=True)
    literal, prefixed = ACLResourcePatternType.LITERAL, ACLResourcePatternType.PREFIXED
    over = [
        ResourcePattern(ResourceType.CLUSTER, "kafka-cluster", literal),
        ResourcePattern(ResourceType.TOPIC, "gz.up.", prefixed),
        ResourcePattern(ResourceType.TOPIC, "gz.down.", prefixed),
        ResourcePattern(ResourceType.GROUP, "spark-kafka-", prefixed),
    ]
    with admin(client_of_city(city)) as a:
        a.alter_user_scram_credentials([UserScramCredentialUpsertion("keeper", "SCRAM-SHA-512", KEPT)])
        a.create_acls([ACL("User:keeper", "*", ACLOperation.ALL, ACLPermissionType.ALLOW, what) for what in over])
        yield
        a.delete_acls([every_right("keeper")])
        a.alter_user_scram_credentials([UserScramCredentialDeletion("keeper", "SCRAM-SHA-512")])


def test_a_secure_bus_that_lost_its_authority_does_not_start_without_security(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "broker.json").write_text('{"port": 1, "controller_port": 2, "secure": true}', "utf-8")
    with pytest.raises(StateError, match="from a backup"):
        Broker(Settings(home=tmp_path)).start()
    assert not (tmp_path / "kafka").exists()


def test_administrator_of_an_outside_kafka_manages_nodes_by_a_node_file(city: Bus, tmp_path: Path) -> None:
    """An administrator with the rights in an outside Kafka needs neither our state folder nor our authority's key."""
    path, node = tmp_path / "admin.toml", tmp_path / "node.toml"
    with keeper(city, path):
        outside = Nodes(Bus(Settings(home=tmp_path / "elsewhere", node=path)))
        made = outside.add("440115", node)
        publish(node, "440115", tmp_path / "o", "a")
        assert made in outside.all()
        with pytest.raises(InputError, match="its own authority"):
            outside.add("440117", tmp_path / "certificate.toml", mutual_tls=True)
        outside.remove("440115")
    with pytest.raises(InputError, match="SUIBUS_NODE"):
        Nodes(Bus(Settings(home=tmp_path, bootstrap_servers="127.0.0.1:1")))


def test_a_node_may_not_manage_nodes(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not let this user do that"):
        Nodes(Bus(Settings(home=tmp_path, node=files[OWN]))).all()


# ── secrets ──────────────────────────────────────────────────────────────────────────────────────────────────


def hidden(city: Bus, files: dict[str, Path]) -> list[bytes]:
    """Every secret of the bus, as a text would contain it."""
    keys = [*city.broker.security.glob("*.*"), *files.values()]
    found = re.findall(rb"BEGIN PRIVATE KEY-----\n(.+)\n", b"".join(k.read_bytes() for k in keys))
    assert len(found) == 4  # the authority's, the broker's, the city's, one node's
    return [*found, password_in(files[OWN]).encode()]


def password_in(path: Path) -> str:
    password = read_node_file(path).access.password
    assert password is not None
    return password.get_secret_value()


def test_files_with_secrets_can_be_read_by_their_owner_only(city: Bus, files: dict[str, Path], tmp_path: Path) -> None:
    secret = {"authority.pem", "broker.pem", "city.toml"}
    assert city.broker.security.stat().st_mode & 0o777 == 0o700
    for path in [*(city.broker.security / name for name in secret), *files.values()]:
        assert path.stat().st_mode & 0o777 == 0o600, path
    others = [p for p in city.broker.security.rglob("*") if p.is_file() and p.name not in secret]
    assert not [p for p in others if b"PRIVATE" in p.read_bytes()]
    copy = tmp_path / "copy.toml"
    copy.write_bytes(files[OWN].read_bytes())
    copy.chmod(0o640)
    with pytest.raises(InputError, match="chmod 600") as caught:
        read_node_file(copy)
    assert hidden(city, files)[-1].decode() not in str(caught.value)


def test_secrets_are_in_no_log_argument_environment_or_repr(
    city: Bus, files: dict[str, Path], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level("DEBUG", "kafka")
    publish(files[OWN], OWN, tmp_path / "o", "a")
    node = read_node_file(files[OWN])
    with admin(client_of(files[OWN])) as a:
        a.list_topics()
    told = [repr(node), repr(Kafka(node.access).access), str(node.access.kafka_python()), caplog.text]
    assert "sasl_plain_password" in caplog.text  # kafka-python does log its settings
    pid = json.loads((city.home / "run" / "broker.json").read_text("utf-8"))["pid"]
    told += [Path(f"/proc/{pid}/{name}").read_text("utf-8", "replace") for name in ("cmdline", "environ")]
    # Kafka renames its .tmp files meanwhile.
    files_there = (p for p in city.home.rglob("*") if p.is_file() and p.suffix != ".tmp")
    logs = [p for p in files_there if city.broker.security not in p.parents]
    assert city.broker.folder / "broker.log" in logs
    for secret in hidden(city, files):
        assert not [text for text in told if secret.decode() in text]
        assert not [path for path in logs if secret in path.read_bytes()]


# ── all of it ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("door", ["certificate", "password"])
def test_sync_ingests_on_a_secure_bus_and_spark_logs_no_secret(
    city: Bus,
    files: dict[str, Path],
    settings: Settings,
    spark: Any,
    tmp_path: Path,
    names: Callable[[], str],
    door: str,
) -> None:
    secrets = hidden(city, files)
    with keeper(city, tmp_path / "admin.toml"):
        bus = city if door == "certificate" else Bus(Settings(home=tmp_path / "h", node=tmp_path / "admin.toml"))
        road = Road(bus, names())
        node = read_node_file(files[OWN]).access
        with Publisher(road.dataset, OWN, tmp_path / "o", node) as publisher:
            publisher.publish({"id": "1", "district_code": OWN, "seq": 1, "amount": 5})
        assert not bus.sync().failures
        assert road.query("SELECT id, amount FROM t") == [{"id": "1", "amount": 5}]
        if door == "certificate":
            assert not [s for s in secrets if s.decode() in str(bus.kafka.access.spark())]
    log = (settings.home / "spark" / "spark.log").read_bytes()
    assert not [s for s in (*secrets, KEPT.encode()) if s in log]


class Suibus:
    """Runs the command line in processes of its own."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        clean = {k: v for k, v in os.environ.items() if not k.startswith("SUIBUS_") or k == "SUIBUS_JARS"}
        self.environment = clean | environment

    def __call__(self, *words: str, status: int = 0) -> str:
        program = Path(sys.executable).with_name("suibus")
        done = subprocess.run(
            [program, *words], cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == status, f"{words}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def here(self, *words: str, status: int = 0) -> str:
        """The same in this process, without the time to start one."""
        done = CliRunner().invoke(main, words, env=self.environment, catch_exceptions=False)
        assert done.exit_code == status, f"{words}\n{done.output}"
        return done.stdout + done.stderr


def test_a_node_needs_only_its_file_and_a_secure_bus_stays_secure(tmp_path: Path) -> None:
    center = Suibus(tmp_path, SUIBUS_HOME=str(tmp_path / "center"))
    node = Suibus(tmp_path, SUIBUS_HOME=str(tmp_path / "node"), SUIBUS_NODE=str(tmp_path / f"suibus-{OWN}.toml"))
    register = ROOT / "infra" / "demo" / "register"
    broker = Broker(Settings(home=tmp_path / "center"))
    try:
        center("up", "--secure", "--services-only", "--detach")
        center("node", "add", OWN)
        listed = center.here("node", "list", "--json")
        assert json.loads(listed)[0]["district"] == OWN
        assert password_in(tmp_path / f"suibus-{OWN}.toml") not in listed
        center("down")
        center("up", "--services-only", "--detach")
        assert "all on the bus" in node("publish", "grassroots_division", f"{register}/{OWN}.csv", "--district", OWN)
        assert "no receipt" in node.here("receipts", "--district", OWN)
        said = node.here("publish", "grassroots_division", f"{register}/{OTHER}.csv", "--district", OTHER, status=2)
        assert f"belongs to district {OWN}" in said
        stranger = Suibus(tmp_path, SUIBUS_HOME=str(tmp_path / "x"), SUIBUS_BOOTSTRAP_SERVERS=broker.servers(False))
        assert "nobody in without credentials" in stranger.here("sync", status=3)
    finally:
        center("down")
