"""Freshness: a release is late only when changes wait and it is older than its contract allows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from infra.bus.status import is_late
from infra.cli import main
from pipelines.release.release_record import ReleaseRecord, Status
from schemas.contract import load_contract
from schemas.contract_folders import SHIPPED

DATASET = load_contract(SHIPPED / "flights.yaml")  # fresh for a day
OLD, NEW = timedelta(days=2), timedelta()  # ago


@pytest.mark.parametrize(
    ("status", "released", "waiting", "late"),
    [
        ("released", OLD, 0, False),  # old, but nothing waits
        ("released", OLD, 3, True),
        ("released", NEW, 3, False),
        ("held", OLD, 0, True),
        ("held", NEW, 0, False),
        ("held", None, 0, False),  # never released, held a moment ago
        ("released", OLD, None, False),  # unknown how many changes wait
    ],
)
def test_a_release_is_late_when_changes_wait_longer_than_its_freshness(
    status: Status, released: timedelta | None, waiting: int | None, late: bool
) -> None:
    now = datetime.now(UTC)
    released_at = None if released is None else now - released
    record = ReleaseRecord(1, status, 1, "id", DATASET.hash, 1, (), now, released_at)
    assert is_late(DATASET, record, waiting) is late


def test_a_dataset_that_was_never_judged_is_not_late() -> None:
    assert not is_late(DATASET, None, 5)


def test_a_file_in_place_of_the_state_folder_is_refused_with_the_setting_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").touch()
    monkeypatch.setenv("SUIBUS_HOME", str(tmp_path / "home"))
    result = CliRunner().invoke(main, ["status"])
    assert result.exit_code == 2
    assert "SUIBUS_HOME names the state folder" in result.output
