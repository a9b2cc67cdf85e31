"""The demo recreates its own state, and changes nothing that it did not make."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.demo.rounds import make_anew
from infra.settings import Settings
from schemas.errors import StateError


def test_the_demo_deletes_no_state_that_it_did_not_make(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    kept = tmp_path / "lake" / "silver"
    kept.mkdir(parents=True)
    with pytest.raises(StateError, match="no earlier demo made it"):
        make_anew(settings)
    assert kept.exists()


def test_the_demo_recreates_its_own_state_and_leaves_other_files(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    (tmp_path / "mine.txt").touch()
    make_anew(settings)
    (tmp_path / "lake").mkdir()
    make_anew(settings)
    assert (tmp_path / "mine.txt").exists()
    assert not (tmp_path / "lake").exists()
