"""The values of rows as JSON has them."""

from __future__ import annotations

import base64
import json
import math
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any


def plain(value: Any) -> Any:
    """A value for JSON: decimals, times, NaN and infinity as text, bytes as base64."""
    if isinstance(value, dict):
        return {k if isinstance(k, str) else text(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, datetime):
        return _moment(value)
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    if isinstance(value, date | Decimal) or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)
    return value


def text(value: Any) -> str:
    """A value as one text."""
    found = plain(value)
    return json.dumps(found, ensure_ascii=False) if isinstance(found, dict | list) else str(found)


def _moment(value: datetime) -> str:
    """A time in UTC, ending in Z. Spark returns naive datetimes in this process's time zone."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
