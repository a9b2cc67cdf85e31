"""Strict validation: a row becomes exactly the values its contract's types mean, or a list of what is wrong.

Nothing is guessed, rounded or cut: fastavro would write 3.7 as 3, True as 1 and shift a naive time by the
host's zone, so no value reaches it before it has passed here. `Field.allowed` and the quality rules are not
checked: a row that breaks one of those travels, and the city sends it to quarantine with a receipt.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

from schemas.dataset import Dataset, Field, Limits

INT_RANGE = {"int": (-(2**31), 2**31 - 1), "long": (-(2**63), 2**63 - 1)}
SHOWN = 60  # characters of a value that a message shows


@dataclass(frozen=True)
class Defect:
    """One thing wrong with a row: the column (``lines[2].price``), what was found there, and what is expected."""

    column: str
    found: str
    en: str
    zh: str


class RowError(Exception):
    """A row that cannot be taken, with every defect it has; the row was not sent."""

    def __init__(self, defects: list[Defect]) -> None:
        super().__init__("; ".join(d.en for d in defects))
        self.defects = defects


class Refusal(ValueError):
    """Why one value cannot be taken; the row's coercer adds the column. ``path`` is the place inside the value."""

    def __init__(self, en: str, zh: str, path: str = "", found: Any = None) -> None:
        super().__init__(en)
        self.en, self.zh, self.path, self.found = en, zh, path, found


Convert = Callable[[Any], Any]


def show(value: Any) -> str:
    """A value as a message shows it: quoted, one line, at most 60 characters, broken bytes as \\xNN."""
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogateescape" if _is_escaped(value) else "surrogatepass")
        value = value.decode("utf-8", "backslashreplace")
        text = json.dumps(value, ensure_ascii=False)
    else:
        text = str(value) if isinstance(value, (int, float, Decimal)) else repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _is_escaped(text: str) -> bool:
    return all(0xDC80 <= ord(c) <= 0xDCFF for c in text if 0xD800 <= ord(c) <= 0xDFFF)


class RowCoercer:
    """Turns raw rows of one dataset into values that Avro keeps whole; compiled once, called for each row.

    `text`: the values are CSV text ('' is null). `sql`: 0 and 1 are taken for a boolean, which SQLite lacks.
    `district`: what the dataset's district column must hold, if it has one. `columns`: check these only, and
    ignore the dataset's other columns (a file of keys to delete).
    """

    def __init__(
        self,
        dataset: Dataset,
        text: bool,
        district: str | None = None,
        *,
        sql: bool = False,
        columns: tuple[str, ...] | None = None,
    ) -> None:
        self.known = frozenset(f.name for f in dataset.fields)
        key = frozenset(dataset.key)
        fields = [f for f in dataset.fields if columns is None or f.name in columns]
        self._columns: list[tuple[str, bool, Convert]] = []
        for f in fields:
            convert = _text_converter(f) if text else _converter(f, sql)
            if f.name in key:
                convert = _key_converter(convert)
            if f.name == dataset.district and district is not None:
                convert = _district_converter(convert, district)
            self._columns.append((f.name, f.required or f.name in key, convert))
        self._text = text
        self._titles = {f.name: f for f in fields}

    def coerce(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """The row's values, one for each column, in the contract's order; RowError with every defect otherwise."""
        row: dict[str, Any] = {}
        defects: list[Defect] = []
        text, get = self._text, raw.get
        for name, required, convert in self._columns:
            value = get(name)
            if value is None or (text and value == ""):
                if required:
                    defects.append(self._missing(name, name in raw))
                row[name] = None
                continue
            try:
                row[name] = convert(value)
            except Refusal as refusal:
                found = show(value if refusal.found is None else refusal.found)
                defects.append(Defect(name + refusal.path, found, refusal.en, refusal.zh))
        if not self.known.issuperset(raw):
            for name in raw:
                if name not in self.known:
                    listed = ", ".join(sorted(self.known))
                    defects.append(
                        Defect(
                            str(name),
                            show(raw[name]),
                            f"unknown column; the contract has {listed}: remove it or correct its name",
                            f"未知的列；契约中的列为 {listed}：请删除或更正列名",
                        )
                    )
        if defects:
            raise RowError(defects)
        return row

    def _missing(self, name: str, present: bool) -> Defect:
        kind = self._titles[name].type_name
        if present:
            return Defect(
                name,
                "(empty)",
                f"empty, but a {kind} is required: fill it in",
                f"为空，但必须填写 {kind}：请补上",
            )
        return Defect(
            name, "(absent)", f"missing, but a {kind} is required: add it", f"缺失，但必须填写 {kind}：请补上"
        )


def _key_converter(convert: Convert) -> Convert:
    def key(value: Any) -> Any:
        made = convert(value)
        if made == "" or made == b"":
            raise Refusal(
                "empty, but a key column needs a value: fill it in", "为空，但主键列必须有值：请补上"
            )
        return made

    return key


def _district_converter(convert: Convert, district: str) -> Convert:
    def own(value: Any) -> Any:
        made = convert(value)
        if str(made) != district:
            raise Refusal(
                f"names district {show(made)}, but district {district} is publishing: each district sends its own rows",
                f"所填区划为 {show(made)}，但发布方是 {district}：各区只能报送本区的数据",
            )
        return made

    return own


def _text_converter(f: Field) -> Convert:
    """CSV: the cell's text, by type; arrays and records are JSON text inside the cell."""
    if f.kind in ("array", "record"):
        inner = _converter(f, False)

        def from_json(value: str) -> Any:
            try:
                parsed = parse_json(value)
            except ValueError as error:
                raise Refusal(
                    f"not JSON text ({error}): expected {f.type_name} written as JSON",
                    f"不是有效的 JSON 文本（{error}）：应为以 JSON 书写的 {f.type_name}",
                ) from None
            return inner(parsed)

        return from_json
    inner = _converter(f, False)
    if f.kind == "boolean":
        words = {"true": True, "false": False}

        def boolean(value: str) -> bool:
            found = words.get(value.lower())
            if found is None:
                raise Refusal("not a boolean: write true or false", "不是布尔值：请写 true 或 false")
            return found

        return boolean
    if f.kind in INT_RANGE:
        is_int = re.compile(r"[+-]?[0-9]{1,40}", re.ASCII).fullmatch

        def integer(value: str) -> Any:
            if not is_int(value):
                raise Refusal(*_not_integer(f.kind))
            return inner(int(value))

        return integer
    if f.kind in ("float", "double"):
        is_number = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII).fullmatch

        def number(value: str) -> Any:
            if len(value) > 400 or not is_number(value):
                raise Refusal(
                    "not a number: write digits such as 12.5; NaN and infinity are not taken",
                    "不是数字：请写 12.5 这样的数字；不接受 NaN 和无穷大",
                )
            return inner(float(value))

        return number
    return inner


def _not_integer(kind: str) -> tuple[str, str]:
    return f"not a whole number: expected {kind}, such as 42", f"不是整数：应为 {kind}，例如 42"


def _expected(what: str, what_zh: str, value: Any) -> NoReturn:
    kind = {type(None): "null", dict: "object", list: "array", str: "text", bool: "boolean"}.get(
        type(value), type(value).__name__
    )
    raise Refusal(
        f"expected {what}, found {kind}: correct the type", f"应为{what_zh}，实为 {kind}：请更正类型"
    )


def _converter(f: Field, sql: bool) -> Convert:
    """Typed values (JSON, Parquet, Avro, SQL, Python), with the field's limits checked after the type."""
    convert: Convert = {
        "string": _string,
        "boolean": _boolean_sql if sql else _boolean,
        "int": lambda: _integer("int"),
        "long": lambda: _integer("long"),
        "float": lambda: _float32,
        "double": lambda: _double,
        "decimal": lambda: _decimal(f.precision, f.scale),
        "date": lambda: _date,
        "timestamp": lambda: _timestamp,
        "bytes": lambda: _bytes,
        "array": lambda: _array(f, sql),
        "record": lambda: _record(f, sql),
    }[f.kind]()
    return _limited(convert, f.limits) if f.limits != Limits() else convert


def _string() -> Convert:
    def string(value: Any) -> str:
        if type(value) is not str:
            if not isinstance(value, str):
                _expected("text", "文本", value)
            value = str(value)
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                code = ord(value[error.start])
                if 0xDC80 <= code <= 0xDCFF:
                    byte = f"0x{code - 0xDC00:02X}"
                    raise Refusal(
                        f"not valid UTF-8: byte {byte} at character {error.start + 1}; save the file as UTF-8 "
                        "or name its encoding with --encoding",
                        f"不是有效的 UTF-8：第 {error.start + 1} 个字符处有字节 {byte}；请将文件存为 UTF-8，"
                        "或用 --encoding 指明编码",
                    ) from None
                raise Refusal(
                    f"half a character (lone surrogate U+{code:04X}) at character {error.start + 1}: correct the text",
                    f"第 {error.start + 1} 个字符处只有半个字符（孤立代理项 U+{code:04X}）：请更正文本",
                ) from None
        return value

    return string


def _boolean() -> Convert:
    def boolean(value: Any) -> bool:
        if value is True or value is False:
            return value
        _expected("boolean true or false", "布尔值 true 或 false", value)

    return boolean


def _boolean_sql() -> Convert:
    def boolean(value: Any) -> bool:
        if value is True or value is False:
            return value
        if type(value) is int and value in (0, 1):
            return value == 1
        _expected("boolean true or false (or 0 or 1)", "布尔值 true 或 false（或 0、1）", value)

    return boolean


def _integer(kind: str) -> Convert:
    low, high = INT_RANGE[kind]

    def integer(value: Any) -> int:
        if type(value) is not int:
            if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
                _expected(f"a whole number ({kind})", f"整数（{kind}）", value)
            if not isinstance(value, int):
                raise Refusal(*_not_integer(kind))
            value = int(value)
        if low <= value <= high:
            return value
        raise Refusal(
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
        except OverflowError:
            value = math.inf
    if math.isfinite(value):
        return float(value)
    raise Refusal(
        "NaN, infinity or out of range: expected a finite number; leave it empty where nothing is known",
        "NaN、无穷大或超出范围：应为有限数字；没有数值请留空",
    )


_pack_float32 = struct.Struct("<f").pack


def _float32(value: Any) -> float:
    value = _double(value)
    try:
        _pack_float32(value)
    except OverflowError:
        raise Refusal(
            "out of range for a 32-bit float (about ±3.4e38): correct it or ask for a double",
            "超出 32 位浮点数范围（约 ±3.4e38）：请更正，或申请 double 类型",
        ) from None
    return float(value)


def _decimal(precision: int, scale: int) -> Convert:
    whole = precision - scale
    quantum = Decimal(1).scaleb(-scale)

    def number(value: Any) -> Decimal:
        if isinstance(value, bool):
            _expected("a decimal number", "十进制数", value)
        if isinstance(value, float):
            value = repr(value)
        elif not isinstance(value, (int, str, Decimal)):
            _expected("a decimal number", "十进制数", value)
        try:
            if isinstance(value, str) and (not value.isascii() or "_" in value or value != value.strip()):
                raise InvalidOperation
            made = Decimal(value)
        except InvalidOperation:
            raise Refusal(
                f"not a decimal number: write digits such as 12.{'5'.ljust(max(scale, 1), '0')}",
                f"不是十进制数：请写 12.{'5'.ljust(max(scale, 1), '0')} 这样的数字",
            ) from None
        if not made.is_finite():
            raise Refusal(
                "NaN or infinity: expected a finite number; leave it empty where nothing is known",
                "NaN 或无穷大：应为有限数字；没有数值请留空",
            )
        if not made:
            return quantum * 0
        _, digits, exponent = made.as_tuple()
        assert isinstance(exponent, int)
        if exponent < -scale:
            spare = -scale - exponent
            if any(digits[-spare:]):
                raise Refusal(
                    f"finer than decimal({precision},{scale}): at most {scale} digits after the point; "
                    "nothing is rounded, so round it at the source",
                    f"精度超过 decimal({precision},{scale})：小数点后最多 {scale} 位；系统不作舍入，请在源头处理",
                )
        if made.adjusted() >= whole:
            raise Refusal(
                f"too large for decimal({precision},{scale}): at most {whole} digits before the point",
                f"超出 decimal({precision},{scale})：小数点前最多 {whole} 位",
            )
        # Exact: at most `precision` digits remain, built without the context's rounding.
        shift = exponent + scale
        unscaled = int("".join(map(str, digits)))
        unscaled = unscaled * 10**shift if shift >= 0 else unscaled // 10**-shift
        return Decimal((1 if made.is_signed() else 0, tuple(map(int, str(unscaled))), -scale))

    return number


_is_date = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII).fullmatch
_is_timestamp = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.,]([0-9]+))?)?(Z|[+-][0-9]{2}(:?[0-9]{2})?)?",
    re.ASCII | re.IGNORECASE,
).fullmatch


def _date(value: Any) -> date:
    if type(value) is date:
        return value
    if isinstance(value, datetime) or not isinstance(value, str):
        _expected("a date such as 2026-03-01", "日期，例如 2026-03-01", value)
    if not _is_date(value):
        raise Refusal(
            "not a date: write yyyy-mm-dd, such as 2026-03-01", "不是日期：请写 yyyy-mm-dd，例如 2026-03-01"
        )
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise Refusal(
            "no such day: write a real date from 0001-01-01 to 9999-12-31",
            "没有这一天：请写 0001-01-01 至 9999-12-31 之间真实的日期",
        ) from None


def _timestamp(value: Any) -> datetime:
    if isinstance(value, str):
        match = _is_timestamp(value)
        if not match:
            raise Refusal(
                "not a time: write it with date, time and zone, such as 2026-03-01T08:30:00+08:00",
                "不是时间：请写日期、时间和时区，例如 2026-03-01T08:30:00+08:00",
            )
        fraction = match[3] or ""
        if fraction[6:].strip("0"):
            raise Refusal(
                "finer than a microsecond: at most 6 digits after the seconds",
                "比微秒更细：秒后最多 6 位小数",
            )
        text = value.upper()
        if len(fraction) > 6:
            text = text.replace(fraction, fraction[:6], 1) if text.count(fraction) == 1 else text
            start = match.start(3)
            text = value[: start + 6].upper() + value[start + len(fraction) :].upper()
        try:
            value = datetime.fromisoformat(text)
        except ValueError:
            raise Refusal(
                "no such time: write a real date and time, such as 2026-03-01T08:30:00+08:00",
                "没有这个时间：请写真实的日期和时间，例如 2026-03-01T08:30:00+08:00",
            ) from None
    elif not isinstance(value, datetime):
        _expected(
            "a time with zone such as 2026-03-01T08:30:00+08:00",
            "带时区的时间，例如 2026-03-01T08:30:00+08:00",
            value,
        )
    if value.utcoffset() is None:
        raise Refusal(
            "a time without zone is ambiguous: add it, such as +08:00 for Beijing time or Z for UTC",
            "时间没有时区，含义不明：请补上时区，例如北京时间 +08:00，或 UTC 的 Z",
        )
    if getattr(value, "nanosecond", 0):
        raise Refusal(
            "finer than a microsecond: at most 6 digits after the seconds", "比微秒更细：秒后最多 6 位小数"
        )
    try:
        return datetime.combine(value.date(), value.time(), value.tzinfo).astimezone(UTC)
    except OverflowError:
        raise Refusal(
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
        raise Refusal(
            "not base64 text: bytes are written in base64, such as aGVsbG8=",
            "不是 base64 文本：字节须以 base64 书写，例如 aGVsbG8=",
        ) from None


def _array(f: Field, sql: bool) -> Convert:
    assert f.item is not None
    item = f.item
    inner = _converter(item, sql)

    def array(value: Any) -> list[Any]:
        if not isinstance(value, (list, tuple)):
            _expected(f.type_name, f.type_name, value)
        made: list[Any] = []
        for i, v in enumerate(value):
            if v is None:
                if item.required:
                    raise Refusal(
                        f"empty, but a {item.type_name} is required",
                        f"为空，但必须填写 {item.type_name}",
                        f"[{i}]",
                        "(empty)",
                    )
                made.append(None)
                continue
            try:
                made.append(inner(v))
            except Refusal as refusal:
                raise _inside(refusal, f"[{i}]", v) from None
        return made

    return array


def _record(f: Field, sql: bool) -> Convert:
    members = [(m.name, m.required, m.type_name, _converter(m, sql)) for m in f.fields]
    known = {m.name for m in f.fields}

    def record(value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            _expected(f.type_name, f.type_name, value)
        made: dict[str, Any] = {}
        for name, required, kind, convert in members:
            v = value.get(name)
            if v is None:
                if required:
                    raise Refusal(
                        f"empty, but a {kind} is required", f"为空，但必须填写 {kind}", f".{name}", "(empty)"
                    )
                made[name] = None
                continue
            try:
                made[name] = convert(v)
            except Refusal as refusal:
                raise _inside(refusal, f".{name}", v) from None
        for name in value:
            if name not in known:
                raise Refusal(
                    f"unknown member; the contract has {', '.join(known)}",
                    f"未知的成员；契约中有 {'、'.join(known)}",
                    f".{name}",
                    value[name],
                )
        return made

    return record


def _inside(refusal: Refusal, step: str, value: Any) -> Refusal:
    found = value if refusal.found is None else refusal.found
    return Refusal(refusal.en, refusal.zh, step + refusal.path, found)


def _limited(convert: Convert, limits: Limits) -> Convert:
    """The same conversion with the contract's `logicalTypeOptions` checked on its result."""
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
        made = convert(value)
        for holds, en, zh in checks:
            if not holds(made):
                length = f" (length {len(made)})" if hasattr(made, "__len__") else ""
                raise Refusal(
                    f"{en}{length}: correct it at the source",
                    f"{zh}{length.replace('length', '长度')}：请在源头更正",
                )
        return made

    return limited


def _is_multiple(value: Any, step: Decimal) -> bool:
    """Exact, whatever the sizes: both sides as whole numbers of the finer unit."""
    exact = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    a, b = exact.as_integer_ratio(), step.as_integer_ratio()
    return (a[0] * b[1]) % (a[1] * b[0]) == 0


def parse_json(text: str) -> Any:
    """JSON as the standard has it: decimals kept exact, NaN and Infinity and a name given twice refused (ValueError)."""
    return _decoder.decode(text)


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"the name {twice!r} is given twice")
    return made


_decoder = json.JSONDecoder(parse_float=Decimal, parse_constant=_constant, object_pairs_hook=_pairs)
