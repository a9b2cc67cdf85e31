"""What a person waits for at a prompt, as whole processes: --help, `up --detach`, `sync` with nothing to do, `publish` of ten rows.

Each is compared with the least that does the same with the same engines: Kafka and a bare Spark session started at the same time, a
bare session that counts one Delta table, a plain script that sends ten records.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from infra.bus.bus import Bus
from infra.jvm.jars import resolve_jars
from infra.kafka.topics import Kafka
from infra.settings import Settings
from schemas.wire.avro import avro_schema
from tests.benchmarks.data import contract, contract_text, rows
from tests.benchmarks.rows import Row, in_turns, timed

NAME, DISTRICT, COLUMNS, ROWS = "enquiry", "440106", 12, 10
SESSION = """\
import os, sys
from pyspark.sql import SparkSession
spark = (SparkSession.builder.master("local[*]").config("spark.driver.memory", "2g").config("spark.ui.enabled", "false")
    .config("spark.driver.extraClassPath", sys.argv[1]).config("spark.driver.host", "127.0.0.1").config("spark.log.level", "ERROR")
    .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
    .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog").getOrCreate())
if len(sys.argv) > 2:
    print(spark.read.format("delta").load(sys.argv[2]).count())
os._exit(0)
"""
BROKER = """\
import sys
from pathlib import Path
from infra.kafka.broker import Broker
from infra.settings import Settings
print(getattr(Broker(Settings(home=Path(sys.argv[1]))), sys.argv[2])())
"""
SEND = """\
import csv, io, json, sys
from fastavro import parse_schema, schemaless_writer
from kafka import KafkaProducer
schema, topic = parse_schema(json.loads(sys.argv[3])), sys.argv[2]
producer = KafkaProducer(bootstrap_servers=sys.argv[1], acks="all", compression_type="gzip")
for row in json.loads(sys.stdin.read()):
    out = io.BytesIO()
    schemaless_writer(out, schema, row)
    producer.send(topic, out.getvalue(), row["id"].encode())
producer.flush()
"""


class Prompt:
    """A state folder, and the commands in it, each a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        (folder / "contracts").mkdir()
        (folder / "contracts" / f"{NAME}.yaml").write_text(contract_text(NAME, COLUMNS), "utf-8")
        self.environment = {k: v for k, v in os.environ.items() if k in ("SUIBUS_JARS",) or not k.startswith("SUIBUS_")}
        self.environment |= {"SUIBUS_HOME": str(self.home), "SUIBUS_CONTRACTS": str(folder / "contracts")}
        self.classes = os.pathsep.join(map(str, resolve_jars("spark", Settings())))
        self.dataset, self.published = contract(NAME, COLUMNS), 0

    def python(self, *words: str, given: str | None = None) -> str:
        done = subprocess.run(
            [sys.executable, *words], env=self.environment, input=given, capture_output=True, text=True, cwd=Path.cwd()
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def suibus(self, *words: str) -> str:
        return self.python("-m", "infra.cli", *words)

    @property
    def servers(self) -> str:
        return f"127.0.0.1:{json.loads((self.home / 'run' / 'broker.json').read_text())['port']}"

    def bus(self) -> Bus:
        return Bus(Settings(home=self.home, contracts=str(self.folder / "contracts")))

    def up(self) -> float:
        """Seconds until the bus of a state folder that has run before is ready."""
        seconds = timed(lambda: self.suibus("up", "--detach"))
        self.suibus("down")
        return seconds

    def both(self) -> float:
        """Seconds until Kafka and a bare session, started at the same time, are both ready."""
        broker, session = ("-c", BROKER, str(self.folder / "peer"), "start"), ("-c", SESSION, self.classes)

        def start() -> None:
            both = [
                subprocess.Popen(
                    [sys.executable, *words], env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                for words in (broker, session)
            ]
            assert [process.wait() for process in both] == [0, 0]

        seconds = timed(start)
        self.peer("stop")
        return seconds

    def peer(self, what: str) -> None:
        self.python("-c", BROKER, str(self.folder / "peer"), what)

    def made(self) -> str:
        """Make ten rows that were never published; returns them as JSON, and writes the file for `publish`."""
        made = rows(self.dataset, ROWS, DISTRICT, 1, self.published)
        self.published += ROWS
        with (self.folder / "rows.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(made[0]))
            writer.writeheader()
            writer.writerows({k: v.isoformat() if hasattr(v, "isoformat") else v for k, v in r.items()} for r in made)
        return json.dumps([{k: v for k, v in r.items() if k in ("id", "district_code", "seq", "name")} for r in made])

    def publish(self) -> float:
        """Ten rows of a CSV file, accepted and delivered."""
        self.made()
        return timed(lambda: self.suibus("publish", NAME, str(self.folder / "rows.csv"), "--district", DISTRICT))

    def send(self) -> float:
        """Ten records of four columns from a script, onto a topic of its own."""
        made, schema = self.made(), avro_schema(self.dataset)
        schema["fields"] = [f for f in schema["fields"] if f["name"] in ("id", "district_code", "seq", "name")]
        words = ("-c", SEND, self.servers, "plain", json.dumps(schema))
        return timed(lambda: self.python(*words, given=made))

    def sync(self) -> float:
        """A pass where nothing is new."""

        def run() -> None:
            assert "nothing new" in self.suibus("sync")

        return timed(run)

    def count(self) -> float:
        """A bare session that counts the silver table."""
        table = str(self.home / "lake" / "silver" / self.dataset.id)
        return timed(lambda: self.python("-c", SESSION, self.classes, table))


def run(quick: bool) -> Iterator[Row]:
    """Measure whole processes that have run before, so that their files are in the disk's cache."""
    runs = 1 if quick else 5
    with TemporaryDirectory() as folder:
        here = Prompt(Path(folder))
        helped = [timed(lambda: here.suibus("--help")) for _ in range(6)][1:]
        yield Row("start.help", "suibus --help", helped, "s", "lower", 1.0, limit=0.3, note="The limit is 0.3 s.")
        here.suibus("up", "--detach", "--services-only")
        try:
            Kafka(here.servers).ensure(["plain"])
            here.publish(), here.send()
            published, sent = in_turns(runs + 1, here.publish, here.send)
            yield Row(
                "start.publish", f"suibus publish of {ROWS} rows", published, "s", "lower", None, sent,
                "a script: fastavro, kafka-python",
                note="Ours checks and coerces a CSV file, keeps its rows in the outbox and sends them in a transaction. The peer sends "
                "four columns of the same rows as they are, acks=all.",
            )  # fmt: skip
            here.bus().sync() if quick else here.suibus("sync")
            synced, counted = in_turns(runs, here.sync, here.count)
            yield Row(
                "start.sync", "suibus sync, nothing new", synced, "s", "lower", None, counted, "a Spark session that counts one table",
                note="Every topic's end, every contract and every table is looked at. The peer starts PySpark with Delta and counts the silver "
                "table, no more.",
            )  # fmt: skip
        finally:
            here.suibus("down")
        if quick:
            return
        here.peer("start")  # so that its folder exists
        here.peer("stop")
        up, both = in_turns(runs, here.up, here.both)
        yield Row(
            "start.up", "suibus up --detach to ready", up, "s", "lower", None, both, "Kafka and a Spark session, at once",
            note="A state folder that has run before. Ours starts Kafka, checks contracts and topics, and starts Spark. The peer "
            "starts the same Kafka and a bare PySpark session with the same jars at the same time.",
        )  # fmt: skip
