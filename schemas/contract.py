"""From an Open Data Contract Standard v3 file to a `Dataset`, or a refusal with the line of every problem.

`schemas.odcs.standard` says whether the file is a contract at all; what is added here is what Suibus can serve: one
schema object, plain names, types that survive fastavro, Kafka and Spark, and rules that can be executed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, cast, get_args

from open_data_contract_standard.model import CustomProperty, OpenDataContractStandard, SchemaProperty

from schemas.dataset import Dataset, Field, Kind, Sharing
from schemas.errors import ContractError, InputError
from schemas.odcs.columns import check_name, columns
from schemas.odcs.rules import rules
from schemas.odcs.standard import Place, Problems, read_standard

SHIPPED = Path(__file__).parent / "contracts"
FACTS = ("suibus.sequence", "suibus.sharing", "suibus.freshness", "suibus.district")

_KEY_KINDS: tuple[Kind, ...] = ("string", "int", "long", "date", "timestamp")
_SEQUENCE_KINDS: tuple[Kind, ...] = ("int", "long", "timestamp", "date", "string")
_DURATION = re.compile(  # of ISO 8601, without years and months, which have no fixed length
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
    """The dataset that an ODCS text declares; `where` names it in errors."""
    contract, problems = read_standard(text, where)
    return _dataset(contract, text, where, problems)


def contract_files(folders: Sequence[Path]) -> Iterator[Path]:
    """Every .yaml or .yml file directly in the folders, in order of folder and name."""
    for folder in folders:
        yield from sorted(p for p in folder.glob("*.y*ml") if p.suffix in (".yaml", ".yml") and p.is_file())


def load_contracts(folders: Sequence[Path], naming: str = "") -> tuple[dict[str, Dataset], list[ContractError]]:
    """All contracts of the folders by dataset id (``name.vN``), and the refusals of those that cannot be served.

    `naming`: only the files with this text in them; checking one against the standard takes 0.05 s.

    One broken contract never keeps another from being served. Of two files for one id the first is kept.
    """
    found: dict[str, Dataset] = {}
    refused: list[ContractError] = []
    for path in contract_files(folders):
        with suppress(OSError):  # told below
            if naming.encode() not in path.read_bytes():
                continue
        try:
            dataset = load_contract(path)
        except ContractError as error:
            refused.append(error)
            continue
        twin = next((d for d in found.values() if d.id.lower() == dataset.id.lower()), None)
        if twin is None:
            found[dataset.id] = dataset
        elif twin.text != dataset.text:
            refused.append(
                ContractError(
                    f"{path}: dataset {dataset.id} is already declared by {twin.path}. Keep one of the two files, "
                    "or raise the major version in this one.",
                    f"{path}：数据集 {dataset.id} 已由 {twin.path} 声明。请只保留其中一个文件，或提升本文件的主版本号。",
                )
            )
    return found, refused


def find_dataset(name: str, folders: Sequence[Path]) -> Dataset:
    """The newest major of the dataset called `name` (or exactly ``name.vN``); InputError lists what there is."""
    for naming in (re.sub(r"\.v\d+$", "", name), ""):
        found, refused = load_contracts(folders, naming)
        if name in found:
            return found[name]
        if candidates := [d for d in found.values() if d.name == name]:
            return max(candidates, key=lambda d: d.major)
    names = ", ".join(sorted({d.name for d in found.values()})) or "none / 无"
    broken = "".join(f"\n{e.en}" for e in refused)
    raise InputError(
        f"Dataset {name!r} is not known. Contracts found: {names} (in {':'.join(map(str, folders))}). "
        f"Add its contract to a folder of SUIBUS_CONTRACTS.{broken}",
        f"没有名为 {name!r} 的数据集。已有契约：{names}。请将其契约放入 SUIBUS_CONTRACTS 指定的文件夹。"
        + "".join(f"\n{e.zh}" for e in refused),
    )


def _dataset(contract: OpenDataContractStandard, text: str, where: str, problems: Problems) -> Dataset:
    """What Suibus makes of a contract that the standard accepts."""
    objects = contract.schema_ or []
    if len(objects) != 1:
        problems.add(
            ("schema",),
            f"found {len(objects)} schema objects, expected exactly one: a contract is one dataset. Give each a file.",
            f"有 {len(objects)} 个 schema 对象，应恰好一个：一份契约对应一个数据集。请各用一个文件。",
        )
        problems.raise_if_any()
    schema = objects[0]
    at: Place = ("schema", 0)
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
    entries: list[tuple[Place, CustomProperty]] = [
        (("customProperties", i), e) for i, e in enumerate(contract.customProperties or [])
    ]
    entries += [((*at, "customProperties", i), e) for i, e in enumerate(schema.customProperties or [])]
    facts = _Facts(entries, problems)
    sequence = _column(facts, "suibus.sequence", by_name, _SEQUENCE_KINDS, problems)
    district = _column(facts, "suibus.district", by_name, ("string",), problems)
    sharing = facts.values.get("suibus.sharing", "conditional")
    if sharing not in get_args(Sharing):
        problems.add(
            facts.place("suibus.sharing"),
            f"suibus.sharing is {sharing!r}, expected unconditional, conditional or none",
            f"suibus.sharing 为 {sharing!r}，应为 unconditional、conditional 或 none",
        )
    found = rules(properties, schema.quality or [], by_name, at, problems)
    freshness = _freshness(facts, problems)
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
        rules=found,
        title=schema.businessName or contract.name or name,
        description=description.strip(),
        path=where,
        text=text,
    )


class _Facts:
    """Suibus's own facts: the `customProperties` called ``suibus.…``, of the contract or of its schema object."""

    def __init__(self, entries: Sequence[tuple[Place, CustomProperty]], problems: Problems) -> None:
        self.values: dict[str, Any] = {}
        self._places: dict[str, Place] = {}
        for place, entry in entries:
            name = entry.property or ""
            if not name.lower().startswith("suibus"):
                continue
            if name not in FACTS:
                problems.add(
                    place,
                    f"found {name}, which is not a fact Suibus knows; expected one of {', '.join(FACTS)}",
                    f"{name} 不是 Suibus 认识的属性；应为 {'、'.join(FACTS)} 之一",
                )
            elif name in self.values:
                first = problems.line(self._places[name])
                problems.add(
                    place,
                    f"found {name} a second time, first in line {first}; expected it once",
                    f"{name} 重复，首次出现于第 {first} 行；应只写一次",
                )
            else:
                self.values[name], self._places[name] = entry.value, place

    def place(self, name: str) -> Place:
        """Where a fact stands."""
        return self._places.get(name, ())


def _column(
    facts: _Facts, fact: str, fields: Mapping[str, Field], kinds: tuple[Kind, ...], problems: Problems
) -> str | None:
    name = facts.values.get(fact)
    if name is None:
        return None
    field = fields.get(name) if isinstance(name, str) else None
    if field is None or not field.required or field.kind not in kinds:
        found = "no such column" if field is None else f"{field.type_name}, required: {field.required}"
        problems.add(
            facts.place(fact),
            f"{fact} names {name!r} ({found}); expected a required column of type {', '.join(kinds)}",
            f"{fact} 指向 {name!r}（{found}）；应为必填列，类型为 {'、'.join(kinds)}",
        )
    return str(name)


def _freshness(facts: _Facts, problems: Problems) -> timedelta | None:
    value = facts.values.get("suibus.freshness")
    if value is None:
        return None
    match = _DURATION.fullmatch(str(value))
    try:
        if match:
            return timedelta(**{unit: int(number) for unit, number in match.groupdict().items() if number})
    except OverflowError:  # more days than a timedelta holds
        pass
    problems.add(
        facts.place("suibus.freshness"),
        f"suibus.freshness is {value!r}, expected an ISO 8601 duration in weeks, days or less, such as P1D or PT4H",
        f"suibus.freshness 为 {value!r}，应为以周、日或更小单位书写的 ISO 8601 时长，例如 P1D 或 PT4H",
    )
    return None


def _key(
    properties: Sequence[SchemaProperty], fields: Mapping[str, Field], at: Place, problems: Problems
) -> tuple[str, ...]:
    keyed = [p for p in properties if p.primaryKey]
    keyed.sort(key=lambda p: p.primaryKeyPosition if p.primaryKeyPosition and p.primaryKeyPosition > 0 else 1 << 30)
    if not keyed:
        problems.add(
            (*at, "properties"),
            "found no column with primaryKey: true, expected at least one: versions of one row are told by their key",
            "没有任何列标注 primaryKey: true；同一行的多个版本需要主键",
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
                f"key column {p.name} is required: false, expected required: true: a row without its key is no row",
                f"主键列 {p.name} 为 required: false，应为 required: true：没有主键的行无法识别",
            )
    return tuple(p.name or "" for p in keyed)
