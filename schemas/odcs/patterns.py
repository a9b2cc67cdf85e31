"""Regular expressions that mean the same to a node (Python's `re`), to the city (Java), and in ECMA-262."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from schemas.odcs.standard import Pointer, Problems


def check_pattern(pattern: Any, at: Pointer, problems: Problems) -> None:
    """Add a problem for a pattern that is no regular expression, or that Python or Java reads otherwise than ECMA-262."""
    strange = next(_unportable(pattern), None) if isinstance(pattern, str) else None
    try:
        if not strange:
            re.compile(pattern)
    except (re.error, TypeError) as error:
        problems.add(
            at,
            f"pattern {pattern!r} is not a regular expression ({error}); expected one of ECMA-262",
            f"pattern {pattern!r} 不是合法的正则表达式（{error}）；应符合 ECMA-262",
        )
        return
    if strange:
        problems.add(
            at,
            f"pattern {pattern!r} holds {strange!r}, which Python and Java read differently; expected what ECMA-262 has",
            f"pattern {pattern!r} 含有 {strange!r}，Python 与 Java 对它的理解不同；应使用 ECMA-262 的写法",
        )


_PATTERN_PART = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{\d+(?:,\d*)?\}|\(\?[ims]*(?:[:=!>)]|<[=!])|\(\?.|.", re.DOTALL
)


def _unportable(pattern: str) -> Iterator[str]:
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
