"""The kill harness' model accepts what a node accepts: without it, a run would report the model's own mistakes."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

import pytest

from producers.outbox import Mode
from producers.publish.delivery import publish_source
from producers.publish.publisher import Publisher
from producers.send.memory import MemoryBus
from producers.sources.files import open_source
from schemas.contract import parse_contract
from schemas.wire.avro import avro_schema, schema_fingerprint
from tests.avro_reader import decode
from tests.faults.kill.model import DISTRICTS, ORDERED, UNORDERED, Delivery, Model

FILES = 100  # of each dataset; a file may be published again


@pytest.mark.parametrize("name", [ORDERED, UNORDERED])
def test_the_model_accepts_the_rows_and_deletions_that_a_node_sends(name: str, tmp_path: Path) -> None:
    dice, model, bus = random.Random(name), Model(), MemoryBus()
    files: list[Delivery] = []
    modes: tuple[Mode, ...] = ("append", "delete", "snapshot")
    writers = {}
    for number in range(FILES):
        if number in (40, 80):
            model.columns[name] += 1
        dataset = parse_contract(model.contract(name), f"{name}.yaml")
        schema = avro_schema(dataset)
        writers[schema_fingerprint(schema)] = schema
        district, (mode,) = dice.choice(DISTRICTS[:1]), dice.choices(modes, (3, 3, 2))
        published = [file for file in files if model.takes(file)]
        again = bool(published) and dice.random() < 0.4
        file = dice.choice(published) if again else model.make(tmp_path, number, name, district, mode, dice)
        files.append(file)
        outbox = tmp_path / file.district / "outbox.sqlite"
        publisher = Publisher(dataset, file.district, outbox, "memory", transport=bus.connect)
        with closing(publisher.outbox):
            source = open_source(file.path, dataset, delete=file.mode == "delete")
            publish_source(publisher, source, file.mode, rejects_path=tmp_path / "rejects")
        model.accept(file)
    for district in DISTRICTS[:1]:
        sent = []
        for record in bus.records(dataset.topic(district)):
            row = None if record.value is None else decode(record.value, writers, schema)
            sequence = dict(record.headers).get("sequence") if name == ORDERED and row is None else None
            sent.append((record.key.decode().split('"')[3], row and row["tag"], sequence and int(sequence)))
        events = model.events[name, district]
        kept = [(e.key, e.row and e.row.tag, e.seq if name == ORDERED and not e.row else None) for e in events]
        assert sent == kept
