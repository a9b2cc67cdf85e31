"""Where the harness kills a process: named moments, each a call of a function that is wrapped before a command runs.

The product has no hooks for this. A function is named by the module that defines it, and is wrapped in every module that imported
it. `missing` looks for all of them before a run starts, so that a function or module that was renamed is noticed.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from infra.cli import COMMANDS
from quality.loading import load_great_expectations

Side = Literal["publish", "city"]


class Point(NamedTuple):
    """A moment of a process: before, during or after a call of `target`."""

    side: Side
    when: Literal["before", "after", "during"]
    target: str  # module:attribute
    needs: str = ""  # what the harness must prepare so that the call happens: see `Harness`
    begins: str = ""  # only calls with a text argument that begins like this


COMMIT = "sqlite3:Connection.execute"
SEND = "kafka:KafkaProducer"

# Modules that commands import when they are called. They are imported once, before the processes under test are forked.
PRELOADED = (
    *(f"infra.commands.{name}" for name in COMMANDS),
    "infra.jvm.spark",
    "pipelines.share.query",
    "great_expectations",
    "quality.expectations",
    "quality.one_scan",
)

POINTS = {
    # a node: a short run reaches the first two only
    "after the Kafka commit, before the outbox learns of it": Point(
        "publish", "before", "producers.outbox:Outbox.sent"
    ),
    "in the middle of an outbox transaction": Point("publish", "before", COMMIT, begins="COMMIT"),
    "between the records and their Kafka commit": Point("publish", "before", f"{SEND}.commit_transaction"),
    "after the outbox commit": Point("publish", "after", COMMIT, begins="COMMIT"),
    "during an outbox commit": Point("publish", "during", COMMIT, begins="COMMIT"),
    "after the position joined the Kafka transaction": Point("publish", "after", f"{SEND}.send_offsets_to_transaction"),
    "during the Kafka commit": Point("publish", "during", f"{SEND}.commit_transaction"),
    "when all is read and not yet complete": Point("publish", "before", "producers.outbox:Outbox.complete", "file"),
    "between the deletions of a snapshot": Point("publish", "after", "producers.outbox:Outbox.delete_gone", "snapshot"),
    "while the open transaction is settled": Point("publish", "during", f"{SEND}.init_transactions", "open"),
    # the city
    "after the bronze commit": Point("city", "after", "pipelines.ingest.ingest:ingest_batch"),
    "between merge and account": Point("city", "after", "pipelines.merge.merge:merge_pending"),
    "during the merge": Point("city", "during", "pipelines.merge.merge:merge_pending"),
    "after the verdict, before its record": Point("city", "after", "quality.gate:judge"),
    "between account and release": Point("city", "after", "pipelines.merge.account:account_pending"),
    "during ingest": Point("city", "during", "pipelines.ingest.ingest:ingest_batch"),
    "after the release's record": Point("city", "after", "pipelines.release.release:release_version"),
    "during the account": Point("city", "during", "pipelines.merge.account:account_pending"),
    "after the pass, before it is noted": Point("city", "after", "pipelines.sync:sync"),
    "while a contract is registered": Point("city", "during", "schemas.store:ContractStore.register", "contract"),
    "while a contract's files are written": Point("city", "before", "os:fsync", "contract"),
    "while a table is widened": Point("city", "during", "pyspark.sql:SparkSession.sql", "column", "ALTER TABLE"),
    "while the city sends the outboxes": Point("city", "during", "producers.send.sender:flush"),
    "between receipts and account": Point("city", "after", "pipelines.back.receipts:send_receipts"),
    "while receipts are sent": Point("city", "during", "pipelines.back.receipts:send_receipts"),
    "before the merge": Point("city", "before", "pipelines.merge.merge:merge_pending"),
    "during the verdict and its record": Point("city", "during", "pipelines.release.release:release_version"),
}


def changes(contracts: Path) -> dict[str, Any]:
    """What the harness sets in the product: small chunks, so that a small file takes several transactions, and its own contracts."""
    return {
        "producers.outbox:CHUNK": 20,
        "producers.send.sender:ROWS": 35,
        "producers.publish.publisher:Publisher.send_in_background": lambda _: (
            None
        ),  # the process that is killed is the one that sends
        "schemas.contract_folders:SHIPPED": contracts,  # only the datasets of the harness
    }


def find(target: str) -> tuple[Any, str, Any]:
    """What `module:attribute` names: its owner, its name there, and itself. ImportError or AttributeError if it is gone."""
    module, _, path = target.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    return owner, name, getattr(owner, name)


def put(target: str, value: Any) -> Callable[[], None]:
    """Replace the target, also in every module that imported it by its name; returns a function that undoes this."""
    owner, name, before = find(target)
    modules = [vars(module) for module in [*sys.modules.values()] if hasattr(module, "__dict__")]
    names = [module for module in modules if module.get(name) is before]
    setattr(owner, name, value)
    for module in names:
        module[name] = value

    def undo() -> None:
        setattr(owner, name, before)
        for module in names:
            module[name] = before

    return undo


@contextmanager
def replaced(target: str, value: Any) -> Iterator[None]:
    """Replace the target within the block: see `put`."""
    undo = put(target, value)
    try:
        yield
    finally:
        undo()


def missing() -> list[str]:
    """Every point, change and preloaded module that does not exist, with the reason; empty if all exist. Imports all of them."""
    load_great_expectations()
    found = []
    for name, target in [(n, p.target) for n, p in POINTS.items()] + [("a change", t) for t in changes(Path())]:
        try:
            find(target)
        except (ImportError, AttributeError) as error:
            found.append(f"{name}: {target} is gone ({error})")
    for module in PRELOADED:
        try:
            importlib.import_module(module)
        except ImportError as error:
            found.append(f"preloaded: {module} is gone ({error})")
    return found
