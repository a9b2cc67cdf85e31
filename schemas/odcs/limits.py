"""The limits of a column: its logicalTypeOptions, and the length in its physicalType.

An option that Suibus cannot enforce for every row is refused, never ignored.
"""

from __future__ import annotations

from typing import Any

from open_data_contract_standard.model import SchemaProperty

from schemas.dataset import Field, Kind, Limits
from schemas.odcs.patterns import check_pattern
from schemas.odcs.problems import Pointer, Problems
from schemas.odcs.written_values import FLOATING, WHOLE, add_not_of_type, number_of, value_of

_BOUNDS = {
    "minimum": "minimum", "maximum": "maximum",
    "exclusiveMinimum": "exclusive_minimum", "exclusiveMaximum": "exclusive_maximum", "multipleOf": "multiple_of",
}  # fmt: skip
_LENGTHS = {
    "minLength": "min_length", "maxLength": "max_length", "minItems": "min_length", "maxItems": "max_length",
}  # fmt: skip
_RANGE = tuple(_BOUNDS)[:4]
_OPTIONS: dict[Kind, tuple[str, ...]] = {
    "string": ("minLength", "maxLength", "pattern", "format"),
    "bytes": ("minLength", "maxLength", "format"),
    "boolean": (),
    **dict.fromkeys(FLOATING, (*_RANGE, "format")),  # no multipleOf: 0.3 % 0.1 is not 0 in binary
    **dict.fromkeys((*WHOLE, "decimal"), (*_BOUNDS, "format")),
    "date": (*_RANGE, "format"),
    "timestamp": (*_RANGE, "format", "timezone", "defaultTimezone"),
    "array": ("minItems", "maxItems"),
    "record": (),
}  # fmt: skip


def limits_of(
    prop: SchemaProperty, field: Field, arguments: tuple[int, ...], at: Pointer, problems: Problems
) -> Limits:
    """The limits of a property whose type is known; `arguments` are the numbers in parentheses after its physicalType."""
    at = (*at, "logicalTypeOptions")
    options = {name: v for name, v in (prop.logicalTypeOptions or {}).items() if v is not None}
    limited: dict[str, Any] = {}
    if field.kind in ("string", "bytes") and arguments:
        limited["max_length"] = arguments[0]
    for option, value in options.items():
        here = (*at, option)
        if option not in _OPTIONS[field.kind] and value is not False:
            known = ", ".join(_OPTIONS[field.kind]) or "none"
            problems.add(
                here,
                f"found {option}, which is not supported for {field.type_name}; supported are: {known}",
                f"{field.type_name} 不支持 {option}；可用：{known}",
            )
        elif option == "timezone" and value is not True:
            problems.add(
                here,
                f"found {value!r}, a time without zone, which names no instant; expected true: values carry their zone",
                f"实际为 {value!r}，即不带时区的时间，不指明确定的时刻；应为 true：值须带时区",
            )
        elif option in _BOUNDS:
            try:
                if option == "multipleOf" and not value > 0:
                    raise ValueError(value)
                limited[_BOUNDS[option]] = _bound(value, field)
            except (ValueError, TypeError):
                add_not_of_type(value, field, here, problems)
        elif option in _LENGTHS:
            if type(value) is not int or value < 0:
                problems.add(here, f"found {value!r}, expected a length", f"实际为 {value!r}，应为长度")
            else:
                shorter = (value, limited.get("max_length", value))
                limited[_LENGTHS[option]] = min(shorter) if option.startswith("max") else value
        elif option == "pattern":
            check_pattern(value, here, problems)
            limited["pattern"] = value
    limits = Limits(**limited)
    for low, high in (
        (limits.minimum, limits.maximum),
        (limits.exclusive_minimum, limits.exclusive_maximum),
        (limits.min_length, limits.max_length),
    ):
        if low is not None and high is not None and low > high:
            problems.add(
                at,
                f"the lower limit {low} is above the upper limit {high}: no row could pass",
                f"下限 {low} 大于上限 {high}：没有行能通过",
            )
    return limits


def _bound(value: Any, field: Field) -> Any:
    """A limit, converted to the column's type; a limit of a column of whole numbers may be a fraction."""
    if field.kind in WHOLE and isinstance(value, float):
        number = number_of(value, "decimal")
        return int(number) if number == int(number) else number
    return value_of(value, field)
