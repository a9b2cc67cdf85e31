"""The process that the harness kills: it runs the command line as told on standard input, and dies where it is told.

No hook is in the product: a point is a product function that this program wraps before it runs the command.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple


class Point(NamedTuple):
    """A moment of the process: at a call of `target`, before it, after it, or some milliseconds into it."""

    side: str  # publish or city
    when: str
    target: str  # module:attribute
    needs: str = ""  # what the harness must have prepared for the moment to come


POINTS = {
    # a node: the first two are what a short run gets
    "after the Kafka commit, before the outbox learns of it": Point(
        "publish", "before", "producers.outbox:Outbox.sent"
    ),
    "in the middle of an outbox transaction": Point("publish", "before", "sqlite3:COMMIT"),
    "between the records and their Kafka commit": Point("publish", "before", "kafka:KafkaProducer.commit_transaction"),
    "after the outbox commit": Point("publish", "after", "sqlite3:COMMIT"),
    "during an outbox commit": Point("publish", "during", "sqlite3:COMMIT"),
    "after the position joined the Kafka transaction": Point(
        "publish", "after", "kafka:KafkaProducer.send_offsets_to_transaction"
    ),
    "during the Kafka commit": Point("publish", "during", "kafka:KafkaProducer.commit_transaction"),
    "when all is read and not yet complete": Point("publish", "before", "producers.outbox:Outbox.complete"),
    "between the deletions of a snapshot": Point("publish", "after", "producers.outbox:Outbox.delete_gone", "snapshot"),
    "while the open transaction is settled": Point("publish", "during", "kafka:KafkaProducer.init_transactions"),
    # the city
    "after the bronze commit": Point("city", "after", "pipelines.sync:ingest_batch"),
    "between merge and account": Point("city", "after", "pipelines.sync:merge_pending"),
    "during the merge": Point("city", "during", "pipelines.sync:merge_pending"),
    "after the verdict, before its record": Point("city", "after", "pipelines.release.release:judge"),
    "between account and release": Point("city", "after", "pipelines.sync:account_pending"),
    "during ingest": Point("city", "during", "pipelines.sync:ingest_batch"),
    "after the release's record": Point("city", "after", "pipelines.sync:release_version"),
    "during the account": Point("city", "during", "pipelines.sync:account_pending"),
    "after the pass, before it is noted": Point("city", "after", "pipelines.sync:sync"),
    "while a contract is registered": Point("city", "after", "schemas.store:_write", "contract"),
    "before a contract's line in the history": Point("city", "before", "schemas.store:os.fsync", "contract"),
    "while a table is widened": Point("city", "during", "pipelines.lake.lake:Lake.ensure", "column"),
    "while the city sends the outboxes": Point("city", "during", "infra.bus.bus:flush"),
    "between receipts and account": Point("city", "after", "pipelines.sync:send_receipts"),
    "while receipts are sent": Point("city", "during", "pipelines.sync:send_receipts"),
    "before the merge": Point("city", "before", "pipelines.sync:merge_pending"),
    "during the verdict and its record": Point("city", "during", "pipelines.sync:release_version"),
}


def die(group: bool) -> None:
    """End as a power cut ends a process: this one alone, or its JVM with it."""
    if group:
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def armed(order: dict[str, Any]) -> Iterator[None]:
    """Within the block this process dies at the order's point, the nth time it comes by."""
    if not order.get("point"):
        yield
        return
    point = POINTS[order["point"]]
    left = [order["nth"]]
    timers: list[threading.Timer] = []

    def around(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        now = left[0] == 0
        if now and point.when == "before":
            die(order["group"])
        if now and point.when == "during":
            timers.append(threading.Timer(order["delay"], die, (order["group"],)))
            timers[0].start()
        result = call(*args, **kwargs)
        if now and point.when == "after":
            die(order["group"])
        return result

    module, path = point.target.split(":")
    if path == "COMMIT":
        owner, name, found = sqlite3, "connect", sqlite3.connect

        class Watched(sqlite3.Connection):
            def execute(self, sql: str, *args: Any) -> Any:
                return around(super().execute, sql, *args) if sql == "COMMIT" else super().execute(sql, *args)

        wrapped: Any = lambda *args, **kwargs: found(*args, factory=Watched, **kwargs)  # noqa: E731
    else:
        owner = importlib.import_module(module)
        *parents, name = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        found = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return around(found, *args, **kwargs)

    setattr(owner, name, wrapped)
    try:
        yield
    finally:
        setattr(owner, name, found)
        for timer in timers:  # what is over before its moment has come is not killed: the next order may be under way
            timer.cancel()


def run(words: list[str]) -> tuple[int, str]:
    """A `suibus` command in this process: its exit status and what it printed."""
    from infra.cli import main

    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(sys.stderr):
        try:
            main.main(args=words, prog_name="suibus", standalone_mode=False)
        except SystemExit as end:
            return int(end.code or 0), said.getvalue()
    return 0, said.getvalue()


def read_lake() -> dict[str, Any]:
    """All that the comparison needs, read with Spark and nothing of the pipelines, and through a department's query."""
    from infra.jvm.spark import spark_session
    from infra.settings import read_settings
    from tests.faults.model import DISTRICTS, ORDERED, UNORDERED

    settings = read_settings()
    spark = spark_session(settings)

    def table(path: str, condition: str = "true") -> list[dict[str, Any]]:
        frame = spark.read.format("delta").load(f"{settings.lake_path}/{path}").where(condition)
        return [row.asDict(recursive=True) for row in frame.drop("_value", "_reasons", "verdict").collect()]

    found: dict[str, Any] = {"accepted": {}, "receipts": []}
    for name in (ORDERED, UNORDERED):
        mine = f"dataset = '{name}.v1'"
        status, said = run(["query", f"SELECT * FROM {name}", "--format", "json"])
        assert status == 0, said
        found[name] = {
            "bronze": table(f"bronze/{name}.v1"),
            "silver": table(f"silver/{name}.v1"),
            "account": table("account", mine),
            "releases": table("releases", mine),
            "shared": json.loads(said),
        }
    for district in DISTRICTS:
        path = settings.home / "nodes" / district / "outbox.sqlite"
        if not path.exists():
            continue
        with sqlite3.connect(path) as outbox:
            counts = outbox.execute(
                "SELECT dataset, sum(accepted + deleted) FROM deliveries GROUP BY dataset"
            ).fetchall()
            assert outbox.execute("SELECT count(*) FROM outbox").fetchone() == (0,), "rows still wait in an outbox"
        outbox.close()
        status, said = run(["receipts", "--district", district, "--json"])
        assert status == 0, said
        found["receipts"] += [receipt["receipt"] for receipt in json.loads(said)]
        found["accepted"] |= {f"{dataset.split('.')[0]}/{district}": count for dataset, count in counts}
    return found


def prepare(side: str) -> None:
    """Load what the commands will need; small chunks, so that a small file takes several transactions."""
    import infra.bus.bus
    import producers.outbox
    import producers.publish.publisher
    import producers.send.sender

    for module, name, value in (
        (producers.outbox, "CHUNK", 20),
        (producers.publish.publisher, "CHUNK", 20),
        (producers.send.sender, "ROWS", 35),
        (
            producers.publish.publisher.Publisher,
            "send_ahead",
            lambda _: None,
        ),  # the process that is killed is the one that sends
        (infra.bus.bus, "SHIPPED", Path(os.environ["SUIBUS_CONTRACTS"])),  # the harness' datasets alone
    ):
        assert hasattr(module, name), f"{module.__name__}.{name} is gone"
        setattr(module, name, value)
    if side == "city":
        import great_expectations  # noqa: F401 - slow to load

        from infra.jvm.spark import spark_session
        from infra.settings import read_settings

        settings = read_settings()
        spark = spark_session(settings)
        for name in ("releases", "account"):
            if (path := Path(settings.lake_path) / name).exists():
                spark.read.format("delta").load(str(path)).count()


def main() -> None:
    """Say that all is ready, then do what each line orders and answer with a line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints, prints to the log

    def answer(**values: Any) -> None:
        print(json.dumps(values, ensure_ascii=False, default=str), file=answers, flush=True)

    prepare(sys.argv[1])
    answer(ready=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "dump" in order:
            Path(order["dump"]).write_text(json.dumps(read_lake(), ensure_ascii=False, default=str), "utf-8")
            answer(status=0)
            continue
        with armed(order):
            status, said = run(order["run"])
        answer(status=status, said=said[-2000:])


if __name__ == "__main__":
    main()
