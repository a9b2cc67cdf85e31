"""The dataset, district, batch and so on that the current thread works on, added to each of its log lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

_about: ContextVar[Mapping[str, str]] = ContextVar("about", default=MappingProxyType({}))


@contextmanager
def log_context(**about: str) -> Iterator[None]:
    """Within the block, every log line of this thread has these names and values, and those of the enclosing contexts.

    Only names of datasets and districts, versions and offsets belong here, never values of a record.
    """
    token = _about.set({**_about.get(), **about})
    try:
        yield
    finally:
        _about.reset(token)


def log_about() -> Mapping[str, str]:
    """The names and values of all contexts around this call."""
    return _about.get()
