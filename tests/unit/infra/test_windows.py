"""What a district's node imports needs nothing that only POSIX has, so that it starts on Windows.

Not tested on Windows itself: the modules that Windows lacks are hidden from a process that is told it runs on Windows.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

AS_ON_WINDOWS = '''
import importlib, pkgutil, signal, sys, types

# What others bring is imported as on this machine: it chooses its own modules by the system.
import asyncio, concurrent.futures, ctypes, logging.handlers, multiprocessing, selectors, socket, sqlite3, ssl, subprocess, tempfile
import click, click.testing, fastavro, jsonschema, kafka, kafka.admin, open_data_contract_standard.model, prometheus_client
import pydantic, pydantic_settings, rich.console, rich.progress, rich.table, sqlalchemy, sqlalchemy.dialects.sqlite, yaml

POSIX = {"fcntl", "pwd", "grp", "resource", "termios", "tty", "pty", "posix", "spwd", "crypt", "syslog"}

class Hidden:
    """Finds no module that Windows lacks."""

    def find_spec(self, name, path=None, target=None):
        if name in POSIX:
            raise ModuleNotFoundError(f"{name} is asked for, which Windows lacks", name=name)
        return None

sys.meta_path.insert(0, Hidden())
for name in POSIX:
    sys.modules.pop(name, None)
for name in ("SIGKILL", "SIGHUP", "SIGCHLD", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGPIPE", "SIGQUIT"):
    delattr(signal, name)
sys.platform = "win32"
sys.modules["msvcrt"] = types.SimpleNamespace(LK_NBLCK=2, LK_UNLCK=0, locking=lambda *_: None)

try:
    import fcntl
except ModuleNotFoundError:
    pass
else:
    sys.exit("fcntl was not hidden")

import producers, schemas

for package in (schemas, producers):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if module.name != "producers.send.librdkafka":  # the extra `fast`, which may be absent
            importlib.import_module(module.name)
import suibus
from infra.cli import main
from infra.settings import read_settings
import infra.node_file
for name in ("publish", "flush", "receipts", "contract"):
    importlib.import_module(f"infra.commands.{name}")

from click.testing import CliRunner

for words in (["--help"], ["contract", "check"], ["publish", "--help"]):
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert done.exit_code == 0, (words, done.output)
    assert done.output, words
done = CliRunner().invoke(main, ["publish", sys.argv[1], sys.argv[2], "--district", "440106", "--timeout", "0.2"])
print(done.output)
sys.exit(done.exit_code)
'''


def test_node_starts_checks_contracts_and_accepts_rows_without_what_windows_lacks(tmp_path: Path) -> None:
    register = ROOT / "infra" / "demo" / "register" / "440106.csv"
    done = subprocess.run(
        [sys.executable, "-c", AS_ON_WINDOWS, "grassroots_division", str(register)],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={"PATH": "", "SUIBUS_HOME": str(tmp_path), "SUIBUS_BOOTSTRAP_SERVERS": "127.0.0.1:1", "LANG": "en_GB.UTF-8"},
    )  # fmt: skip
    assert done.returncode == 3, f"{done.stdout}\n{done.stderr}"
    assert "accepted 230" in done.stdout
    assert "230 wait in the outbox" in done.stdout
