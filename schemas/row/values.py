"""Converters from the value that a source gives to one that Avro keeps exactly, one for each type.

A converter takes a value that is not null and returns it in the column's type, or raises ValueRefusedError. It never
guesses, rounds or truncates. Without it, fastavro would write 3.7 as 3 and True as 1, and shift a time without zone by the
zone of the host.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Context, Decimal, DecimalException, Inexact, InvalidOperation
from typing import Any, NoReturn

from schemas.dataset import Field, Limits
from schemas.row.message_text import clean, did_you_mean
from schemas.row.strict_json import parse_json

Convert = Callable[[Any], Any]

INT_RANGE = {"int": (-(2**31), 2**31 - 1), "long": (-(2**63), 2**63 - 1)}


class ValueRefusedError(ValueError):
    """Why a value is refused. `path` leads to the wrong part of it (``[2].price``), and `found` is that part."""

    def __init__(self, en: str, zh: str, path: str = "", found: Any = None) -> None:
        super().__init__(en)
        self.en, self.zh, self.path, self.found = en, zh, path, found


def typed_converter(f: Field) -> Convert:
    """The converter for typed values: of JSON, Parquet, Avro or Python."""
    return _converter(f, False)


def text_converter(f: Field) -> Convert:
    """The converter for the text of a CSV cell that is not empty; an array or record is JSON text."""
    inner = _converter(f, False)
    if f.kind in ("array", "record"):
        return _json_converter(f, inner)
    if f.kind == "boolean":
        words = {"true": True, "false": False}

        def boolean(value: str) -> bool:
            flag = words.get(value.lower())
            if flag is None:
                raise ValueRefusedError("not a boolean: write true or false", "不是布尔值：请写 true 或 false")
            return flag

        return boolean
    if f.kind in INT_RANGE:
        is_int = re.compile(r"[+-]?[0-9]{1,40}", re.ASCII).fullmatch

        def integer(value: str) -> Any:
            if not is_int(value):
                raise ValueRefusedError(*_not_integer(f.kind))
            return inner(int(value))

        low, high = _range_without_checks(f)
        most_digits = len(str(high))

        def quick_integer(value: str) -> Any:
            if value.isdigit() and value.isascii() and len(value) <= most_digits and low <= (n := int(value)) <= high:
                return n
            return integer(value)

        return quick_integer
    if f.kind in ("float", "double"):
        is_number = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII).fullmatch

        def number(value: str) -> Any:
            if len(value) > 400 or not is_number(value):
                raise ValueRefusedError(
                    "not a number: write digits such as 12.5; NaN and infinity are not accepted",
                    "不是数字：请写 12.5 这样的数字；不接受 NaN 和无穷大",
                )
            return inner(float(value))

        return number
    return inner


def sql_converter(f: Field) -> Convert:
    """The converter for a value of a database: typed, but a boolean may be 0 or 1, and an array or record JSON text."""
    inner = _converter(f, True)
    if f.kind not in ("array", "record"):
        return inner
    from_json = _json_converter(f, inner)
    return lambda value: from_json(value) if isinstance(value, str) else inner(value)


def _json_converter(f: Field, inner: Convert) -> Convert:
    def from_json(value: str) -> Any:
        try:
            parsed = parse_json(value)
        except ValueError as error:
            raise ValueRefusedError(
                f"not JSON text ({error}): expected {f.type_name} written as JSON",
                f"不是有效的 JSON 文本（{error}）：应为以 JSON 书写的 {f.type_name}",
            ) from None
        return inner(parsed)

    return from_json


def _not_integer(kind: str) -> tuple[str, str]:
    return f"not a whole number: expected {kind}, such as 42", f"不是整数：应为 {kind}，例如 42"


def _expected(what: str, what_zh: str, value: Any) -> NoReturn:
    kind = {type(None): "null", dict: "object", list: "array", str: "text", bool: "boolean"}.get(
        type(value), type(value).__name__
    )
    raise ValueRefusedError(
        f"expected {what}, found {kind}: correct the type", f"应为{what_zh}，实为 {kind}：请更正类型"
    )


def _converter(f: Field, sql: bool) -> Convert:
    """The converter for typed values, which also checks the field's limits; `sql`: 0 and 1 are booleans too."""
    convert: Convert
    if f.kind in INT_RANGE:
        convert = _integer(f.kind)
    elif f.kind == "decimal":
        convert = _decimal(f.precision, f.scale)
    elif f.kind == "array":
        convert = _array(f, sql)
    elif f.kind == "record":
        convert = _record(f, sql)
    elif f.kind == "boolean":
        convert = _boolean_sql if sql else _boolean
    else:
        convert = _SIMPLE[f.kind]
    if f.limits == Limits():
        return convert
    return _limited(convert, f.limits)


def _range_without_checks(f: Field) -> tuple[int, int]:
    """The lowest and highest whole number that need no further check; an empty range (1, 0) if there are other limits."""
    low, high = INT_RANGE[f.kind]
    limits = f.limits
    if limits == Limits(minimum=limits.minimum, maximum=limits.maximum):
        with suppress(TypeError, ValueError):
            low = low if limits.minimum is None else max(low, math.ceil(limits.minimum))
            high = high if limits.maximum is None else min(high, math.floor(limits.maximum))
            return low, high
    return 1, 0


def _string(value: Any) -> str:
    if not isinstance(value, str):
        _expected("text", "文本", value)
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError as error:
        code, position = ord(value[error.start]), error.start + 1
        if 0xDC80 <= code <= 0xDCFF:
            byte = f"0x{code - 0xDC00:02X}"
            raise ValueRefusedError(
                f"not valid UTF-8: byte {byte} at character {position}; save the file as UTF-8 "
                "or name its encoding with --encoding",
                f"不是有效的 UTF-8：第 {position} 个字符处有字节 {byte}；请将文件存为 UTF-8，或用 --encoding 指明编码",
            ) from None
        raise ValueRefusedError(
            f"lone surrogate U+{code:04X}, which is half a character, at character {position}: correct the text",
            f"第 {position} 个字符处为孤立代理项 U+{code:04X}，不是完整的字符：请更正文本",
        ) from None
    return value


def _boolean(value: Any) -> bool:
    if value is True or value is False:
        return bool(value)
    _expected("a boolean, true or false", "布尔值 true 或 false", value)


def _boolean_sql(value: Any) -> bool:
    if type(value) is int and value in (0, 1):
        return value == 1
    return _boolean(value)


def _integer(kind: str) -> Convert:
    low, high = INT_RANGE[kind]

    def integer(value: Any) -> int:
        if type(value) is not int:
            if isinstance(value, (float, Decimal)):
                raise ValueRefusedError(*_not_integer(kind))
            _expected(f"a whole number ({kind})", f"整数（{kind}）", value)
        if low <= value <= high:
            return value
        raise ValueRefusedError(
            f"out of range for {kind}: from {low} to {high}; correct it or ask for a wider type",
            f"超出 {kind} 的范围：{low} 至 {high}；请更正，或申请更宽的类型",
        )

    return integer


def _double(value: Any) -> float:
    if type(value) is not float:
        if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
            _expected("a number", "数字", value)
        try:
            value = float(value)
        except (OverflowError, ValueError):  # an int beyond 1.8e308; a signalling NaN
            value = math.inf
    if math.isfinite(value):
        return value  # type: ignore[no-any-return]
    raise ValueRefusedError(
        "NaN, infinity or out of range: expected a finite number; leave it empty if the value is unknown",
        "NaN、无穷大或超出范围：应为有限数字；数值未知时请留空",
    )


_single = struct.Struct("<f")


def _float32(value: Any) -> float:
    try:
        return _single.unpack(_single.pack(_double(value)))[0]  # type: ignore[no-any-return]
    except OverflowError:
        raise ValueRefusedError(
            "out of range for a 32-bit float (about ±3.4e38): correct it or ask for a double",
            "超出 32 位浮点数范围（约 ±3.4e38）：请更正，或申请 double 类型",
        ) from None


def _decimal(precision: int, scale: int) -> Convert:
    whole = precision - scale
    kind = f"decimal({precision},{scale})"
    example = "12" if scale == 0 else "12." + "5".ljust(min(scale, 6), "0")
    is_number = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?", re.ASCII).fullmatch
    exact = Context(prec=precision, traps=[Inexact, InvalidOperation])
    unit = Decimal((0, (1,), -scale))

    def number(value: Any) -> Decimal:
        # Fast path for most values. Zero, NaN and values that do not fit are handled below.
        if type(value) is Decimal:
            with suppress(DecimalException):
                if (scaled := value.quantize(unit, None, exact)) and scaled == scaled:
                    return scaled
        if isinstance(value, str):
            if not is_number(value):
                raise ValueRefusedError(
                    f"not a decimal number: write digits such as {example}",
                    f"不是十进制数：请写 {example} 这样的数字",
                )
        elif isinstance(value, float):
            value = repr(value)
        elif isinstance(value, bool) or not isinstance(value, (int, Decimal)):
            _expected("a decimal number", "十进制数", value)
        sign, digits, exponent = Decimal(value).as_tuple()
        if not isinstance(exponent, int):
            raise ValueRefusedError(
                "NaN or infinity: expected a finite number; leave it empty if the value is unknown",
                "NaN 或无穷大：应为有限数字；数值未知时请留空",
            )
        if not any(digits):
            return Decimal((0, (0,), -scale))
        if exponent < -scale:
            spare = -scale - exponent
            if any(digits[-spare:]):
                raise ValueRefusedError(
                    f"finer than {kind}: at most {scale} digits after the point; Suibus does not round: "
                    "round it at the source",
                    f"精度超过 {kind}：小数点后最多 {scale} 位；Suibus 不作舍入，请在数据源处舍入",
                )
            digits, exponent = digits[:-spare], -scale
        if len(digits) + exponent > whole:
            raise ValueRefusedError(
                f"too large for {kind}: at most {whole} digits before the point",
                f"超出 {kind}：小数点前最多 {whole} 位",
            )
        return Decimal((sign, digits + (0,) * (exponent + scale), -scale))

    return number


_is_date = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII).fullmatch
_is_timestamp = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.,]([0-9]+))?)?"
    r"(?:Z|[+-][0-9]{2}(?::?[0-9]{2})?)?",
    re.ASCII | re.IGNORECASE,
).fullmatch


def _date(value: Any) -> date:
    if type(value) is date:
        return value
    if isinstance(value, datetime) or not isinstance(value, str):
        _expected("a date such as 2026-03-01", "日期，例如 2026-03-01", value)
    if not _is_date(value):
        raise ValueRefusedError(
            "not a date: write yyyy-mm-dd, such as 2026-03-01", "不是日期：请写 yyyy-mm-dd，例如 2026-03-01"
        )
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise ValueRefusedError(
            "no such day: write a real date from 0001-01-01 to 9999-12-31",
            "没有这一天：请写 0001-01-01 至 9999-12-31 之间真实的日期",
        ) from None


def _timestamp(value: Any) -> datetime:
    finer = "finer than a microsecond: write at most 6 digits after the seconds", "精度高于微秒：秒后最多写 6 位小数"
    example = "2026-03-01T08:30:00+08:00"
    if isinstance(value, str):
        match = _is_timestamp(value)
        if not match:
            raise ValueRefusedError(
                f"not a time: write date, time and zone, such as {example}",
                f"不是时间：请写日期、时间和时区，例如 {example}",
            )
        if match[1] and match[1][6:].strip("0"):
            raise ValueRefusedError(*finer)
        try:
            value = datetime.fromisoformat(value.upper())  # drops digits after the sixth, which are all 0 here
        except ValueError:
            raise ValueRefusedError(
                f"no such time: write a real date and time, such as {example}",
                f"没有这个时间：请写真实的日期和时间，例如 {example}",
            ) from None
    elif not isinstance(value, datetime):
        _expected(f"a time with zone such as {example}", f"带时区的时间，例如 {example}", value)
    elif value.tzinfo is UTC and type(value) is datetime:
        return value
    if value.utcoffset() is None:
        raise ValueRefusedError(
            "a time without zone is ambiguous: add it, such as +08:00 for Beijing time or Z for UTC",
            "时间没有时区，含义不明：请补上时区，例如北京时间 +08:00，或 UTC 的 Z",
        )
    if getattr(value, "nanosecond", 0):  # pandas.Timestamp
        raise ValueRefusedError(*finer)
    try:
        return value.astimezone(UTC)  # type: ignore[no-any-return]
    except OverflowError:
        raise ValueRefusedError(
            "out of range: in UTC the year must be from 0001 to 9999",
            "超出范围：按 UTC 年份须在 0001 至 9999 之间",
        ) from None


def _bytes(value: Any) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if not isinstance(value, str):
        _expected("bytes, or base64 text", "字节，或 base64 文本", value)
    try:
        return base64.b64decode(value.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ValueRefusedError(
            "not base64 text: bytes are written in base64, such as aGVsbG8=",
            "不是 base64 文本：字节须以 base64 书写，例如 aGVsbG8=",
        ) from None


_SIMPLE: dict[str, Convert] = {
    "string": _string,
    "float": _float32,
    "double": _double,
    "date": _date,
    "timestamp": _timestamp,
    "bytes": _bytes,
}


def _member(value: Any, field: Field, convert: Convert, step: str) -> Any:
    """Convert one item or member, which may be null if it is not required; `step`, ``[2]`` or ``.price``, is its part of the path."""
    if value is None:
        if field.required:
            kind = field.type_name
            raise ValueRefusedError(f"empty, but a {kind} is required", f"为空，但必须填写 {kind}", step, "")
        return None
    try:
        return convert(value)
    except ValueRefusedError as refusal:
        found = value if refusal.found is None else refusal.found
        raise ValueRefusedError(refusal.en, refusal.zh, step + refusal.path, found) from None


def _array(f: Field, sql: bool) -> Convert:
    item = f.item or Field("item", "string")
    convert = _converter(item, sql)

    def array(value: Any) -> list[Any]:
        if not isinstance(value, (list, tuple)):
            _expected(f.type_name, f.type_name, value)
        return [_member(v, item, convert, f"[{i}]") for i, v in enumerate(value)]

    return array


def _record(f: Field, sql: bool) -> Convert:
    members = {m.name: (m, _converter(m, sql), f".{m.name}") for m in f.fields}

    def record(value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            _expected(f.type_name, f.type_name, value)
        for name in value:
            if name not in members:
                en, zh = did_you_mean(str(name), members)
                raise ValueRefusedError(
                    f"unknown member: {en}", f"未知的成员：{zh}", f".{clean(str(name))}", value[name]
                )
        return {name: _member(value.get(name), *rest) for name, rest in members.items()}

    return record


def _limited(convert: Convert, limits: Limits) -> Convert:
    """The converter with a check of its result against the contract's `logicalTypeOptions`."""
    checks: list[tuple[Callable[[Any], bool], str, str]] = []
    add = checks.append
    if (low := limits.minimum) is not None:
        add((lambda v: v >= low, f"less than the minimum {low}", f"小于最小值 {low}"))
    if (high := limits.maximum) is not None:
        add((lambda v: v <= high, f"more than the maximum {high}", f"大于最大值 {high}"))
    if (above := limits.exclusive_minimum) is not None:
        add((lambda v: v > above, f"must be more than {above}", f"必须大于 {above}"))
    if (below := limits.exclusive_maximum) is not None:
        add((lambda v: v < below, f"must be less than {below}", f"必须小于 {below}"))
    if (step := limits.multiple_of) is not None:
        exact_step = Decimal(str(step))
        add((lambda v: _is_multiple(v, exact_step), f"not a multiple of {step}", f"不是 {step} 的倍数"))
    if (least := limits.min_length) is not None:
        add((lambda v: len(v) >= least, f"too short: at least {least}", f"过短：至少 {least}"))
    if (most := limits.max_length) is not None:
        add((lambda v: len(v) <= most, f"too long: at most {most}", f"过长：至多 {most}"))
    if (pattern := limits.pattern) is not None:
        search = re.compile(pattern, re.ASCII).search
        add(
            (
                lambda v: search(v) is not None,
                f"does not match the pattern {pattern}",
                f"不符合格式 {pattern}",
            )
        )

    def limited(value: Any) -> Any:
        converted = convert(value)
        for passes, en, zh in checks:
            if not passes(converted):
                length, length_zh = "", ""
                if hasattr(converted, "__len__"):
                    length, length_zh = f", found length {len(converted)}", f"，实际长度 {len(converted)}"
                raise ValueRefusedError(f"{en}{length}: correct it at the source", f"{zh}{length_zh}：请在数据源处更正")
        return converted

    return limited


def _is_multiple(value: Any, step: Decimal) -> bool:
    """Whether a number is a whole multiple of the step, computed exactly with fractions."""
    exact = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    a, b = exact.as_integer_ratio(), step.as_integer_ratio()
    return (a[0] * b[1]) % (a[1] * b[0]) == 0
