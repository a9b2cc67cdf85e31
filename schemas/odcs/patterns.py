"""Check that a regular expression means the same in Python (on a node), in Java (in the city) and in ECMA-262."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from schemas.odcs.problems import Pointer, Problems


def check_pattern(pattern: Any, at: Pointer, problems: Problems) -> None:
    """Add a problem if a pattern is not a regular expression, or if Python or Java reads it differently than ECMA-262."""
    unportable = next(_unportable(pattern), None) if isinstance(pattern, str) else None
    try:
        if not unportable:
            re.compile(pattern)
    except (re.error, TypeError) as error:
        problems.add(
            at,
            f"pattern {pattern!r} is not a regular expression ({error}); expected one as ECMA-262 defines",
            f"pattern {pattern!r} 不是合法的正则表达式（{error}）；应符合 ECMA-262",
        )
        return
    if unportable:
        problems.add(
            at,
            f"pattern {pattern!r} contains {unportable!r}, which Python and Java read differently; expected only what ECMA-262 defines",
            f"pattern {pattern!r} 含有 {unportable!r}，Python 与 Java 对其解释不同；应只用 ECMA-262 规定的写法",
        )


_PATTERN_PART = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{\d+(?:,\d*)?\}|\(\?[ims]*(?:[:=!>)]|<[=!])|\(\?.|.", re.DOTALL
)


def _unportable(pattern: str) -> Iterator[str]:
    """The parts of a pattern whose meaning differs between the three."""
    for part in _PATTERN_PART.findall(pattern):
        if part[0] == "\\":
            if part[1] in "ZUNv0":
                yield part
        elif part[0] == "[" and len(part) > 1:
            inner = re.sub(r"\\[^bBAZ0v]", "", part[1:-1].removeprefix("^"))
            if inner.startswith("]") or re.search(r"[\[\\]|&&|--|~~|\|\|", inner):
                yield part
        elif part == "{" or (part.startswith("(?") and len(part) == 3 and part[2] not in ":=!>"):
            yield part
