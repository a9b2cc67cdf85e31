"""A short run of the kill harness (`make faults` makes a long one), and tests that it does detect losses."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults.kill.comparison import FATES, compare
from tests.faults.kill.model import ORDERED, UNORDERED, Event, Model, Row
from tests.faults.kill.points import POINTS, changes, missing

ROOT = Path(__file__).parents[2]
KILLS, SEED = 5, int(os.environ.get("SEED", "440106"))


def test_every_point_of_the_kill_harness_names_a_public_function_that_exists() -> None:
    assert missing() == []
    targets = [point.target for point in POINTS.values()] + list(changes(Path()))
    assert [t for t in targets if any(part.startswith("_") for part in t.replace(":", ".").split("."))] == []


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Model, dict[str, Any]]:
    """A short run: what it printed, its model, and what its lake held."""
    home = tmp_path_factory.mktemp("kill") / "bus"
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.kill", "--kills", str(KILLS), "--seed", str(SEED), "--home", str(home)],
        cwd=ROOT, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout, pickle.loads((home / "model.pickle").read_bytes()), json.loads((home / "lake.json").read_text())


def with_deletion(model: Model, lake: dict[str, Any]) -> tuple[Model, dict[str, Any]]:
    """Copies of both in which a district has deleted one more key: a short run may have deleted none."""
    model, lake = copy.deepcopy(model), copy.deepcopy(lake)
    held, key, seq = lake[ORDERED], "k-deleted", 1
    district = held["account"][0]["district"]
    model.events[ORDERED, district].append(Event(key, seq, None))
    record = {"id": key, "_district": district, "_sequence": seq, "_deleted": True, "_quarantined": False}
    held["bronze"].append({**record, "_topic": "", "_partition": 0, "_offset": 0})
    held["silver"].append(record)
    held["account"].append({**held["account"][0], **dict.fromkeys(FATES, 0), "received": 1, "unchanged": 1})
    lake["accepted"][f"{ORDERED}/{district}"] += 1
    return model, lake


def test_processes_killed_at_any_moment_lose_double_and_alter_nothing(
    harness: tuple[str, Model, dict[str, Any]],
) -> None:
    said, model, _ = harness
    assert said.splitlines()[-1] == f"kills {KILLS} lost 0 doubled 0 wrong 0"
    assert len(re.findall(r"killed", said)) >= KILLS
    assert all(any(model.events[name, d] for d in ("440103", "440104", "440106")) for name in (ORDERED, UNORDERED))


def test_the_harness_counts_rows_that_a_lake_lost_doubled_or_altered(
    harness: tuple[str, Model, dict[str, Any]],
) -> None:
    model, whole = with_deletion(*harness[1:])

    def found(**changed: list[dict[str, Any]]) -> tuple[int, int, int]:
        lake = copy.deepcopy(whole)
        lake[ORDERED].update(copy.deepcopy(changed))
        tally = compare(model, lake)
        return tally.lost, tally.doubled, tally.wrong

    bronze, shared, silver, releases, account = (
        whole[ORDERED][name] for name in ("bronze", "shared", "silver", "releases", "account")
    )
    assert found() == (0, 0, 0)
    one = next(r for r in bronze if not r["_deleted"] and not r["_quarantined"])
    others = [r for r in bronze if r is not one]
    assert found(bronze=others) == (1, 0, 0)
    assert found(bronze=[*bronze, {**one, "_offset": 10**9}]) == (0, 1, 0)
    assert found(bronze=[*others, {**one, "amount": 7_000_000}]) == (0, 0, 1)
    assert found(shared=shared[1:]) == (1, 0, 0)
    assert found(shared=[*shared, shared[0]]) == (0, 1, 0)
    assert found(shared=[{**shared[0], "seq": -1}, *shared[1:]]) == (0, 0, 1)
    tombstones = [r for r in silver if r["_deleted"]]
    assert found(silver=tombstones[1:]) == (1, 0, 0)
    assert sum(found(releases=[r for r in releases if r["release"] != 1])) >= 1  # a gap, or no release
    assert found(releases=[*releases, releases[0]])[1] == 1
    assert found(account=[{**account[0], "received": account[0]["received"] + 1}, *account[1:]])[2] >= 2


def test_the_harness_counts_a_record_of_the_model_that_the_lake_lacks(
    harness: tuple[str, Model, dict[str, Any]],
) -> None:
    _, model, whole = harness
    more = pickle.loads(pickle.dumps(model))
    more.events[ORDERED, "440106"].append(Event("k-new", 3, Row("k-new", 3, "new", 1)))
    tally = compare(more, whole)
    assert tally.lost == 2, tally.notes  # one record of bronze, one row of the shared table
