"""Format values and names for messages: short, on one line, and always valid UTF-8."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

SHOWN = 60  # characters of a value that a message shows
_surrogate = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    r"""The text with lone surrogates escaped: one that stands for an undecodable byte as \xNN, any other as \uNNNN."""
    if text.isascii():
        return text
    return _surrogate.sub(
        lambda m: f"\\x{ord(m[0]) - 0xDC00:02x}" if "\udc80" <= m[0] <= "\udcff" else f"\\u{ord(m[0]):04x}",
        text,
    )


def show(value: Any) -> str:
    """A value in at most `SHOWN` characters: text in quotes with line ends escaped, longer values cut with an ellipsis."""
    if isinstance(value, str):
        text = json.dumps(clean(value[: SHOWN + 1]), ensure_ascii=False)
    else:
        text = str(value) if isinstance(value, (int, float, Decimal)) else repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def did_you_mean(name: str, known: Iterable[str]) -> tuple[str, str]:
    """A hint for an unknown column, in English and Chinese: the most similar known name, or all known names."""
    known = list(known)
    if close := get_close_matches(name, known, 1, 0.6):
        return f"did you mean {close[0]}?", f"是否应为 {close[0]}？"
    return f"the contract has {', '.join(known)}", f"契约中的列：{'、'.join(known)}"
