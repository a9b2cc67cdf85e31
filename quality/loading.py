"""Import Great Expectations, which takes seconds, prints warnings and inspects the main program."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


def load_great_expectations() -> ModuleType:
    """Import Great Expectations without warnings and without its analytics; register the engine and expectations of Suibus."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    with warnings.catch_warnings(), _main_has_a_file():
        warnings.simplefilter("ignore")
        import great_expectations

        import quality.expectations
        import quality.one_scan  # noqa: F401 - importing the two registers them
    # The second logger sets its own level.
    for name in ("great_expectations", "great_expectations.data_context.types.base"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return great_expectations


@contextmanager
def _main_has_a_file() -> Iterator[None]:
    """Set `__main__.__file__` during the block, if the program has none (`python -c`).

    Great Expectations imports PySpark Connect, which takes a program without a file for its doctests and ends it.
    """
    main = sys.modules["__main__"]
    if hasattr(main, "__file__"):
        yield
        return
    main.__file__ = "-"
    try:
        yield
    finally:
        del main.__file__
