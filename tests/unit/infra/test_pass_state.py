"""The state of a pass is read back as it was written; a lost or damaged file counts as never written."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from infra.bus.bus import Bus
from infra.bus.state import PassState, Refusal, Running, RunState
from infra.bus.totals import Counted, Spent, Totals
from infra.settings import Settings
from pipelines.lake.position import TopicPosition
from pipelines.lake.unchanged_tables import NO_TABLE, CommitStat
from pipelines.release.release_record import ReleaseRecord
from schemas.errors import StateError
from schemas.ports.state_format import FORMAT_FILE

NOW = datetime(2026, 3, 1, 8, 30, 0, 123456, UTC)
STATE = PassState(
    {"a.v1": ReleaseRecord(3, "held", 7, "id", "f" * 64, 12, ("rows",), NOW, None)},
    {"b.v1": "why · 原因"},
    {"gz.up.440106.a.v1": TopicPosition("topic id", {0: 5, 11: 2})},
    {"a.v1": "f" * 64},
    {"silver/a.v1": CommitStat(7, 123, 45, 6), "bronze/b.v1": NO_TABLE},
    NOW.isoformat(),
)


def test_the_state_of_a_pass_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    state = RunState(tmp_path)
    state.note_pass(STATE)
    assert state.last_pass() == STATE


def test_totals_the_running_process_and_refusals_are_read_as_they_were_written(tmp_path: Path) -> None:
    state = RunState(tmp_path)
    totals = Totals({"a.v1": {"440106": {"received": 3}}}, {"merge": {"a.v1": Spent(1.5, 2)}}, Counted("id", 4))
    state.note_totals(totals)
    state.note_running(Running(42, True, NOW.isoformat()))
    state.note_refused_contracts([Refusal("no", "否")])
    assert state.totals() == totals
    assert state.running() == Running(42, True, NOW.isoformat())
    assert state.refused_contracts() == [Refusal("no", "否")]
    state.note_running(None)
    assert state.running() is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"records": 1}', '{"records": {"a.v1": {}}}'])
def test_a_damaged_file_counts_as_one_that_was_never_written(tmp_path: Path, text: str) -> None:
    state = RunState(tmp_path)
    state.note_pass(STATE)
    for file in (tmp_path / "run").glob("*.json"):
        file.write_text(text)
    for name in ("metrics", "up", "contracts"):
        (tmp_path / "run" / f"{name}.json").write_text(text)
    assert state.last_pass() == PassState()
    assert state.totals() == Totals()
    assert state.running() is None
    assert state.refused_contracts() == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b'{"format": 99, "suibus": "9.0"}', r"format 99 \(Suibus 9\.0\).*suibus flush.*suibus up"),
        (b"", r"is damaged.*Restore this file.*suibus up"),
        (b"\xff\xfe", r"is damaged.*Restore this file.*suibus up"),
    ],
)
def test_a_state_folder_of_another_format_is_refused_and_not_changed(tmp_path: Path, text: bytes, says: str) -> None:
    RunState(tmp_path).note_pass(STATE)
    (tmp_path / FORMAT_FILE).write_bytes(text)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(StateError, match=says) as refusal:
        Bus(Settings(home=tmp_path))
    assert "suibus up" in refusal.value.zh
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_a_damaged_format_file_can_be_repaired_as_the_message_says(tmp_path: Path) -> None:
    RunState(tmp_path).note_pass(STATE)
    (tmp_path / FORMAT_FILE).write_text("")
    with pytest.raises(StateError) as refusal:
        Bus(Settings(home=tmp_path))
    line = refusal.value.en.partition("write this line into it: ")[2].partition("}")[0] + "}"
    (tmp_path / FORMAT_FILE).write_text(line)
    Bus(Settings(home=tmp_path))
