"""The list of commands is complete and right, and is shown without importing any of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from infra.cli import COMMANDS, main

ROOT = Path(__file__).parents[3]


def test_every_module_of_a_command_is_listed() -> None:
    modules = {path.stem for path in (ROOT / "infra" / "commands").glob("[a-z]*.py")}
    assert modules == COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_listed_help_is_the_commands_own(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.name == name
    assert COMMANDS[name] == (command.help or "").partition("\n")[0]


def test_help_lists_every_command_with_its_help() -> None:
    shown = " ".join(CliRunner().invoke(main, ["--help"]).stdout.split())
    for name, text in sorted(COMMANDS.items()):
        assert f"{name} {text}" in shown
        shown = shown.partition(f"{name} {text}")[2]


def test_help_imports_no_command_and_nothing_slow() -> None:
    code = (
        "import sys\nfrom infra.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(*(m for m in sys.modules if m.partition('.')[0] in ('kafka', 'pydantic', 'rich', 'sqlalchemy', 'yaml')"
        " or m.startswith('infra.commands')), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Commands:" in done.stdout
    assert done.stderr.split() == []


def test_command_that_is_not_listed_is_refused_and_the_nearest_is_named() -> None:
    done = CliRunner().invoke(main, ["publsh"])
    assert done.exit_code == 2
    assert "No such command 'publsh'. Did you mean 'publish'?" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_output_that_cannot_be_written_is_told_without_a_traceback() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "infra.cli", "contract", "show", "flights"]
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 3
    assert "Reading or writing failed: No space left on device" in done.stderr
    assert "读写失败" in done.stderr
    assert "Traceback" not in done.stderr
