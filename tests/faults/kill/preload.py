"""Imported once, by the process that all processes under test are forked from: importing what the commands need takes seconds.

That process ignores an ImportError of this module, so `tests.faults.kill` calls `missing` before it starts one.
"""

from tests.faults.kill.points import missing

missing()  # imports all that is named in `points`
