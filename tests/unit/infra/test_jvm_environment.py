"""A JVM gets the environment meant for it, and this process keeps its own."""

from __future__ import annotations

import os

import pytest

from infra.jvm.environment import exchanged_environment


def test_environment_is_exchanged_for_a_while_and_put_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEFORE", "1")
    before = dict(os.environ)

    def fail() -> None:
        with exchanged_environment({"ONLY": "2"}):
            assert dict(os.environ) == {"ONLY": "2"}
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert dict(os.environ) == before
