"""Strict validation of rows: each becomes values of exactly the contract's types, or a list of its defects.

`Field.allowed` and the quality rules are not checked here: a row that breaks one of them is published, and the city puts it
into quarantine and sends a receipt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from schemas.dataset import Dataset
from schemas.errors import InputError
from schemas.row.message_text import clean, did_you_mean, show
from schemas.row.values import Convert, ValueRefusedError, sql_converter, text_converter, typed_converter


@dataclass(frozen=True)
class Defect:
    """One defect of a row: the column (``lines[2].price``), the value found there, and what was expected."""

    column: str
    found: str
    en: str
    zh: str


class RowError(InputError):
    """A row that was not accepted, with all of its defects; nothing of it was sent."""

    def __init__(self, defects: Sequence[Defect]) -> None:
        super().__init__(
            "; ".join(f"{d.column}: {d.en} (found {d.found})" for d in defects),
            "；".join(f"{d.column}：{d.zh}（实为 {d.found}）" for d in defects),
        )
        self.defects = tuple(defects)


class RowCoercer:
    """Converts raw rows of one dataset into values that Avro keeps exactly; compiled once, called for each row.

    `text`: the values are the text of CSV cells, and an empty cell is null.
    `sql`: the values come from a database; a boolean may be 0 or 1, and an array or record may be JSON text, since SQLite
    has none of the three types.
    `district`: the code required in the dataset's district column, if it has one.
    `columns`: check only these columns and ignore the dataset's others, as in a file of keys to delete.
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
        self._known = {f.name: f for f in dataset.fields}.keys()
        key = frozenset(dataset.key)
        fields = [f for f in dataset.fields if columns is None or f.name in columns]
        converter = text_converter if text else sql_converter if sql else typed_converter
        self._columns: list[tuple[str, Callable[[], None], Convert]] = []
        for f in fields:
            convert = converter(f)
            if f.name in key:
                convert = _not_empty(convert)
            if f.name == dataset.district and district is not None:
                convert = _of_district(convert, district)
            null = _refuse_null if f.required or f.name in key else _null
            self._columns.append((f.name, null, convert))
        self._text = text
        self._types = {f.name: f.type_name for f in fields}

    def coerce(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """The converted value of each column, in the contract's order; RowError with every defect of the row."""
        get = raw.get
        with suppress(ValueRefusedError):
            if self._text:  # an empty cell is null
                row = {n: convert(v) if (v := get(n)) else null() for n, null, convert in self._columns}
            else:
                row = {n: convert(v) if (v := get(n)) is not None else null() for n, null, convert in self._columns}
            if raw.keys() <= self._known:
                return row
        raise RowError(self._defects(raw))

    def _defects(self, raw: Mapping[str, Any]) -> list[Defect]:
        """All defects of a row; called only after a conversion failed, so that valid rows are converted once."""
        defects: list[Defect] = []
        for name, null, convert in self._columns:
            value = raw.get(name)
            if value is None or (self._text and value == ""):
                if null is _refuse_null:
                    defects.append(self._missing(name, name in raw))
                continue
            try:
                convert(value)
            except ValueRefusedError as refusal:
                found = show(value if refusal.found is None else refusal.found)
                defects.append(Defect(name + refusal.path, found, refusal.en, refusal.zh))
        for name in raw:
            if name not in self._known:
                en, zh = did_you_mean(str(name), self._known)
                defects.append(Defect(clean(str(name)), show(raw[name]), f"unknown column: {en}", f"未知的列：{zh}"))
        return defects

    def _missing(self, name: str, present: bool) -> Defect:
        kind = self._types[name]
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


def _null() -> None:
    return None


def _refuse_null() -> NoReturn:
    raise ValueRefusedError("empty", "为空")  # only ends the fast path; `_missing` has the full message


def _not_empty(convert: Convert) -> Convert:
    """The converter of a key column, which refuses empty text, since it identifies no row."""

    def key(value: Any) -> Any:
        converted = convert(value)
        if converted == "" or converted == b"":
            raise ValueRefusedError(
                "empty, but a key column needs a value: fill it in", "为空，但主键列必须有值：请补上"
            )
        return converted

    return key


def _of_district(convert: Convert, district: str) -> Convert:
    """The converter of the district column, which accepts only the code of the publishing district."""

    def own(value: Any) -> Any:
        converted = convert(value)
        if str(converted) != district:
            raise ValueRefusedError(
                f"names district {show(converted)}, but district {district} is publishing: each district sends its own rows",
                f"所填的区为 {show(converted)}，但发布方为 {district}：各区只能发布本区的数据",
            )
        return converted

    return own
