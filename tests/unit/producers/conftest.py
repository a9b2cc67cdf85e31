"""What unit tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.producers.publishing import Node


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A district's node whose bus, in memory, is away."""
    return Node(tmp_path)
