"""Hostile and broken bytes: each record is accepted with its values unchanged, or quarantined with its reason.

A seeded mutator breaks good records of several contracts in many ways. What Spark decodes is compared with a reader of
Avro, keys and headers in plain Python (tests/faults/hostile/reader.py), and with fastavro.
CASES sets how many records, SEED which ones: `make hostile` takes 10,000.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from kafka import KafkaProducer

from infra.bus.bus import Bus
from infra.kafka.broker import Broker
from infra.settings import Settings
from pipelines.ingest.decode import bronze_rows
from tests.avro_reader import decode
from tests.faults.hostile.mutator import Mutator
from tests.faults.hostile.reader import judge, same
from tests.faults.hostile.worlds import Case, World, make_worlds
from tests.integration.conftest import Road

CASES = int(os.environ.get("CASES", "2000"))
SEED = int(os.environ.get("SEED", "4"))
# Mutations after which some records must be accepted (TAKEN), and some quarantined (REFUSED).
TAKEN = "nothing replay delete headers flip key delete_spelled column sequence"
REFUSED = "truncate trail flip frame column key sequence district timestamp rule"
HEADERS = "array<struct<key:string,value:binary>>"
COLUMNS = f"key binary, value binary, topic string, partition int, offset long, timestamp timestamp, headers {HEADERS}"


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> list[World]:
    return make_worlds(tmp_path_factory.mktemp("worlds"))


def decoded(cases: list[Case], world: World, spark: Any) -> list[dict[str, Any]]:
    """The rows that `bronze_rows` makes of the cases, in their order."""
    rows = [
        {
            "key": c.key, "value": c.value, "topic": world.dataset.topic(c.district), "partition": 0, "offset": i,
            "timestamp": c.timestamp,
            "headers": None if c.headers is None else [{"key": k, "value": v} for k, v in c.headers],
        }
        for i, c in enumerate(cases)
    ]  # fmt: skip
    header = pa.struct([("key", pa.string()), ("value", pa.binary())])
    types = [pa.binary(), pa.binary(), pa.string(), pa.int32(), pa.int64(), pa.timestamp("us", "UTC"), pa.list_(header)]
    names = ["key", "value", "topic", "partition", "offset", "timestamp", "headers"]
    table = pa.Table.from_pylist(rows, schema=pa.schema(list(zip(names, types, strict=True))))
    found = bronze_rows(spark.createDataFrame(table, COLUMNS), world.dataset, world.store).toArrow().to_pylist()
    return sorted(found, key=lambda row: row["_offset"])


def wrong(case: Case, found: dict[str, Any], world: World) -> str | None:
    """What is wrong with the row found for a case; None if it is right."""
    wanted = judge(case, world)
    if found["_quarantined"] != (wanted is None):
        return f"accepted: {wanted is None}, reasons: {found['_reasons']}"
    if wanted is None:
        if not found["_reasons"] or not all(r["rule"] and r["reason"] and r["reason_zh"] for r in found["_reasons"]):
            return f"no reason in both languages: {found['_reasons']}"
        return None if found["_value"] == case.value else "its bytes are not kept"
    if found["_reasons"] is not None:
        return f"accepted with {found['_reasons']}"
    for name, value in wanted.items():
        if not same(found[name], value):
            return f"{name} is {found[name]!r}, not {value!r}"
    if case.value is None:
        return None
    try:
        by_fastavro = decode(case.value, world.schemas, [*world.schemas.values()][-1])
    except ValueError as error:
        # Java reads a union branch of 2³¹ as 0 and a block of -2⁶³ items as empty.
        known = (b"\x80\x80\x80\x80", b"\xff" * 9)
        return None if any(k in case.value for k in known) else f"fastavro refuses it: {error}"
    off = [name for name, value in by_fastavro.items() if not same(found[name], value)]
    return f"fastavro reads other values in {off}" if off else None


def test_every_record_is_accepted_unchanged_or_quarantined_with_its_reason(
    worlds: list[World], spark: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    counts: Counter[str] = Counter()
    accepted: Counter[str] = Counter()
    quarantined: Counter[str] = Counter()
    failures = []
    for number, world in enumerate(worlds):
        mutator = Mutator(world, f"{SEED}:{number}")
        cases = [mutator.case() for _ in range(CASES // len(worlds))]
        found = decoded(cases, world, spark)
        assert len(found) == len(cases)
        for case, row in zip(cases, found, strict=True):
            counts["quarantined" if row["_quarantined"] else "accepted"] += 1
            (quarantined if row["_quarantined"] else accepted)[case.did] += 1
            if problem := wrong(case, row, world):
                failures.append(f"{world.dataset.name} {case.did}: {problem}; {shown(case)}")
    with capsys.disabled():
        total = counts.total()
        print(
            f"\ncases {total} accepted {counts['accepted']} quarantined {counts['quarantined']} "
            f"wrong {len(failures)} (SEED={SEED})"
        )
    assert not failures, "\n".join(failures[:20])
    if CASES >= 2_000:  # a mutator that breaks no record, or every record, tests nothing
        assert [name for name in TAKEN.split() if not accepted[name]] == []
        assert [name for name in REFUSED.split() if not quarantined[name]] == []


def test_records_on_a_real_broker_get_in_bronze_and_account_the_fate_that_the_plain_python_reader_gives(
    worlds: list[World], tmp_path: Path, broker: Broker, spark: Any
) -> None:
    road = Road(Bus(Settings(home=tmp_path / "home", bootstrap_servers=broker.access.servers)), "hostile")
    world = replace(worlds[1], store=road.bus.store)
    road.dataset, road.name = world.dataset, world.dataset.name
    road.bus.kafka.ensure(world.dataset.topics)
    mutator = Mutator(world, f"{SEED}:broker")
    made = iter(mutator.case, None)
    # kafka-python cannot send a header without a value, nor a record without key and value; other clients can.
    sendable = (c for c in made if (c.key or c.value) and all(v is not None for _, v in c.headers or ()))
    cases = list(islice(sendable, min(300, CASES)))
    now = time.time_ns() // 1_000_000  # a broker refuses a timestamp far in the future
    cases = [replace(case, timestamp=now * 1_000) for case in cases]
    producer = KafkaProducer(bootstrap_servers=broker.access.servers, acks="all", max_request_size=8_000_000)
    sent = [
        producer.send(
            world.dataset.topic(c.district),
            c.value,
            c.key,
            c.headers,
            timestamp_ms=now,
        )
        for c in cases
    ]
    producer.flush()
    where = [(record.topic, record.offset) for record in (future.get(timeout=30) for future in sent)]
    producer.close()
    assert road.merge() == len(cases)
    rows = road.lake.bronze(world.dataset).read().toArrow().to_pylist()
    found = {(row["_topic"], row["_offset"]): row for row in rows}
    assert len(rows) == len(found) == len(cases)
    problems = [
        f"{case.did}: {problem}; {shown(case)}"
        for case, at in zip(cases, where, strict=True)
        if (problem := wrong(case, found[at], world))
    ]
    assert not problems, "\n".join(problems)
    account = road.account().values()
    assert sum(row["received"] for row in account) == len(cases)
    assert sum(row["quarantined"] for row in account) == sum(judge(case, world) is None for case in cases)


def shown(case: Case) -> str:
    cut = replace(case, value=case.value and case.value[:200], key=case.key and case.key[:100])
    return repr(replace(cut, headers=cut.headers and cut.headers[:3]))[:600]
