"""Imported once, by the process that all processes under test are forked from: importing what the commands need takes seconds.

That process ignores an ImportError of this module, so `tests.faults.kill` calls `missing` before it starts one.
"""

import sys

from tests.faults.kill.points import missing

vars(sys.modules["__main__"]).setdefault(
    "__file__", __file__
)  # PySpark takes a program without a file for its doctests
missing()  # imports all that is named in `points`
