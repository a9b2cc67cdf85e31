"""Shared by unit tests of publishing: a small dataset, its files, and a node whose bus is in memory."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from producers.outbox import Mode, Outbox
from producers.publish.delivery import PublishInfo, publish_source
from producers.publish.publisher import Publisher
from producers.send.connect import choose_transport
from producers.send.memory import MemoryBus
from producers.send.sender import flush
from producers.send.transport import Connect, TransportName
from producers.sources.files import open_source
from producers.sources.source import Record, Source
from schemas.dataset import Dataset, Field
from schemas.wire.avro import avro_schema, schema_fingerprint
from tests.avro_reader import decode

DISTRICT = "440106"
FIELDS = (Field("code", "string", True), Field("name", "string"), Field("at", "int"), Field("d", "string"))
DATASET = Dataset("t", "1.0.0", FIELDS, ("code",), None, "d", "none", None, (), "", "", "t.yaml", "")
ORDERED = replace(DATASET, sequence="at")
TOPIC = DATASET.topic(DISTRICT)


class Node:
    """A district's node. Its bus does not answer, so accepted rows wait until `deliver`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "nodes" / DISTRICT / "outbox.sqlite"
        self.bus = MemoryBus("away")

    def publisher(self, dataset: Dataset = DATASET) -> Publisher:
        return Publisher(dataset, DISTRICT, self.path, "memory", timeout=0.0, transport=self.bus.connect)

    def publish(self, file: Path, mode: Mode = "append", dataset: Dataset = DATASET) -> PublishInfo:
        return self.publish_source(open_source(file, dataset, delete=mode == "delete"), mode, dataset)

    def publish_source(self, source: Source, mode: Mode = "append", dataset: Dataset = DATASET) -> PublishInfo:
        publisher = self.publisher(dataset)
        with closing(publisher.outbox):
            return publish_source(publisher, source, mode)

    def waiting(self, dataset: Dataset = DATASET) -> list[tuple[str, Any]]:
        """The key and the name of each row that waits, in order; the name is None for a tombstone."""
        schema = avro_schema(dataset)
        with Outbox(self.path) as outbox:
            rows = outbox.next_rows(10**6, 1 << 40)
        assert [r.seq for r in rows] == list(range(rows[0].seq, rows[0].seq + len(rows))) if rows else True
        assert all(a.timestamp_ms <= b.timestamp_ms for a, b in pairwise(rows))
        return [
            (
                r.key.decode().split('"')[3],
                None if r.value is None else decode(r.value, {schema_fingerprint(schema): schema}, schema)["name"],
            )
            for r in rows
        ]

    def sequences(self) -> list[bytes | None]:
        """The sequences of the tombstones that wait."""
        with Outbox(self.path) as outbox:
            return [r.sequence for r in outbox.next_rows(100, 1 << 20) if r.value is None]

    def deliver(self) -> None:
        """Send all that waits, over a bus that answers."""
        self.bus.faults = set()
        flush(self.path, "memory", transport=self.bus.connect)
        self.bus.faults = {"away"}


def table(folder: Path, rows: dict[str, Any] | list[tuple[Any, ...]], name: str = "in.csv") -> Path:
    """A CSV of code → name, or of whole rows."""
    file = folder / name
    full = [(k, v, 1, DISTRICT) for k, v in rows.items()] if isinstance(rows, dict) else rows
    with file.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows([("code", "name", "at", "d"), *full])
    return file


class KilledError(BaseException):
    """The process ends here."""


Step = Callable[..., Any]


def changed(transport: TransportName | Connect, step: str, change: Callable[[Step], Step]) -> Connect:
    """Returns a `Connect` whose transport has one step changed."""

    class Changed:
        def __init__(self, *arguments: Any) -> None:
            self._transport = choose_transport(transport)(*arguments)

        def __getattr__(self, name: str) -> Any:
            real = getattr(self._transport, name)
            return change(real) if name == step else real

    return cast(Connect, Changed)


def killed_before(_: Step) -> Step:
    def die(*_: Any) -> None:
        raise KilledError

    return die


def killed_after(real: Step) -> Step:
    def do_and_die(*arguments: Any) -> None:
        real(*arguments)
        raise KilledError

    return do_and_die


class CutError(Exception):
    """The process is killed here."""


def cut_off(source: Source, after: int) -> Source:
    def read() -> Iterator[Record]:
        for n, record in enumerate(source.read()):
            if n == after:
                raise CutError
            yield record

    return replace(source, read=read)
