"""What unit tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.producers.publishing import Node


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A district's node whose bus, in memory, does not answer."""
    return Node(tmp_path)


@pytest.fixture
def chunks_of_20(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 20 rows instead of 2,000, so that a publish of few rows has many moments at which it can be interrupted."""
    for module in ("outbox", "publish.delivery", "publish.publisher"):
        monkeypatch.setattr(f"producers.{module}.CHUNK", 20)
