"""Read an Open Data Contract Standard v3 file as a `Dataset`; ContractError has the line of every problem.

`schemas.odcs.document` checks the file against the standard. This module checks what Suibus needs beyond it: one schema
object, names that topics, Avro and SQL accept, types that fastavro, Kafka and Spark keep exactly, and executable rules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast, get_args

from open_data_contract_standard.model import CustomProperty, OpenDataContractStandard, SchemaProperty

from schemas.dataset import Dataset, Field, Kind, Sharing
from schemas.errors import ContractError
from schemas.odcs.columns import check_name, columns
from schemas.odcs.document import read_document
from schemas.odcs.problems import Pointer, Problems
from schemas.odcs.rules import rules

SUIBUS_PROPERTIES = ("suibus.sequence", "suibus.sharing", "suibus.freshness", "suibus.district")

_KEY_KINDS: tuple[Kind, ...] = ("string", "int", "long", "date", "timestamp")
_SEQUENCE_KINDS: tuple[Kind, ...] = ("int", "long", "timestamp", "date", "string")
_DURATION = re.compile(  # ISO 8601 without years and months, whose length varies
    r"P(?!$)(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+)D)?"
    r"(?:T(?=\d)(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+)S)?)?",
    re.ASCII,
)


def load_contract(path: Path | str) -> Dataset:
    """The dataset that one ODCS file declares. ContractError names every problem with its line."""
    where = str(path)
    try:
        text = Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        byte = f"0x{error.object[error.start]:02X}"
        raise ContractError(
            f"{where}:{line}: found byte {byte}, which is not UTF-8. Save the file as UTF-8.",
            f"{where}:{line}: 字节 {byte} 不是 UTF-8。请将文件存为 UTF-8 编码。",
        ) from error
    except OSError as error:
        raise ContractError(
            f"{where}: the contract cannot be read ({error}). Give a UTF-8 YAML file.",
            f"{where}：无法读取数据契约（{error}）。请提供 UTF-8 编码的 YAML 文件。",
        ) from error
    return parse_contract(text, where)


def parse_contract(text: str, where: str = "<contract>") -> Dataset:
    """The dataset that an ODCS text declares; `where` names it in errors. ContractError as for a file."""
    contract, problems = read_document(text, where)
    return _dataset(contract, text, where, problems)


def _dataset(contract: OpenDataContractStandard, text: str, where: str, problems: Problems) -> Dataset:
    """The dataset of a contract that the standard accepts; ContractError names every problem that Suibus has with it."""
    objects = contract.schema_ or []
    if len(objects) != 1:
        problems.add(
            ("schema",),
            f"found {len(objects)} schema objects, expected exactly one: a contract is one dataset. Use one file for each.",
            f"有 {len(objects)} 个 schema 对象，应恰好一个：一份契约对应一个数据集。请各用一个文件。",
        )
        problems.raise_if_any()
    schema = objects[0]
    at: Pointer = ("schema", 0)
    name = schema.name or ""
    check_name(name, (*at, "name"), problems)
    version = contract.version or ""
    if not re.fullmatch(r"(0|[1-9][0-9]*)(\.[0-9]+){0,2}", version):
        problems.add(
            ("version",),
            f"found {version!r}, expected numbers such as 1.0.0: the first names the topic",
            f"实际为 {version!r}，应为形如 1.0.0 的版本号：第一段用于主题名",
        )
        version = "0"
    properties = schema.properties or []
    if not properties:
        problems.add((*at, "properties"), "found none, expected at least one column", "没有列，至少需要一列")
    fields = columns(properties, (*at, "properties"), problems)
    by_name = {f.name: f for f in fields}
    key = _key(properties, by_name, at, problems)
    entries: list[tuple[Pointer, CustomProperty]] = [
        (("customProperties", i), e) for i, e in enumerate(contract.customProperties or [])
    ]
    entries += [((*at, "customProperties", i), e) for i, e in enumerate(schema.customProperties or [])]
    own = _SuibusProperties(entries, problems)
    sequence = _column(own, "suibus.sequence", by_name, _SEQUENCE_KINDS, problems)
    district = _column(own, "suibus.district", by_name, ("string",), problems)
    sharing = own.values.get("suibus.sharing", "conditional")
    if sharing not in get_args(Sharing):
        problems.add(
            own.pointer("suibus.sharing"),
            f"suibus.sharing is {sharing!r}, expected unconditional, conditional or none",
            f"suibus.sharing 为 {sharing!r}，应为 unconditional、conditional 或 none",
        )
    quality = rules(properties, schema.quality or [], by_name, at, problems)
    freshness = _freshness(own, problems)
    problems.raise_if_any()
    description = schema.description or (contract.description.purpose if contract.description else "") or ""
    return Dataset(
        name=name,
        version=version,
        fields=fields,
        key=key,
        sequence=sequence,
        district=district,
        sharing=cast(Sharing, sharing),
        freshness=freshness,
        rules=quality,
        title=schema.businessName or contract.name or name,
        description=description.strip(),
        path=where,
        text=text,
    )


class _SuibusProperties:
    """The `customProperties` named ``suibus.…`` of the contract and of its schema object, each allowed once in both."""

    def __init__(self, entries: Sequence[tuple[Pointer, CustomProperty]], problems: Problems) -> None:
        self.values: dict[str, Any] = {}
        self._pointers: dict[str, Pointer] = {}
        for at, entry in entries:
            name = entry.property or ""
            if not name.lower().startswith("suibus"):
                continue
            if name not in SUIBUS_PROPERTIES:
                problems.add(
                    at,
                    f"found {name}, which Suibus does not know; expected one of {', '.join(SUIBUS_PROPERTIES)}",
                    f"实际为 {name}，Suibus 没有此属性；应为 {'、'.join(SUIBUS_PROPERTIES)} 之一",
                )
            elif name in self.values:
                first = problems.line(self._pointers[name])
                problems.add(
                    at,
                    f"found {name} a second time, first in line {first}; expected it only once",
                    f"{name} 重复，首次出现于第 {first} 行；应只写一次",
                )
            else:
                self.values[name], self._pointers[name] = entry.value, at

    def pointer(self, name: str) -> Pointer:
        """Where in the contract a property is written; the empty pointer if it is not."""
        return self._pointers.get(name, ())


def _column(
    own: _SuibusProperties, name: str, fields: Mapping[str, Field], kinds: tuple[Kind, ...], problems: Problems
) -> str | None:
    """The column that a ``suibus.…`` property names; it must be required and of one of the kinds. None without the property."""
    column = own.values.get(name)
    if column is None:
        return None
    field = fields.get(column) if isinstance(column, str) else None
    if field is None or not field.required or field.kind not in kinds:
        actual, actual_zh = "no such column", "没有该列"
        if field is not None:
            required, required_zh = ("required", "必填") if field.required else ("not required", "非必填")
            actual, actual_zh = f"{field.type_name}, {required}", f"{field.type_name}，{required_zh}"
        problems.add(
            own.pointer(name),
            f"{name} names {column!r} ({actual}); expected a required column of type {', '.join(kinds)}",
            f"{name} 指向 {column!r}（{actual_zh}）；应为必填列，类型为 {'、'.join(kinds)}",
        )
    return str(column)


def _freshness(own: _SuibusProperties, problems: Problems) -> timedelta | None:
    value = own.values.get("suibus.freshness")
    if value is None:
        return None
    match = _DURATION.fullmatch(str(value))
    try:
        if match:
            return timedelta(**{unit: int(number) for unit, number in match.groupdict().items() if number})
    except OverflowError:  # more days than a timedelta holds
        pass
    problems.add(
        own.pointer("suibus.freshness"),
        f"suibus.freshness is {value!r}, expected an ISO 8601 duration in weeks, days or less, such as P1D or PT4H",
        f"suibus.freshness 为 {value!r}，应为以周、日或更小单位书写的 ISO 8601 时长，例如 P1D 或 PT4H",
    )
    return None


def _key(
    properties: Sequence[SchemaProperty], fields: Mapping[str, Field], at: Pointer, problems: Problems
) -> tuple[str, ...]:
    """The key columns in the order of their positions; those without a position come last, in the contract's order."""
    keyed = [p for p in properties if p.primaryKey]
    keyed.sort(key=lambda p: p.primaryKeyPosition if p.primaryKeyPosition and p.primaryKeyPosition > 0 else 1 << 30)
    if not keyed:
        problems.add(
            (*at, "properties"),
            "found no column with primaryKey: true, expected at least one: the key tells which records are versions of "
            "one row",
            "没有任何列标注 primaryKey: true，至少需要一列：主键用于识别哪些记录是同一行的不同版本",
        )
    for p in keyed:
        field = fields.get(p.name or "")
        here = (*at, "properties", next(i for i, other in enumerate(properties) if other is p))
        if field and field.kind not in _KEY_KINDS:
            problems.add(
                here,
                f"key column {field.name} is {field.type_name}, expected one of {', '.join(_KEY_KINDS)}",
                f"主键列 {field.name} 的类型为 {field.type_name}，应为 {'、'.join(_KEY_KINDS)} 之一",
            )
        if p.required is False:
            problems.add(
                (*here, "required"),
                f"key column {p.name} is required: false, expected required: true: a row without a key cannot be identified",
                f"主键列 {p.name} 为 required: false，应为 required: true：没有主键的行无法识别",
            )
    return tuple(p.name or "" for p in keyed)
