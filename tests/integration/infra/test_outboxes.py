"""The damaged outbox of one district does not stop the other districts."""

from __future__ import annotations

import sqlite3

from infra.operate.metrics import metrics_text
from tests.integration.conftest import Road


def test_a_damaged_outbox_does_not_stop_the_other_districts(road: Road) -> None:
    road.accept({"id": "a", "seq": 1})
    damaged = road.accept({"id": "b", "seq": 1}, "440103")
    with sqlite3.connect(damaged) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        ((root,),) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'outbox'").fetchall()
        ((size,),) = db.execute("PRAGMA page_size").fetchall()
    db.close()
    with damaged.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * size)
    assert road.bus.flush_outboxes() == 1
    assert 'suibus_outbox_rows_waiting{district="440106"} 0.0' in metrics_text(road.bus)
    road.sync()
    assert [row[0] for row in road.silver()] == ["a"]
