"""What a user may import, and that a district node imports no engine of the city."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import suibus
from infra.cli import COMMANDS

ENGINES = {"pyspark", "py4j", "delta", "great_expectations", "pandas", "numpy", "pyarrow", "psycopg"}
ROOT = Path(__file__).parents[2]


def test_all_is_exactly_what_is_exported() -> None:
    public = {
        name
        for name, value in vars(suibus).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert set(suibus.__all__) == public
    assert len(suibus.__all__) == len(set(suibus.__all__))


def test_everything_exported_has_a_docstring() -> None:
    undocumented = [n for n in suibus.__all__ if n != "SHIPPED" and not getattr(suibus, n).__doc__]
    assert undocumented == []


LIGHT = [
    "suibus",
    "infra.cli",
    *(f"infra.commands.{name}" for name in COMMANDS),
    *sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for folder in ("schemas", "producers")
        for path in (ROOT / folder).rglob("[a-z]*.py")
    ),
]


def test_light_install_needs_no_engine_of_the_city() -> None:
    code = f"import sys, {', '.join(LIGHT)}; print(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert {"schemas", "suibus"} <= imported  # the code did run
    assert imported & ENGINES == set()
