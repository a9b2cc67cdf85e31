"""Progress messages of a long step: a `Tell` is passed down to the code that reports."""

from __future__ import annotations

from collections.abc import Callable

Tell = Callable[[str, str], None]  # takes a message in English and in Chinese; may be called from several threads


def quiet(_en: str, _zh: str) -> None:
    """Drop the message."""
