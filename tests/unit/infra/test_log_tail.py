"""An error shows the end of a log, if there is one."""

from __future__ import annotations

from pathlib import Path

from infra.terminal.log_tail import tail


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("one\ntwo\nthree\n")
    assert tail(tmp_path / "log", 2) == "two\nthree"


def test_the_tail_of_a_log_that_is_absent_is_empty(tmp_path: Path) -> None:
    assert tail(tmp_path / "none") == ""
