"""Reads what the comparison needs: tables with Spark alone, without the pipelines' code, and the result of a department's query."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import Any

from infra.jvm.spark import spark_session
from infra.settings import read_settings
from tests.faults.kill.model import DISTRICTS, ORDERED, UNORDERED
from tests.faults.kill.worker import run

ALL = 1 << 30  # characters


def read_lake() -> dict[str, Any]:
    """Tables, query results and receipts, as JSON can hold them; AssertionError if a command refuses."""
    settings = read_settings()
    spark = spark_session(settings)

    def table(path: str, condition: str = "true") -> list[dict[str, Any]]:
        frame = spark.read.format("delta").load(f"{settings.lake_path}/{path}").where(condition)
        return [row.asDict(recursive=True) for row in frame.drop("_value", "_reasons", "verdict").collect()]

    found: dict[str, Any] = {"accepted": {}, "receipts": []}
    for name in (ORDERED, UNORDERED):
        mine = f"dataset = '{name}.v1'"
        found[name] = {
            "bronze": table(f"bronze/{name}.v1"),
            "silver": table(f"silver/{name}.v1"),
            "account": table("account", mine),
            "releases": table("releases", mine),
            "shared": _printed("query", f"SELECT * FROM {name}", "--format", "json"),
        }
    for district in DISTRICTS:
        path = settings.home / "nodes" / district / "outbox.sqlite"
        if not path.exists():
            continue
        with closing(sqlite3.connect(path)) as outbox:
            asked = "SELECT dataset, sum(accepted + deleted) FROM deliveries GROUP BY dataset"
            counts = outbox.execute(asked).fetchall()
            assert outbox.execute("SELECT count(*) FROM outbox").fetchone() == (0,), "rows still wait in an outbox"
        receipts = _printed("receipts", "--district", district, "--json")
        found["receipts"] += [receipt["receipt"] for receipt in receipts]
        found["accepted"] |= {f"{dataset.split('.')[0]}/{district}": count for dataset, count in counts}
    return found


def _printed(*words: str) -> Any:
    answer = run(words, shown=ALL)
    assert answer.status == 0, answer.reason
    return json.loads(answer.said)
