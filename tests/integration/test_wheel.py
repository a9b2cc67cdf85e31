"""A wheel contains the whole program: installed in an empty environment, every command finds the files shipped with the code."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from infra.demo.rounds import REGISTER
from schemas.contract_folders import SHIPPED
from schemas.districts import districts

ROOT = Path(__file__).parents[2]
SHIPPED_PARTS = ("infra", "pipelines", "producers", "quality", "schemas", "suibus.py", "pyproject.toml", "LICENSE")
# Parts of an installed Suibus that must not be in the new environment.
OWN = ("suibus", "__editable__", *SHIPPED_PARTS[:5])
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def execute(
    *words: str | Path, cwd: Path, status: int = 0, **variables: str | Path
) -> subprocess.CompletedProcess[str]:
    """Run a command with other Python and Suibus variables than this process has."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SUIBUS_", "VIRTUAL"))}
    own |= {name: str(value) for name, value in variables.items()}
    done = subprocess.run([*map(str, words)], cwd=cwd, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with the wheel of this checkout and links to all other installed packages."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SHIPPED_PARTS:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source / name)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    execute(*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, source, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    execute(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    interpreter = folder / "venv" / "bin" / "python"
    execute(*pip, "--python", interpreter, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    others = folder / "others"
    others.mkdir()
    for path in {p for name in ("purelib", "platlib") for p in Path(sysconfig.get_path(name)).iterdir()}:
        if not path.name.startswith(OWN) and path.suffix != ".pth":
            (others / path.name).symlink_to(path)
    (site,) = (folder / "venv" / "lib").glob("*/site-packages")
    (site / "others.pth").write_text(f"{others}\n", "utf-8")
    return interpreter


@pytest.fixture
def run(installed: Path, tmp_path: Path) -> Run:
    """Run the installed Suibus or Python, in an empty folder, with an empty home and a bus that does not answer."""

    def run(*words: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
        program = installed.with_name(str(words[0]))
        away: dict[str, str | Path] = {"SUIBUS_HOME": tmp_path / "home", "SUIBUS_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
        return execute(program, *words[1:], cwd=tmp_path, status=status, **away)

    return run


def test_what_runs_is_the_installed_wheel_and_says_its_version(run: Run, installed: Path) -> None:
    file = Path(run("python", "-c", "import suibus; print(suibus.__file__)").stdout.strip())
    assert file.is_relative_to(installed.parents[1])
    assert version("suibus") in run("suibus", "--version").stdout


def test_every_shipped_contract_is_served(run: Run) -> None:
    lines = run("suibus", "contract", "check").stdout.splitlines()
    assert len(lines) == len(list(SHIPPED.glob("*.yaml")))
    assert all(line.startswith("ok ") for line in lines)
    assert "gz.up.<district>.grassroots_division.v1" in run("suibus", "contract", "show", "grassroots_division").stdout


def test_registers_of_the_demo_are_shipped(run: Run) -> None:
    code = "from infra.demo.rounds import REGISTER; print(*sorted(p.name for p in REGISTER.iterdir()))"
    listed = run("python", "-c", code).stdout.split()
    assert listed == sorted(p.name for p in REGISTER.iterdir()) == [f"{code}.csv" for code in districts()]


def test_rows_published_while_the_bus_is_away_are_kept(run: Run, tmp_path: Path) -> None:
    file = shutil.copy(REGISTER / "440106.csv", tmp_path)
    with (REGISTER / "440106.csv").open(encoding="utf-8", newline="") as opened:
        rows = len(list(csv.DictReader(opened)))
    publish = ("suibus", "publish", "grassroots_division", file, "--district", "440106", "--snapshot", "--timeout", "1")
    assert f"accepted {rows:,}" in run(*publish, status=3).stdout
    assert f"{rows:,} rows wait" in run("suibus", "flush", "--district", "440106", "--timeout", "1", status=3).stderr
