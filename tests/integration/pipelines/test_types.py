"""Values of every type, also extreme ones, are unchanged after Kafka, decoded by Spark and by fastavro."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from infra.kafka.broker import Broker
from infra.kafka.topics import Kafka
from pipelines.ingest.decode import bronze_rows
from quality.row_rules import row_rules
from schemas.contract import load_contract, parse_contract
from schemas.dataset import Dataset, Field, Limits
from schemas.row.coercer import RowCoercer, RowError
from schemas.store import ContractStore
from schemas.wire.avro import avro_schema, schema_fingerprint
from schemas.wire.encoder import Encoder
from tests.avro_reader import decode
from tests.unit.schemas.test_contract import PORTABLE

PATH = Path(__file__).parents[2] / "contracts" / "every_type.yaml"
EVERY_TYPE = load_contract(PATH)
ADDED = "      - {name: added_later, businessName: 后来增加, logicalType: string}\n"
TOPIC = EVERY_TYPE.topic("440106")
LONGEST = Decimal("9999999999999999999999999999.9999999999")

PLAIN: dict[str, Any] = {
    "day": date(2026, 3, 1), "seq": 1, "a_string": "x", "a_boolean": True, "an_int": 1, "a_long": 1, "a_float": 1.5,
    "a_double": 1.5, "a_decimal": Decimal(1), "a_timestamp": datetime(2026, 3, 1, tzinfo=UTC), "some_bytes": b"x",
    "an_enum": "存续", "an_array": ["x"], "a_record": {"inner_string": "x", "inner_decimal": None, "deeper": None},
    "some_records": [{"sku": "x", "count": None}],
}  # fmt: skip
ROWS: dict[str, dict[str, Any]] = {
    "every nullable column is null": {},
    "lowest": {
        "day": date(1, 1, 1), "seq": -(2**63), "a_boolean": False, "an_int": -(2**31), "a_long": -(2**63),
        "a_float": -3.4028234663852886e38, "a_double": -1.7976931348623157e308, "a_decimal": LONGEST.copy_negate(),
        "a_timestamp": datetime(1, 1, 1, tzinfo=UTC), "maybe_int": -(2**31), "maybe_long": -(2**63),
        "maybe_decimal": Decimal("-9999999999.99"), "maybe_date": date(1, 1, 1),
        "maybe_timestamp": datetime(1, 1, 1, tzinfo=UTC),
    },
    "highest": {
        "day": date(9999, 12, 31), "seq": 2**63 - 1, "an_int": 2**31 - 1, "a_long": 2**63 - 1,
        "a_float": 3.4028234663852886e38, "a_double": 1.7976931348623157e308, "a_decimal": LONGEST,
        "a_timestamp": datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), "maybe_int": 2**31 - 1,
        "maybe_long": 2**63 - 1, "maybe_decimal": Decimal("9999999999.99"), "maybe_date": date(9999, 12, 31),
        "maybe_timestamp": datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    },
    "smallest": {
        "an_int": 0, "a_long": 0, "a_float": 1.401298464324817e-45, "a_double": 5e-324, "a_decimal": Decimal("1E-10"),
        "maybe_float": -0.0, "maybe_double": -0.0, "maybe_decimal": Decimal("-0.01"), "maybe_int": -1, "maybe_long": -1,
    },
    "calendars that changed": {
        "day": date(1582, 10, 10), "maybe_date": date(1582, 10, 4), "a_timestamp": datetime(1582, 10, 10, tzinfo=UTC),
        "maybe_timestamp": datetime(1900, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
    },
    "instants before 1970": {
        "a_timestamp": datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        "maybe_timestamp": datetime(1949, 10, 1, 7, 0, 0, 123456, tzinfo=UTC), "maybe_date": date(1969, 12, 31),
        "a_record": {"inner_string": "", "inner_decimal": Decimal("-1.25"),
                     "deeper": {"at": datetime(1901, 12, 13, 20, 45, 51, 999999, tzinfo=UTC)}},
    },
    "empty is not null": {
        "a_string": "", "maybe_string": "", "some_bytes": b"", "maybe_bytes": b"", "an_array": [], "maybe_array": [],
        "some_records": [], "maybe_records": [], "maybe_record": {"x": None, "y": None}, "maybe_boolean": False,
        "a_record": {"inner_string": "", "inner_decimal": None, "deeper": {"at": None}},
    },
    "texts": {
        "a_string": "穗 😀 𠮷 \u0000 \n\t\"'\\ NA null ﷺ e\u0301", "maybe_string": "𪚥" * 1000,
        "an_array": ["", "😀", "𠮷", "NA"], "an_enum": "注销",
    },
    "bytes": {"some_bytes": bytes(range(256)), "maybe_bytes": b"\xc3\x01" + b"\0" * 8},
    "nulls inside": {
        "maybe_array": [None, 2**63 - 1, None], "maybe_record": {"x": 0.1, "y": None},
        "maybe_records": [None, {"tags": None}, {"tags": []}, {"tags": [None, "a"]}],
        "some_records": [{"sku": "a", "count": None}, {"sku": "b", "count": 2**31 - 1}],
    },
    "nothing is null": {
        "maybe_string": "x", "maybe_boolean": True, "maybe_int": 1, "maybe_long": 1, "maybe_float": 0.10000000149011612,
        "maybe_double": 0.1, "maybe_decimal": Decimal("12.34"), "maybe_date": date(2000, 2, 29),
        "maybe_timestamp": datetime(2000, 2, 29, 12, tzinfo=UTC), "maybe_bytes": b"x", "maybe_array": [1],
        "maybe_record": {"x": 1.0, "y": 2.0}, "maybe_records": [{"tags": ["x"]}], "added_later": "x",
    },
}  # fmt: skip
WRITTEN_BEFORE = "written by the version before"


def old_version() -> Dataset:
    text = EVERY_TYPE.text
    assert text.count(ADDED) == 1
    return parse_contract(text.replace(ADDED, "").replace("version: 1.1.0", "version: 1.0.0"), str(PATH))


@pytest.fixture(scope="module")
def sent() -> dict[str, dict[str, Any]]:
    """The rows given to the encoder, by id; the last one is encoded by the previous version."""
    coerce = RowCoercer(EVERY_TYPE, text=False).coerce
    rows = {name: coerce({"id": name, **PLAIN, **changes}) for name, changes in ROWS.items()}
    rows[WRITTEN_BEFORE] = RowCoercer(old_version(), text=False).coerce({"id": WRITTEN_BEFORE, **PLAIN})
    return rows


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ContractStore:
    made = ContractStore(tmp_path_factory.mktemp("contracts"))
    made.register(old_version())
    made.register(EVERY_TYPE)
    return made


@pytest.fixture(scope="module")
def published(broker: Broker, sent: dict[str, dict[str, Any]]) -> Broker:
    """The broker, with every row on it."""
    Kafka(broker.access).ensure([TOPIC])
    new, old = Encoder(EVERY_TYPE), Encoder(old_version())
    producer = KafkaProducer(bootstrap_servers=broker.access.servers, acks="all")
    for name, row in sent.items():
        encoder = old if name == WRITTEN_BEFORE else new
        producer.send(TOPIC, encoder.value(row), encoder.key(row)).get(timeout=30)
    producer.close()
    return broker


@pytest.fixture(scope="module")
def bronze(published: Broker, store: ContractStore, spark: Any) -> dict[str, dict[str, Any]]:
    """The records as Spark decodes them, by id, taken as Arrow so that this process's time zone changes no value."""
    records = (
        spark.read.format("kafka")
        .option("kafka.bootstrap.servers", published.access.servers)
        .option("subscribe", TOPIC)
        .option("includeHeaders", "true")
        .load()
    )
    found = bronze_rows(records, EVERY_TYPE, store).toArrow().to_pylist()
    return {row["id"]: row for row in found}


@pytest.fixture(scope="module")
def consumed(published: Broker, sent: dict[str, dict[str, Any]]) -> Iterator[dict[str, bytes]]:
    """The values that a plain consumer gets, by id."""
    consumer = KafkaConsumer(bootstrap_servers=published.access.servers, auto_offset_reset="earliest")
    consumer.assign([TopicPartition(TOPIC, p) for p in consumer.partitions_for_topic(TOPIC)])
    values: dict[str, bytes] = {}
    while len(values) < len(sent):
        for records in consumer.poll(10_000).values():
            values |= {json.loads(record.key)["id"]: record.value for record in records}
    yield values
    consumer.close()


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for field in EVERY_TYPE.fields:
        a, b = found[field.name], expected.get(field.name)
        assert a == b, field.name
        assert type(a) is type(b), field.name
        if isinstance(b, float):
            assert math.copysign(1, a) == math.copysign(1, b), field.name


@pytest.mark.parametrize("name", [*ROWS, WRITTEN_BEFORE])
def test_spark_reads_every_row_unchanged(name: str, sent: dict[str, Any], bronze: dict[str, Any]) -> None:
    assert bronze[name]["_reasons"] is None
    assert bronze[name]["_quarantined"] is False
    assert_same(bronze[name], sent[name])


@pytest.mark.parametrize("name", [*ROWS, WRITTEN_BEFORE])
def test_fastavro_reads_every_row_unchanged(
    name: str, sent: dict[str, Any], consumed: dict[str, bytes], store: ContractStore
) -> None:
    found = decode(consumed[name], store.writer_schemas(EVERY_TYPE.id), avro_schema(EVERY_TYPE))
    assert_same(found, sent[name])


def test_every_column_is_tried_with_a_value_and_every_nullable_one_with_null(sent: dict[str, Any]) -> None:
    for field in EVERY_TYPE.fields:
        values = [row.get(field.name) for name, row in sent.items() if name != WRITTEN_BEFORE]
        assert any(v is not None for v in values), field.name
        assert field.required or any(v is None for v in values), field.name


def test_record_of_the_version_before_says_so_and_reads_null_in_the_added_column(bronze: dict[str, Any]) -> None:
    assert bronze[WRITTEN_BEFORE]["added_later"] is None
    assert bronze[WRITTEN_BEFORE]["_writer"] == schema_fingerprint(avro_schema(old_version())).hex()
    assert bronze["nothing is null"]["_writer"] == schema_fingerprint(avro_schema(EVERY_TYPE)).hex()


# ---- what Java reads


def java_fingerprint(spark: Any, dataset: Dataset) -> bytes:
    jvm = spark._jvm
    schema = getattr(jvm.org.apache.avro, "Schema$Parser")().parse(json.dumps(avro_schema(dataset)))
    number: int = jvm.org.apache.avro.SchemaNormalization.parsingFingerprint64(schema)
    return number.to_bytes(8, "little", signed=True)


def nested_under_strange_names() -> Dataset:
    """Records with the names of primitive types, and with the same name as each other."""
    member = Field("a", "int")
    inner = Field("null", "record", True, fields=(Field("string", "record", fields=(member,)),))
    fields = (
        EVERY_TYPE.fields[0],
        Field("int", "record", True, fields=(inner,)),
        Field("t", "record", fields=(member,)),
    )
    return replace(EVERY_TYPE, name="t", fields=fields, key=("id",), sequence=None)


@pytest.mark.parametrize(
    "dataset", [EVERY_TYPE, old_version(), nested_under_strange_names()], ids=["new", "old", "names"]
)
def test_fingerprint_is_what_java_avro_computes(spark: Any, dataset: Dataset) -> None:
    assert schema_fingerprint(avro_schema(dataset)) == java_fingerprint(spark, dataset)


TEXTS = [
    "",
    "a",
    "b",
    "x",
    "abc",
    "ABC",
    "2026-03",
    "440106",
    "一丁",
    "穗@x",
    "y",
    "xyy",
    "yyy",
    "{[]\\",
    "[]-.@",
    "91440101MA9W0001XX",
]


@pytest.mark.parametrize("pattern", PORTABLE)
def test_accepted_pattern_finds_the_same_in_java_as_on_the_node(spark: Any, pattern: str) -> None:
    search, java = re.compile(pattern, re.ASCII).search, spark._jvm.java.util.regex.Pattern.compile(pattern)
    assert [java.matcher(text).find() for text in TEXTS] == [search(text) is not None for text in TEXTS]


def test_limits_hold_in_spark_as_on_the_node_and_inside_records_and_arrays(spark: Any) -> None:
    """One row of good values and, for each limit, one row that breaks only that limit."""
    price = Field(
        "price", "decimal", precision=9, scale=2, limits=Limits(minimum=Decimal("0.10"), multiple_of=Decimal("0.05"))
    )
    code = Field("item", "string", limits=Limits(pattern="^[A-Z]{2}$"))
    line = Field("item", "record", fields=(price, Field("codes", "array", item=code, limits=Limits(max_length=2))))
    fields = (
        Field("n", "int", limits=Limits(exclusive_minimum=0, maximum=9)),
        Field("f", "float", limits=Limits(maximum=0.10000000149011612)),
        Field("d", "double", limits=Limits(minimum=0.3)),
        Field("b", "bytes", limits=Limits(max_length=3)),
        Field("t", "timestamp", limits=Limits(minimum=datetime(2020, 1, 1, tzinfo=UTC))),
        Field("on", "date", limits=Limits(exclusive_maximum=date(2030, 1, 1))),
        Field("s", "string", limits=Limits(min_length=2)),
        Field("lines", "array", item=line),
    )
    dataset = replace(
        EVERY_TYPE, name="t", fields=(EVERY_TYPE.fields[0], *fields), key=("id",), sequence=None, rules=()
    )
    good: dict[str, Any] = {
        "id": "good", "n": 9, "f": 0.1, "d": 0.3, "b": b"\xff\xff\xff", "t": datetime(2020, 1, 1, tzinfo=UTC),
        "on": date(2029, 12, 31), "s": "穗市", "lines": [None, {"price": Decimal("0.15"), "codes": ["AB", None]}],
    }  # fmt: skip
    bad: dict[str, dict[str, Any]] = {
        "n_exclusive_minimum": {"n": 0}, "n_maximum": {"n": 10}, "f_maximum": {"f": 0.11}, "d_minimum": {"d": 0.29},
        "b_max_length": {"b": b"1234"}, "t_minimum": {"t": datetime(2019, 12, 31, 23, tzinfo=UTC)},
        "on_exclusive_maximum": {"on": date(2030, 1, 1)}, "s_min_length": {"s": "穗"},
        "lines[].price_minimum": {"lines": [{"price": Decimal("0.05"), "codes": None}]},
        "lines[].price_multiple_of": {"lines": [{"price": Decimal("0.12"), "codes": None}]},
        "lines[].codes_max_length": {"lines": [{"price": None, "codes": ["AB"] * 3}]},
        "lines[].codes[]_pattern": {"lines": [{"price": None, "codes": ["AB", "abc"]}]},
    }  # fmt: skip
    rows = [
        good,
        {"id": "nulls"} | dict.fromkeys(f.name for f in fields),
        *({**good, "id": k, **v} for k, v in bad.items()),
    ]
    types = "id string, n int, f float, d double, b binary, t timestamp, on date, s string, " \
            "lines array<struct<price: decimal(9,2), codes: array<string>>>"  # fmt: skip
    frame = spark.createDataFrame([tuple(row.values()) for row in rows], types)
    rules = row_rules(dataset)
    broken = frame.selectExpr("id", *(f"coalesce({r.broken}, false) AS `{i}`" for i, r in enumerate(rules))).collect()
    found = {row["id"]: [r.name for i, r in enumerate(rules) if row[str(i)]] for row in broken}
    assert found == {"good": [], "nulls": []} | {name: [name] for name in bad}
    node = RowCoercer(dataset, text=False)
    node.coerce(good)
    for name, change in bad.items():
        with pytest.raises(RowError) as caught:
            node.coerce({**good, "id": name, **change})
        (defect,) = caught.value.defects
        column = re.sub(r"\[\d+\]", "[]", defect.column)
        assert name.startswith(f"{column}_")
