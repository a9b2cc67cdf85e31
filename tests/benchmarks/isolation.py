"""What a district's backlog costs the others: `python -m tests.benchmarks.isolation [ROWS]`.

Three times from publish to release, in one warm process: 100 rows of another dataset, and 100 rows of another district of the
same dataset, without a backlog and while a district returns with a million rows.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from infra.bus.bus import Bus
from infra.settings import Settings
from pipelines.share.query import query
from producers.encoded_row import EncodedRow
from producers.outbox import Outbox
from producers.send.sender import flush
from schemas.contract import parse_contract
from schemas.dataset import Dataset
from schemas.wire.encoder import Encoder
from tests.integration.conftest import CONTRACT

ROWS = 1_000_000
LATE, PROMPT = "440106", "440103"


def publish(bus: Bus, dataset: Dataset, district: str, rows: range, sequence: int) -> None:
    """Put rows into the outbox directly, so that no CSV reader is measured, and send them."""
    encoder = Encoder(dataset)
    path = bus.outbox(district)
    with Outbox(path) as outbox:
        chunk = []
        for n in rows:
            row = {"id": f"{district}-{n:08}", "district_code": district, "seq": sequence, "amount": n}
            chunk.append(EncodedRow(encoder.key(row), encoder.value(row)))
            if len(chunk) == 20_000:
                outbox.accept(dataset.topic(district), chunk)
                chunk = []
        if chunk:
            outbox.accept(dataset.topic(district), chunk)
    flush(path, bus.access.servers)


def run(backlog: int) -> None:
    """All measurements over one state folder, printed."""
    with TemporaryDirectory() as folder:
        bus = Bus(Settings(home=Path(folder)))
        bus.broker.start()
        try:
            datasets = {}
            for name in ("busy", "quiet"):
                text = CONTRACT.format(name=name, version="1.0.0", least=1, sharing="none", columns="")
                datasets[name] = parse_contract(text, f"{name}.yaml")
                bus.store.register(datasets[name])
            bus.adopt_contracts()
            began = [time.monotonic()]

            def told(en: str, _: str) -> None:
                if "release " in en:
                    print(f"    {time.monotonic() - began[0]:6.1f} s  {en.split(':')[0]} released", flush=True)

            for sequence, (what, rows) in enumerate(
                [("warm-up", 0), ("no backlog", 0), (f"{backlog:,} rows wait", backlog)], 1
            ):
                publish(bus, datasets["busy"], LATE, range(rows), sequence)
                for name in datasets:
                    publish(bus, datasets[name], PROMPT, range(100), sequence)
                print(what, flush=True)
                began[0] = time.monotonic()
                info = bus.sync(tell=told)
                assert not info.failures, info.failures
                print(
                    f"    {time.monotonic() - began[0]:6.1f} s  all of {sum(info.ingested.values()):,} records in",
                    flush=True,
                )
            (row,) = query("SELECT count(*) AS n FROM busy", bus.lake(), bus.store).collect()
            assert row["n"] == backlog + 100, row
        finally:
            bus.broker.stop()


if __name__ == "__main__":
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    run(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
