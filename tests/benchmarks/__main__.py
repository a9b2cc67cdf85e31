"""The benchmarks: `python -m tests.benchmarks [--quick] [NAME]…`; without a name, all of them.

`--quick` takes smaller data, and lets Java compile once instead of again for a speed that would come too late.
Each is a module with `run(quick)`, which yields rows and curves, and runs in a process of its own. The table is printed,
build/bench.json is written (rows of benchmarks that were not run this time stay), and curves are drawn to build/<id>.png.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.rows import Curve, Row

NAMES = ("publish", "ingest", "merge", "gate", "query", "freshness", "breadth", "start", "scale")
BUILD = Path("build")


def one(name: str, quick: bool, out: Path) -> None:
    """Run one benchmark in this process; its rows go to a file as they come, its curves to pictures."""
    rows: list[dict[str, Any]] = []
    for found in import_module(f"tests.benchmarks.{name}").run(quick):
        if isinstance(found, Curve):
            draw(found)
            continue
        assert isinstance(found, Row)
        rows.append({**found.as_json(), "benchmark": name, "quick": quick})
        out.write_text(json.dumps(rows))
        show(rows[-1:])


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
    return _number(middle) if low in (None, high) else f"{_number(middle)} ({_number(low)} to {_number(high)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def main(arguments: list[str]) -> int:
    """Run the benchmarks that are named; 0 if each ran, whatever its figures are."""
    quick = "--quick" in arguments
    named = [a for a in arguments if not a.startswith("--")]
    BUILD.mkdir(exist_ok=True)
    if "--one" in arguments:
        one(named[0], quick, BUILD / f"bench.{named[0]}.json")
        return 0
    target = BUILD / "bench.json"
    rows = json.loads(target.read_text()) if target.is_file() else []
    failed = []
    for name in named or NAMES:
        print(f"{name}: load {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores", flush=True)
        began, part = time.monotonic(), BUILD / f"bench.{name}.json"
        part.unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.benchmarks", "--one", name, *(["--quick"] if quick else [])]
        java = {"JDK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1"} if quick else {}
        if subprocess.run(command, check=False, env=os.environ | java).returncode:
            failed.append(name)
        found = json.loads(part.read_text()) if part.is_file() else []
        part.unlink(missing_ok=True)
        rows = [row for row in rows if row["benchmark"] != name] + found
        rows.sort(key=lambda row: NAMES.index(row["benchmark"]))
        target.write_text(json.dumps(rows, indent=1, ensure_ascii=False))
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    show(rows)
    print(f"{target} has these {len(rows)} rows" + (f"; FAILED: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
