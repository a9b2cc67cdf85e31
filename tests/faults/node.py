"""A district's node for the fault tests: runs its commands in processes of their own, and checks what the topic then holds."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

from fastavro import parse_schema, schemaless_reader
from kafka import KafkaConsumer, TopicPartition

from schemas.contract import load_contract
from schemas.dataset import Dataset
from schemas.wire.avro import FRAME, avro_schema, schema_fingerprint

CONTRACT = """\
apiVersion: v3.1.0
kind: DataContract
id: faults.{name}
version: 1.0.0
status: active
schema:
  - name: {name}
    properties:
      - {{name: id, logicalType: string, primaryKey: true, required: true}}
      - {{name: seq, logicalType: integer, required: true}}
      - {{name: note, logicalType: string}}
    quality:
      - {{name: some_rows, metric: rowCount, mustBeGreaterThan: 0}}
customProperties:
  - {{property: suibus.sharing, value: unconditional}}
  - {{property: suibus.sequence, value: seq}}
"""
DISTRICT = "440106"


class Node:
    """One state folder with one dataset, and the `suibus` commands on it."""

    def __init__(self, home: Path, files: Path, name: str, **settings: str) -> None:
        self.home, self.files = home, files
        offered = files / "contracts"
        offered.mkdir(parents=True, exist_ok=True)
        (offered / f"{name}.yaml").write_text(CONTRACT.format(name=name), "utf-8")
        self.dataset: Dataset = load_contract(offered / f"{name}.yaml")
        self.topic = self.dataset.topic(DISTRICT)
        clean = {k: v for k, v in os.environ.items() if not k.startswith("SUIBUS_") or k == "SUIBUS_JARS"}
        own = {"SUIBUS_HOME": str(home), "SUIBUS_CONTRACTS": str(offered), "SUIBUS_SPARK_MEMORY": "1g"}
        self.environment = clean | own | settings

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "infra.cli", *words], cwd=self.files, env=self.environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *words: str, status: int | tuple[int, ...] = 0) -> str:
        """Run a command that must end with `status`; returns everything that it printed."""
        with self.start(*words) as process:
            out, err = process.communicate(timeout=1500)
        allowed = status if isinstance(status, tuple) else (status,)
        assert process.returncode in allowed, f"{words}: {process.returncode}\n{out}\n{err}"
        return out + err

    def publish(self, path: Path, *words: str, status: int | tuple[int, ...] = 0) -> str:
        """Publish a file."""
        return self.run("publish", self.dataset.name, str(path), "--district", DISTRICT, *words, status=status)

    def rows(self, count: int, keys: int, start: int = 0) -> Path:
        """Write a file of rows numbered from `start`, which share `keys` keys in turn."""
        path = self.files / f"rows-{start}-{count}.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "seq", "note"])
            writer.writerows((f"k{i % keys}", i, f"note of row {i}") for i in range(start, start + count))
        return path


def committed(servers: str, topic: str) -> Iterable[Any]:
    """Every record of a topic that a reader of committed transactions sees, in the order of its offsets."""
    consumer = KafkaConsumer(
        bootstrap_servers=servers.split(","), isolation_level="read_committed", auto_offset_reset="earliest",
        enable_auto_commit=False,
    )  # fmt: skip
    try:
        places = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic) or ())]
        ends = consumer.end_offsets(places)
        consumer.assign(places)
        consumer.seek_to_beginning(*places)
        give_up = time.monotonic() + 60
        while any(consumer.position(p) < ends[p] for p in places):
            assert time.monotonic() < give_up, "records are missing"
            for records in consumer.poll(timeout_ms=500).values():
                yield from records
                give_up = time.monotonic() + 60
    finally:
        consumer.close()


def check_delivered(servers: str, node: Node, count: int, keys: int) -> None:
    """Check that rows 0 to `count` of `Node.rows` are on the topic, each once, and those of each key in order."""
    schema = avro_schema(node.dataset)
    fingerprint, parsed = schema_fingerprint(schema), parse_schema(schema)
    found: dict[str, list[int]] = defaultdict(list)
    for record in committed(servers, node.topic):
        assert record.value[2:FRAME] == fingerprint
        row: Any = schemaless_reader(BytesIO(record.value[FRAME:]), parsed, parsed)
        assert (row["id"], row["note"]) == (json.loads(record.key)["id"], f"note of row {row['seq']}")
        found[row["id"]].append(row["seq"])
    assert len(found) == min(keys, count)
    wrong = {key: seqs for key, seqs in found.items() if seqs != list(range(int(key[1:]), count, keys))}
    assert not wrong, f"{len(wrong)} keys, such as {next(iter(wrong.items()))}"
