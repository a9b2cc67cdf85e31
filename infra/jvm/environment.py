"""The environment variables that a JVM is started with."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager


def jvm_environment(without: Collection[str] = (), **more: str) -> dict[str, str]:
    """The environment for a JVM: this process's, without the names in `without`, with those in `more`, in UTF-8.

    In the C locale Java turns the Chinese in a path into question marks.
    """
    kept = {name: value for name, value in os.environ.items() if name not in without}
    return {**kept, **more, "LC_ALL": "C.UTF-8"}


@contextmanager
def exchanged_environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """Replace this process's environment for a while, for a library that passes it on to the processes it starts."""
    before = dict(os.environ)
    _become(wanted)
    try:
        yield
    finally:
        _become(before)


def _become(wanted: Mapping[str, str]) -> None:
    """Change only what differs: another thread may start a process meanwhile and needs the rest."""
    for name in os.environ.keys() - wanted.keys():
        del os.environ[name]
    os.environ.update(wanted)
