"""The eleven districts of the city. Only they may publish."""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files

from schemas.errors import InputError


@cache
def districts() -> dict[str, str]:
    """Code to Chinese name, in code order (source: schemas/districts.csv)."""
    text = files("schemas").joinpath("districts.csv").read_text("utf-8")
    return {row["code"]: row["name"] for row in csv.DictReader(text.splitlines())}


def check_district(code: str) -> str:
    """Returns the code if it is that of a district; InputError lists the districts otherwise."""
    known = districts()
    if code not in known:
        listed = [f"{c} {n}" for c, n in known.items()]
        raise InputError(
            f"District {code!r} is not known. The districts are: {', '.join(listed)}. Give one of these codes.",
            f"没有编码为 {code!r} 的区。可用的区：{'、'.join(listed)}。请使用其中一个编码。",
        )
    return code
