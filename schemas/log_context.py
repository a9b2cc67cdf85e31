"""What the work at hand is about (dataset, district, batch), for every log line that is written meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

_about: ContextVar[Mapping[str, str]] = ContextVar("about", default=MappingProxyType({}))


@contextmanager
def log_context(**about: str) -> Iterator[None]:
    """Every line that this thread logs within has these words, beside those of the contexts around it.

    Names only: of datasets, districts, versions and offsets, never what a record holds.
    """
    token = _about.set({**_about.get(), **about})
    try:
        yield
    finally:
        _about.reset(token)


def log_about() -> Mapping[str, str]:
    """The words of all contexts around this call."""
    return _about.get()
