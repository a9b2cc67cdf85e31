"""The eleven districts of the city, which alone may publish."""

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
    """The code itself, if it is one of the eleven; InputError lists them otherwise."""
    known = districts()
    if code not in known:
        listed, listed_zh = (
            ", ".join(f"{c} {n}" for c, n in known.items()),
            "、".join(f"{c} {n}" for c, n in known.items()),
        )
        raise InputError(
            f"District {code!r} is not known. The districts are: {listed}. Give one of these codes.",
            f"没有编码为 {code!r} 的区。可用的区：{listed_zh}。请使用其中一个编码。",
        )
    return code
