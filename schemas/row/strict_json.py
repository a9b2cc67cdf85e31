"""Parse JSON strictly (RFC 8259) and with exact decimals. Python's own parser accepts NaN and duplicate names."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, NoReturn

from schemas.row.message_text import show


def parse_json(text: str) -> Any:
    """The value of a JSON text, a number with a fraction or exponent as Decimal.

    ValueError for NaN, Infinity, a name given twice in one object, or nesting too deep for this process.
    """
    try:
        return _decoder.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {show(twice)} is given twice")
    return members


_decoder = json.JSONDecoder(parse_float=Decimal, parse_constant=_refuse_constant, object_pairs_hook=_object)
