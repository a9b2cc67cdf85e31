"""The benchmarks: `python -m tests.benchmarks [--quick] [NAME]…`; without a name, all of them.

Each is a module with `run(quick)`, which yields rows and curves, and runs in a process of its own. `--quick` uses less data, and one
process with one Spark for all, because Java's loading and compiling takes most of a short run; figures that mean nothing at that
size are left out. The table is printed, build/bench.json is written (rows of benchmarks that were not run this time stay), and
curves are drawn to build/<id>.png.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from infra.jvm.spark import spark_session
from infra.settings import Settings
from tests.benchmarks.rows import Curve, Row
from tests.own_settings import forget_own_settings

NAMES = ("publish", "ingest", "merge", "gate", "query", "freshness", "breadth", "start", "scale")
BUILD = Path("build")
PART = BUILD / "bench.part.json"  # rows of the process under way


def these(names: Sequence[str], quick: bool) -> bool:
    """Run benchmarks in this process; write rows to a file as they come, and curves to pictures. False if one failed."""
    rows: list[dict[str, Any]] = []
    passed = True
    with TemporaryDirectory(ignore_cleanup_errors=True) as home:
        if quick:
            spark_session(Settings(home=Path(home)))  # each benchmark uses this session and does not stop it
        for name in names:
            print(f"{name}: load {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores", flush=True)
            began = time.monotonic()
            try:
                for found in import_module(f"tests.benchmarks.{name}").run(quick):
                    if isinstance(found, Curve):
                        draw(found)
                        continue
                    assert isinstance(found, Row)
                    rows.append({**found.as_json(), "benchmark": name, "quick": quick})
                    PART.write_text(json.dumps(rows))
                    show(rows[-1:])
            except Exception:  # printed, and the next one is run; the exit status is 1
                traceback.print_exc()
                passed = False
            print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    return passed


def draw(curve: Curve) -> None:
    """One picture of a curve."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for label, y in curve.lines.items():
        axes.plot(curve.x, y, marker="o", label=label)
    axes.set(title=curve.title, xlabel=curve.x_label, ylabel=curve.y_label)
    axes.set_ylim(0, 1.1 * max(max(y) for y in curve.lines.values()))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(BUILD / f"{curve.id}.png", dpi=120)
    plt.close(figure)


def show(rows: Iterable[dict[str, Any]]) -> None:
    """The table of ratios."""
    table = Table("id", "what", "ours", "peer", "unit", "ratio", "target", "reached")
    for row in rows:
        sign = "≥" if row["better"] == "higher" else "≤"
        peer = f"{_spread(row, 'peer')}\n{row['peer_name']}" if row["peer"] is not None else "-"
        target = "-" if row["target"] is None else f"{sign} {row['target']:g}"
        reached = {True: "yes", False: "NO", None: "-"}[row["reached"]]
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
        table.add_row(row["id"], row["title"], _spread(row, "ours"), peer, row["unit"], ratio, target, reached)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _spread(row: dict[str, Any], side: str) -> str:
    low, middle, high = row.get(f"{side}_min"), row[side], row.get(f"{side}_max")
    return (
        _number(middle)
        if low is None or high is None or low == high
        else f"{_number(middle)} ({_number(low)} to {_number(high)})"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def main(arguments: list[str]) -> int:
    """Run the named benchmarks; 0 if each ran to its end, whatever its figures are."""
    forget_own_settings()
    quick = "--quick" in arguments
    names = [a for a in arguments if not a.startswith("--")] or list(NAMES)
    if "--here" in arguments:
        return 0 if these(names, quick) else 1
    BUILD.mkdir(exist_ok=True)
    target = BUILD / "bench.json"
    rows = json.loads(target.read_text()) if target.is_file() else []
    failed = []
    for some in [names] if quick else [[name] for name in names]:
        PART.unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.benchmarks", "--here", *some, *(["--quick"] if quick else [])]
        if subprocess.run(command, check=False).returncode:
            failed += some
        found = json.loads(PART.read_text()) if PART.is_file() else []
        PART.unlink(missing_ok=True)
        rows = [row for row in rows if row["benchmark"] not in some] + found
        rows.sort(key=lambda row: NAMES.index(row["benchmark"]))
        target.write_text(json.dumps(rows, indent=1, ensure_ascii=False))
    show(rows)
    print(f"{target} has these {len(rows)} rows" + (f"; of {', '.join(failed)} not all ran" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
