"""Values that a contract writes (allowed values, limits), converted to the type of their column."""

from __future__ import annotations

import math
import struct
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from schemas.dataset import Field, Kind
from schemas.odcs.problems import Pointer, Problems

WHOLE: tuple[Kind, ...] = ("int", "long")
FLOATING: tuple[Kind, ...] = ("float", "double")


def value_of(value: Any, field: Field) -> Any:
    """A value written in a contract, converted to the column's type; ValueError if the type does not have it."""
    kind = field.kind
    if (kind == "string" and isinstance(value, str)) or (kind == "boolean" and isinstance(value, bool)):
        return value
    if kind == "date" and isinstance(value, str):
        return date.fromisoformat(value)
    if kind == "timestamp" and isinstance(value, str):
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError(value)
        return moment.astimezone(UTC)
    if kind in WHOLE and type(value) is int:
        return value
    if kind in (*FLOATING, "decimal") and isinstance(value, int | float) and not isinstance(value, bool):
        return number_of(value, kind)
    raise ValueError(value)


def number_of(value: Any, kind: Kind) -> Any:
    """The number as a value of the kind: a float rounded to 32 bits, a double or decimal unchanged."""
    try:
        number = Decimal(str(value))
        if kind == "float":
            rounded: float = struct.unpack("<f", struct.pack("<f", float(number)))[0]
            number = Decimal(rounded)
        if not (number.is_finite() and math.isfinite(float(number))):
            raise ValueError(value)
        return float(number) if kind in FLOATING else number
    except (InvalidOperation, OverflowError):
        raise ValueError(value) from None


def allowed_values(values: Any, field: Field, at: Pointer, problems: Problems) -> list[Any]:
    """The values of a list, converted to the column's type; a problem is added for each that the type does not have."""
    if not isinstance(values, list) or not values:
        problems.add(at, f"found {values!r}, expected a list of values", f"实际为 {values!r}，应为值的列表")
        return []
    typed = []
    for i, value in enumerate(values):
        try:
            typed.append(value_of(value, field))
        except ValueError:
            add_not_of_type(value, field, (*at, i), problems)
    return typed


def add_not_of_type(value: Any, field: Field, at: Pointer, problems: Problems) -> None:
    """Add the problem that the column's type does not have this value."""
    quote = field.kind == "string" and value is not None
    zoned = field.kind == "timestamp"
    problems.add(
        at,
        f"found {value!r}, expected a {field.type_name}"
        + (": put it in quotes" if quote else ", with its zone" if zoned else ""),
        f"实际为 {value!r}，应为 {field.type_name}" + ("：请加引号" if quote else "（须带时区）" if zoned else ""),
    )
