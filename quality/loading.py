"""Importing Great Expectations: it takes seconds, warns, and looks at the program that it is imported into."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


def load_great_expectations() -> ModuleType:
    """Great Expectations with Suibus's engine and expectations registered, quiet and without network use of its own."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    with warnings.catch_warnings(), _main_has_a_file():
        warnings.simplefilter("ignore")
        import great_expectations

        import quality.expectations
        import quality.one_scan  # noqa: F401 - importing the two registers them
    for name in ("great_expectations", "great_expectations.data_context.types.base"):  # the second sets its own level
        logging.getLogger(name).setLevel(logging.ERROR)
    return great_expectations


@contextmanager
def _main_has_a_file() -> Iterator[None]:
    """Give a program without a file (`python -c`) one meanwhile.

    Great Expectations looks for PySpark Connect, which takes such a program for its own doctests and ends it.
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
