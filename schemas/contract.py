"""From an Open Data Contract Standard v3 file to a `Dataset`, or a refusal with the line of every problem.

`schemas.standard` says whether the file is a contract at all; what is added here is what Suibus can serve: one
schema object, plain names, types that survive fastavro, Kafka and Spark, and rules that can be executed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, cast, get_args

import yaml
from open_data_contract_standard.model import (
    CustomProperty,
    DataQuality,
    OpenDataContractStandard,
    SchemaProperty,
)
from pydantic import TypeAdapter

from schemas.dataset import Dataset, Field, Kind, Limits, Rule, Severity, Sharing
from schemas.errors import ContractError, InputError
from schemas.standard import Place, Problems, read_standard

SHIPPED = Path(__file__).parent / "contracts"
NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_]{0,62}$")
DEEPEST = 8  # levels of nested records and arrays; ODCS writes them inline, so only an alias could recurse

_PHYSICAL: dict[str, Kind] = {
    **dict.fromkeys(("string", "text", "varchar", "char", "character varying", "nvarchar", "nchar", "clob"), "string"),
    **dict.fromkeys(("boolean", "bool"), "boolean"),
    **dict.fromkeys(("int", "integer", "int4", "int32", "smallint", "tinyint", "i32"), "int"),
    **dict.fromkeys(("long", "bigint", "int64", "i64"), "long"),
    **dict.fromkeys(("float", "real", "float4", "float32"), "float"),
    **dict.fromkeys(("double", "double precision", "float8", "float64"), "double"),
    **dict.fromkeys(("decimal", "numeric", "number"), "decimal"),
    "date": "date",
    **dict.fromkeys(
        ("timestamp", "timestamptz", "timestamp_tz", "timestamp with time zone", "timestamp_micros", "datetime"),
        "timestamp",
    ),
    **dict.fromkeys(("bytes", "binary", "varbinary", "bytea", "blob"), "bytes"),
    **dict.fromkeys(("array", "list"), "array"),
    **dict.fromkeys(("record", "struct", "object", "row"), "record"),
}  # fmt: skip
_LOGICAL: dict[str, tuple[Kind, ...]] = {  # the first is taken where no physicalType narrows it
    "string": ("string", "bytes"),
    "boolean": ("boolean",),
    "integer": ("long", "int"),
    "number": ("double", "float", "decimal", "int", "long"),
    "date": ("date",),
    "timestamp": ("timestamp",),
    "array": ("array",),
    "object": ("record",),
}
_FORMATS: dict[str, Kind] = {
    **dict.fromkeys(("i8", "i16", "i32", "u8", "u16"), "int"),
    **dict.fromkeys(("i64", "u32"), "long"),
    "f32": "float",
    "f64": "double",
    "byte": "bytes",
    "binary": "bytes",
}
_OPERATORS = (
    "mustBe", "mustNotBe", "mustBeGreaterThan", "mustBeGreaterOrEqualTo", "mustBeLessThan", "mustBeLessOrEqualTo",
    "mustBeBetween", "mustNotBeBetween",
)  # fmt: skip
_METRICS = ("nullValues", "missingValues", "invalidValues", "duplicateValues", "rowCount")
_SEVERITIES: dict[str, Severity] = {
    "critical": "critical", "error": "critical", "high": "critical",
    "warning": "warning", "warn": "warning", "medium": "warning", "info": "info", "low": "info",
}  # fmt: skip
_KEY_KINDS: tuple[Kind, ...] = ("string", "int", "long", "date", "timestamp")
_SEQUENCE_KINDS: tuple[Kind, ...] = ("int", "long", "timestamp", "date", "string")


def load_contract(path: Path | str) -> Dataset:
    """The dataset that one ODCS file declares. ContractError names every problem with its line."""
    where = str(path)
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
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


def load_contracts(folders: Sequence[Path]) -> tuple[dict[str, Dataset], list[ContractError]]:
    """All contracts of the folders by dataset id (``name.vN``), and the refusals of those that cannot be served.

    One broken contract never keeps another from being served. Of two files for one id the first is kept.
    """
    found: dict[str, Dataset] = {}
    refused: list[ContractError] = []
    for path in contract_files(folders):
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
    found, refused = load_contracts(folders)
    if name in found:
        return found[name]
    candidates = [d for d in found.values() if d.name == name]
    if candidates:
        return max(candidates, key=lambda d: d.major)
    names = ", ".join(sorted({d.name for d in found.values()})) or "none / 无"
    broken = "".join(f"\n{e.en}" for e in refused)
    raise InputError(
        f"Dataset {name!r} is not known. Contracts found: {names} (in {':'.join(map(str, folders))}). "
        f"Add its contract to a folder of SUIBUS_CONTRACTS.{broken}",
        f"没有名为 {name!r} 的数据集。已有契约：{names}。请将其契约放入 SUIBUS_CONTRACTS 指定的文件夹。",
    )


def _dataset(contract: OpenDataContractStandard, text: str, where: str, problems: Problems) -> Dataset:
    objects = contract.schema_ or []
    if len(objects) != 1:
        problems.add(
            ("schema",),
            f"found {len(objects)} schema objects, expected exactly one: a contract is one dataset. Split the file.",
            f"有 {len(objects)} 个 schema 对象，应恰好一个：一份契约对应一个数据集。请拆分文件。",
        )
        problems.raise_if_any()
    schema = objects[0]
    at: Place = ("schema", 0)
    name = schema.name or ""
    _check_name(name, (*at, "name"), problems)
    version = contract.version or ""
    if not re.fullmatch(r"\d+(\.\d+){0,2}", version):
        problems.add(
            ("version",),
            f"found {version!r}, expected numbers such as 1.0.0: the first names the topic",
            f"实际为 {version!r}，应为形如 1.0.0 的版本号：第一段用于主题名",
        )
        version = "0"
    properties = schema.properties or []
    if not properties:
        problems.add((*at, "properties"), "found none, expected at least one column", "没有列，至少需要一列")
    fields = _fields(properties, (*at, "properties"), problems, 0)
    by_name = {f.name: f for f in fields}
    key = _key(properties, by_name, at, problems)
    facts = _Facts(contract.customProperties or [], problems)
    sequence = _column(facts, "suibus.sequence", by_name, _SEQUENCE_KINDS, problems)
    district = _column(facts, "suibus.district", by_name, ("string",), problems)
    sharing = facts.values.get("suibus.sharing", "conditional")
    if sharing not in get_args(Sharing):
        problems.add(
            facts.path("suibus.sharing"),
            f"suibus.sharing is {sharing!r}, expected unconditional, conditional or none",
            f"suibus.sharing 为 {sharing!r}，应为 unconditional、conditional 或 none",
        )
    rules = _rules(properties, schema.quality or [], by_name, at, problems)
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
        rules=rules,
        title=schema.businessName or contract.name or name,
        description=description.strip(),
        path=where,
        text=text,
    )


def _check_name(name: str, path: Place, problems: Problems) -> None:
    if not NAME.match(name):
        problems.add(
            path,
            f"found {name!r}, expected a letter, then letters, digits or _ (at most 63): it names topics, Avro fields "
            "and SQL columns. Put the Chinese name into businessName.",
            f"实际为 {name!r}，应以英文字母开头，后接字母、数字或下划线（最多 63 个）：它将用于主题、Avro 字段和 SQL 列名。中文名请写入 businessName。",
        )


class _Facts:
    """Suibus's own facts: the contract's `customProperties` called ``suibus.…``."""

    KNOWN = ("suibus.sequence", "suibus.sharing", "suibus.freshness", "suibus.district")

    def __init__(self, entries: Sequence[CustomProperty], problems: Problems) -> None:
        named = [(i, e) for i, e in enumerate(entries) if (e.property or "").startswith("suibus.")]
        self.values: dict[str, Any] = {str(e.property): e.value for _, e in named}
        self._index = {str(e.property): i for i, e in named}
        for name in self.values.keys() - set(self.KNOWN):
            problems.add(
                self.path(name),
                f"{name} is not a fact Suibus knows. Known: {', '.join(self.KNOWN)}",
                f"{name} 不是 Suibus 认识的属性。可用：{'、'.join(self.KNOWN)}",
            )

    def path(self, name: str) -> Place:
        return ("customProperties", self._index.get(name, 0))


def _column(
    facts: _Facts, fact: str, fields: Mapping[str, Field], kinds: tuple[Kind, ...], problems: Problems
) -> str | None:
    name = facts.values.get(fact)
    if name is None:
        return None
    field = fields.get(name)
    if field is None or not field.required or field.kind not in kinds:
        found = "no such column" if field is None else f"{field.type_name}, required: {field.required}"
        problems.add(
            facts.path(fact),
            f"{fact} names {name!r} ({found}); expected a required column of type {', '.join(kinds)}",
            f"{fact} 指向 {name!r}（{found}）；应为必填列，类型为 {'、'.join(kinds)}",
        )
    return str(name)


def _freshness(facts: _Facts, problems: Problems) -> timedelta | None:
    value = facts.values.get("suibus.freshness")
    if value is None:
        return None
    try:
        if not str(value).startswith("P"):
            raise ValueError(value)
        return TypeAdapter(timedelta).validate_python(str(value))
    except ValueError:
        problems.add(
            facts.path("suibus.freshness"),
            f"suibus.freshness is {value!r}, expected an ISO 8601 duration such as P1D or PT4H",
            f"suibus.freshness 为 {value!r}，应为 ISO 8601 时长，例如 P1D 或 PT4H",
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
            "no column has primaryKey: true; versions of one row need a key",
            "没有任何列标注 primaryKey: true；同一行的多个版本需要主键",
        )
    for p in keyed:
        field = fields.get(p.name or "")
        if field and (field.kind not in _KEY_KINDS or not field.required):
            problems.add(
                (*at, "properties", list(properties).index(p)),
                f"key column {field.name} is {field.type_name}, required: {field.required}; expected required: true "
                f"and one of {', '.join(_KEY_KINDS)}",
                f"主键列 {field.name} 类型为 {field.type_name}，必填：{field.required}；应为必填且类型为 {'、'.join(_KEY_KINDS)}",
            )
    return tuple(p.name or "" for p in keyed)


def _fields(properties: Sequence[SchemaProperty], path: Place, problems: Problems, depth: int) -> tuple[Field, ...]:
    fields: list[Field] = []
    seen: set[str] = set()
    for i, prop in enumerate(properties):
        here = (*path, i)
        name = prop.name or ""
        _check_name(name, (*here, "name"), problems)
        if name.lower() in seen:
            problems.add(
                (*here, "name"),
                f"column {name!r} stands twice (SQL does not tell capitals apart)",
                f"列名 {name!r} 重复（SQL 不区分大小写）",
            )
        seen.add(name.lower())
        if field := _field(prop, name, here, problems, depth):
            fields.append(field)
    return tuple(fields)


def _field(prop: SchemaProperty, name: str, path: Place, problems: Problems, depth: int) -> Field | None:
    if depth > DEEPEST:
        problems.add(path, f"nested deeper than {DEEPEST} levels", f"嵌套超过 {DEEPEST} 层")
        return None
    resolved = _kind(prop, path, problems)
    if resolved is None:
        return None
    kind, arguments = resolved
    field = Field(
        name=name,
        kind=kind,
        required=bool(prop.required) or bool(prop.primaryKey),
        title=prop.businessName or "",
        description=(prop.description or "").strip(),
        unique=bool(prop.unique),
        allowed=tuple(e.value for e in prop.enum) if prop.enum else None,
    )
    if depth and (prop.quality or prop.enum or prop.unique or prop.primaryKey):
        problems.add(
            path,
            "quality, enum, unique and primaryKey are not served inside a record or array. Write a sql rule at the "
            "schema object.",
            "记录或数组内部不支持 quality、enum、unique、primaryKey。请在 schema 对象上写 sql 规则。",
        )
    if kind == "decimal":
        precision, scale = (*arguments, 0)[:2] if arguments else (0, 0)
        if not 1 <= precision <= 38 or scale > precision:
            problems.add(
                (*path, "physicalType"),
                f"found {prop.physicalType!r}, expected decimal(precision,scale) with precision 1 to 38",
                f"实际为 {prop.physicalType!r}，应为 decimal(精度,小数位)，精度 1 至 38",
            )
        field = replace(field, precision=precision, scale=scale)
    elif kind == "array":
        if prop.items is None:
            problems.add(path, "an array without items: say what it holds", "数组缺少 items：请说明其元素类型")
            return None
        item = _field(prop.items, prop.items.name or "item", (*path, "items"), problems, depth + 1)
        field = replace(field, item=item)
    elif kind == "record":
        members = _fields(prop.properties or [], (*path, "properties"), problems, depth + 1)
        if not members:
            problems.add(path, "a record without properties: say what it holds", "记录缺少 properties：请说明其成员")
        field = replace(field, fields=members)
    return replace(field, limits=_limits(prop, field, arguments, path, problems))


def _kind(prop: SchemaProperty, path: Place, problems: Problems) -> tuple[Kind, tuple[int, ...]] | None:
    logical, physical = prop.logicalType, prop.physicalType
    allowed = _LOGICAL.get(logical) if logical else tuple(get_args(Kind))
    if allowed is None or (logical is None and physical is None):
        problems.add(
            (*path, "logicalType"),
            f"found {logical!r}, expected one of {', '.join(_LOGICAL)}",
            f"实际为 {logical!r}，应为 {'、'.join(_LOGICAL)} 之一",
        )
        return None
    arguments: tuple[int, ...] = ()
    if physical:
        match = re.fullmatch(r"\s*([A-Za-z_0-9 ]+?)\s*(?:\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\)|<.*>|\[\])?\s*", physical)
        word = match[1].lower() if match else physical.lower()
        kind = _PHYSICAL.get(word)
        if match:
            arguments = tuple(int(g) for g in match.groups()[1:] if g)
        if kind is None or kind not in allowed:
            accepted = sorted(w for w, k in _PHYSICAL.items() if k in allowed)
            problems.add(
                (*path, "physicalType"),
                f"found {physical!r} for logicalType {logical}, expected one of {', '.join(accepted)}",
                f"logicalType {logical} 的 physicalType 实际为 {physical!r}，应为 {'、'.join(accepted)} 之一",
            )
            return None
        return kind, arguments
    format_ = (prop.logicalTypeOptions or {}).get("format")
    if logical == "integer" and format_ in ("u64", "i128", "u128"):
        problems.add(
            (*path, "logicalTypeOptions"),
            f"format {format_} does not fit 64 bits; use logicalType number with physicalType decimal(38,0)",
            f"format {format_} 超出 64 位；请用 logicalType number 与 physicalType decimal(38,0)",
        )
    wanted = _FORMATS.get(str(format_))
    return (wanted if wanted and wanted in allowed else allowed[0]), arguments


def _limits(prop: SchemaProperty, field: Field, arguments: tuple[int, ...], path: Place, problems: Problems) -> Limits:
    options = dict(prop.logicalTypeOptions or {})
    bounds: dict[str, Any] = {}
    names = {
        "minimum": "minimum", "maximum": "maximum", "exclusiveMinimum": "exclusive_minimum",
        "exclusiveMaximum": "exclusive_maximum", "multipleOf": "multiple_of",
    }  # fmt: skip
    for option, attribute in names.items():
        if (value := options.get(option)) is None:
            continue
        try:
            bounds[attribute] = _bound(value, field.kind)
        except ValueError:
            problems.add(
                (*path, "logicalTypeOptions", option),
                f"found {value!r}, expected a value of type {field.type_name}",
                f"实际为 {value!r}，应为 {field.type_name} 类型的值",
            )
    pattern = options.get("pattern")
    if pattern is not None:
        _check_pattern(pattern, (*path, "logicalTypeOptions", "pattern"), problems)
    longest = [n for n in (options.get("maxLength"), options.get("maxItems"), *arguments[:1]) if n is not None]
    sized = field.kind in ("string", "array")
    return Limits(
        **bounds,
        min_length=options.get("minLength", options.get("minItems")) if sized else None,
        max_length=min(longest) if longest and sized else None,
        pattern=pattern if field.kind == "string" else None,
    )


def _check_pattern(pattern: Any, path: Place, problems: Problems) -> None:
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        problems.add(
            path,
            f"pattern {pattern!r} is not a regular expression: {error}",
            f"pattern {pattern!r} 不是合法的正则表达式：{error}",
        )


def _bound(value: Any, kind: Kind) -> Any:
    if kind in ("int", "long", "decimal", "float", "double"):
        number = Decimal(str(value))
        return int(number) if kind in ("int", "long") and number == int(number) else number
    if kind == "date":
        return date.fromisoformat(str(value))
    if kind == "timestamp":
        moment = datetime.fromisoformat(str(value))
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    raise ValueError(kind)


def _rules(
    properties: Sequence[SchemaProperty],
    quality: Sequence[DataQuality],
    fields: Mapping[str, Field],
    at: Place,
    problems: Problems,
) -> tuple[Rule, ...]:
    rules: list[Rule] = []
    for i, prop in enumerate(properties):
        here = (*at, "properties", i)
        if prop.name not in fields:
            continue
        if prop.enum:
            rules.append(
                Rule(
                    name=f"{prop.name}_allowed",
                    type="library",
                    column=prop.name,
                    metric="invalidValues",
                    arguments={"validValues": [e.value for e in prop.enum]},
                    operator="mustBe",
                    threshold=0,
                    line=problems.line((*here, "enum")),
                )
            )
        if prop.unique and not prop.primaryKey:
            rules.append(
                Rule(
                    name=f"{prop.name}_unique",
                    type="library",
                    column=prop.name,
                    metric="duplicateValues",
                    operator="mustBe",
                    threshold=0,
                    line=problems.line((*here, "unique")),
                )
            )
        for j, entry in enumerate(prop.quality or []):
            rules.extend(_rule(entry, prop.name, fields, (*here, "quality", j), problems))
    for j, entry in enumerate(quality):
        rules.extend(_rule(entry, None, fields, (*at, "quality", j), problems))
    named: dict[str, int] = {}
    unique: list[Rule] = []
    for rule in rules:  # two rules with one name stay two rules
        named[rule.name] = named.get(rule.name, 0) + 1
        unique.append(rule if named[rule.name] == 1 else replace(rule, name=f"{rule.name}_{named[rule.name]}"))
    return tuple(unique)


def _rule(
    entry: DataQuality, column: str | None, fields: Mapping[str, Field], path: Place, problems: Problems
) -> list[Rule]:
    """The executable rule of one quality entry; none for a `text` entry, which only people read."""
    kind = entry.type or ("library" if entry.metric else None)
    if kind == "text":
        return []
    severity = _SEVERITIES.get((entry.severity or "critical").lower())
    if severity is None:
        problems.add(
            (*path, "severity"),
            f"found {entry.severity!r}, expected one of {', '.join(_SEVERITIES)}",
            f"实际为 {entry.severity!r}，应为 {'、'.join(_SEVERITIES)} 之一",
        )
        severity = "critical"
    base = Rule(
        name=entry.name or entry.id or "_".join(filter(None, (column, entry.metric or kind))),
        type="library",
        column=column,
        severity=severity,
        description=(entry.description or "").strip(),
        line=problems.line(path),
    )
    if kind == "custom":
        return _custom_rule(entry, base, path, problems)
    operators = [o for o in _OPERATORS if getattr(entry, o) is not None]
    if len(operators) != 1:
        problems.add(
            path,
            f"found {len(operators)} operators, expected exactly one of {', '.join(_OPERATORS)}",
            f"有 {len(operators)} 个比较运算，应恰好一个：{'、'.join(_OPERATORS)}",
        )
        return []
    threshold = getattr(entry, operators[0])
    if not _numeric(threshold) or (entry.unit or "rows") not in ("rows", "percent"):
        problems.add(
            path,
            f"{operators[0]}: {threshold!r}, unit: {entry.unit!r}; expected a number (two for Between) of rows or percent",
            f"{operators[0]}: {threshold!r}，unit: {entry.unit!r}；应为数字（Between 为两个），单位 rows 或 percent",
        )
        return []
    base = replace(
        base, operator=operators[0], threshold=threshold, unit=cast(Any, entry.unit or "rows"), metric=entry.metric
    )
    if kind == "sql":
        if not entry.query:
            problems.add(path, "a sql rule without query", "sql 规则缺少 query")
            return []
        return [replace(base, type="sql", query=entry.query.strip().rstrip(";"))]
    return _library_rule(entry, base, fields, path, problems)


def _numeric(threshold: Any) -> bool:
    values = threshold if isinstance(threshold, list) else [threshold]
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _custom_rule(entry: DataQuality, base: Rule, path: Place, problems: Problems) -> list[Rule]:
    engine = re.sub(r"[^a-z]", "", (entry.engine or "").lower())
    body: Any = entry.implementation
    if isinstance(body, str):
        try:
            body = yaml.safe_load(body)
        except yaml.YAMLError:
            body = None
    if engine != "greatexpectations":
        problems.add(
            (*path, "engine"),
            f"found {entry.engine!r}, expected greatExpectations",
            f"实际为 {entry.engine!r}，应为 greatExpectations",
        )
        return []
    kind = (body.get("type") or body.get("expectation_type")) if isinstance(body, dict) else None
    if not isinstance(kind, str) or not kind.startswith("expect_"):
        problems.add(
            (*path, "implementation"),
            "expected a mapping such as {type: expect_column_values_to_be_between, kwargs: {column: …, min_value: 0}}",
            "应为形如 {type: expect_column_values_to_be_between, kwargs: {column: …, min_value: 0}} 的映射",
        )
        return []
    kwargs = dict(body.get("kwargs") or {})
    if base.column and "expect_column_" in kind:
        kwargs.setdefault("column", base.column)
    return [replace(base, type="greatExpectations", expectation={"type": kind, "kwargs": kwargs})]


def _library_rule(
    entry: DataQuality, base: Rule, fields: Mapping[str, Field], path: Place, problems: Problems
) -> list[Rule]:
    arguments = dict(entry.arguments or {})
    if entry.metric not in _METRICS:
        problems.add(
            (*path, "metric"),
            f"found {entry.metric!r}, expected one of {', '.join(_METRICS)}",
            f"实际为 {entry.metric!r}，应为 {'、'.join(_METRICS)} 之一",
        )
        return []
    wanted = {
        "nullValues": set(), "rowCount": set(), "missingValues": {"missingValues"},
        "invalidValues": {"validValues", "pattern"}, "duplicateValues": {"properties"},
    }[entry.metric]  # fmt: skip
    if unknown := arguments.keys() - wanted:
        problems.add(
            (*path, "arguments"),
            f"found {', '.join(sorted(unknown))}, expected {', '.join(sorted(wanted)) or 'none'}",
            f"实际有 {'、'.join(sorted(unknown))}，应为 {'、'.join(sorted(wanted)) or '无'}",
        )
    if entry.metric == "invalidValues":
        if not arguments:
            problems.add(
                path, "invalidValues needs validValues or pattern", "invalidValues 需要 validValues 或 pattern"
            )
        if "pattern" in arguments:
            _check_pattern(arguments["pattern"], (*path, "arguments", "pattern"), problems)
    if entry.metric == "missingValues" and not arguments:
        arguments = {"missingValues": [None, ""]}
    columns = arguments.get("properties")
    if entry.metric == "duplicateValues" and base.column is None and not columns:
        problems.add(
            (*path, "arguments"),
            "duplicateValues at the schema object needs arguments.properties: the columns that are unique together",
            "schema 对象上的 duplicateValues 需要 arguments.properties：共同唯一的列",
        )
    elif entry.metric not in ("rowCount", "duplicateValues") and base.column is None:
        problems.add(path, f"{entry.metric} belongs to a column", f"{entry.metric} 应写在某一列下")
    for name in columns or []:
        if name not in fields:
            problems.add((*path, "arguments", "properties"), f"no column {name!r}", f"没有列 {name!r}")
    return [replace(base, arguments=arguments)]
