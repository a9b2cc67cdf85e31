"""Who is told of the work at hand, and what it is about (dataset, district, batch), for whoever writes a log line meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

Tell = Callable[
    [str, str], None
]  # tells a person what is going on, English and Chinese; may be called from several threads


def quiet(_en: str, _zh: str) -> None:
    """Tell nobody."""


_about: ContextVar[Mapping[str, str]] = ContextVar("about", default=MappingProxyType({}))


@contextmanager
def log_context(**about: str) -> Iterator[None]:
    """Every line that is logged within says what it is about; inner words come beside the outer ones.

    Names only: of datasets, districts, versions and offsets, never what a record holds.
    """
    token = _about.set({**_about.get(), **about})
    try:
        yield
    finally:
        _about.reset(token)


def log_about() -> Mapping[str, str]:
    """What the work at hand is about."""
    return _about.get()
