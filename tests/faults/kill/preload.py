"""Imported once by the process that all processes under test are forked from: what the commands will need, which takes seconds."""

import importlib
import sys

from tests.faults.kill.points import missing

vars(sys.modules["__main__"]).setdefault(
    "__file__", __file__
)  # PySpark takes a program without a file for its doctests
for name in ("great_expectations", "infra.cli", "infra.terminal.publish", "quality.one_scan"):
    importlib.import_module(name)
missing()  # imports whatever has a point
