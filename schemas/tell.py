"""How a long step tells a person what is going on: a `Tell` is passed down to whatever has something to say."""

from __future__ import annotations

from collections.abc import Callable

Tell = Callable[[str, str], None]  # takes a message in English and in Chinese; may be called from several threads


def quiet(_en: str, _zh: str) -> None:
    """Tell nobody."""
