"""From text to a document of the Open Data Contract Standard v3, or the line of every mistake in it.

The document is checked against the standard's own JSON Schema, that of v3.2 in the official package. The names that v3.0
had for the same things are read as those of v3.2.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any

import yaml
from jsonschema import Draft201909Validator
from open_data_contract_standard.model import OpenDataContractStandard
from pydantic import ValidationError

from schemas.errors import ContractError

Pointer = tuple[str | int, ...]  # the keys that lead to a value: ("schema", 0, "properties", 2, "physicalType")
LARGEST = 100_000  # values in one contract, aliases counted as often as they are used
DEEPEST = 60  # levels of YAML

_V30_RULES = {"nullCheck": "nullValues", "duplicateCount": "duplicateValues", "validValues": "invalidValues"}
_JSON_TYPES = {
    "string": ("text", "文本"),
    "number": ("a number", "数字"),
    "integer": ("a whole number", "整数"),
    "boolean": ("true or false", "true 或 false"),
    "array": ("a list", "列表"),
    "object": ("a mapping", "映射"),
    "null": ("nothing", "空"),
}


class Problems:
    """What is wrong with one file, each problem with its line; `lines` has the line of every value."""

    def __init__(self, where: str, lines: Mapping[Pointer, int]) -> None:
        self.where, self.lines = where, lines
        self._problems: list[tuple[int, str, str]] = []

    def line(self, at: Pointer) -> int:
        """The line that a value begins in; of a value that is missing, the line of what should hold it."""
        while at and at not in self.lines:
            at = at[:-1]
        return self.lines.get(at, 1)

    def add(self, at: Pointer, en: str, zh: str) -> None:
        """Add a problem of one value: what was found and what is accepted."""
        name = ".".join(str(p) for p in at)
        en_prefix, zh_prefix = (f"{name}: ", f"{name}：") if name else ("", "")
        self._problems.append((self.line(at), en_prefix + en, zh_prefix + zh))

    def raise_if_any(self) -> None:
        """ContractError with every problem, in the order of the file."""
        if self._problems:
            problems = list(dict.fromkeys(sorted(self._problems)))
            raise ContractError(
                "\n".join(f"{self.where}:{line}: {en}" for line, en, _ in problems),
                "\n".join(f"{self.where}:{line}: {zh}" for line, _, zh in problems),
            )


def read_standard(text: str, where: str) -> tuple[OpenDataContractStandard, Problems]:
    """The contract in the official model, and its `Problems`, none so far, to which later checks add.

    ContractError with every line that the standard does not allow.
    """
    document, lines = _read_yaml(text, where)
    _read_as_v32(document)
    problems = Problems(where, lines)
    leaves = [leaf for error in _validator().iter_errors(document) for leaf in _leaves(error)]
    plain = {tuple(e.absolute_path) for e in leaves if e.validator != "unevaluatedProperties"}
    for leaf in leaves:
        at = tuple(leaf.absolute_path)
        if leaf.validator in ("unevaluatedProperties", "additionalProperties"):
            _unknown_keys(leaf, at, at in plain, problems)
        else:
            en, zh = _wanted(leaf)
            found = json.dumps(leaf.instance, ensure_ascii=False, default=str)[:120]
            problems.add(at, f"found {found}, expected {en}", f"实际为 {found}，应为{zh}")
    problems.raise_if_any()
    try:
        return OpenDataContractStandard.model_validate(document), problems
    except ValidationError as error:  # the model refuses what the JSON Schema accepts
        for item in error.errors():
            problems.add(
                item["loc"], f"{item['msg']}, found {item['input']!r}", f"{item['msg']}，实际为 {item['input']!r}"
            )
        problems.raise_if_any()
        raise


# ---- YAML


class _Loader(yaml.SafeLoader):
    """YAML in which a date stays text, since JSON, and so the standard, has no dates."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _read_yaml(text: str, where: str) -> tuple[dict[str, Any], dict[Pointer, int]]:
    lines: dict[Pointer, int] = {}
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            raise _refusal(where, 1, "the file is empty, expected a contract", "文件为空，应为数据契约", _CONTRACT_KEYS)
        _walk(node, (), lines, (), where)
        document = loader.construct_document(node)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        advice = "Take the character out.", "请删除该字符。"
        raise _refusal(where, line, f"not YAML: {error.reason}", f"不是合法的 YAML：{error.reason}", advice) from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: what looks like a number and is none, such as 0b_
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        line = mark.line + 1 if mark else 1
        advice = "Correct the line, or quote the text.", "请修正该行，或给文本加引号。"
        raise _refusal(where, line, f"not YAML: {problem}", f"不是合法的 YAML：{problem}", advice) from error
    except RecursionError as error:
        raise _refusal(where, 1, *_TOO_DEEP) from error
    if not isinstance(document, dict):
        kind = type(document).__name__
        en, zh = f"found {kind}, expected a contract", f"实际为 {kind}，应为数据契约"
        raise _refusal(where, 1, en, zh, _CONTRACT_KEYS)
    return document, lines


_CONTRACT_KEYS = (
    "Its keys are apiVersion, kind, id, version, schema and others of the standard.",
    "其键为 apiVersion、kind、id、version、schema 等标准所列。",
)
_TOO_DEEP = (
    f"nested deeper than {DEEPEST} levels",
    f"嵌套超过 {DEEPEST} 层",
    ("Write it flatter.", "请减少层次。"),
)


def _refusal(where: str, line: int, en: str, zh: str, advice: tuple[str, str]) -> ContractError:
    return ContractError(f"{where}:{line}: {en}. {advice[0]}", f"{where}:{line}: {zh}。{advice[1]}")


def _walk(node: yaml.Node, at: Pointer, lines: dict[Pointer, int], above: tuple[int, ...], where: str) -> None:
    """Keep the line of every value; refuse what YAML allows and no contract needs. `above` are the ids of the nodes around it."""
    line = node.start_mark.line + 1
    if id(node) in above:
        raise _refusal(
            where,
            line,
            "an alias contains itself",
            "别名包含自身",
            ("Recursive schemas are not served; write the levels out.", "不支持递归结构，请逐层写出。"),
        )
    if len(above) > DEEPEST:
        raise _refusal(where, line, *_TOO_DEEP)
    if len(lines) > LARGEST:
        raise _refusal(
            where,
            line,
            f"more than {LARGEST:,} values",
            f"超过 {LARGEST:,} 个值",
            ("Use fewer aliases, or split the contract.", "请减少别名，或拆分契约。"),
        )
    lines[at] = line
    above = (*above, id(node))
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                name = key.value if isinstance(key, yaml.ScalarNode) else "[…]"
                advice = "Put it in quotes if it is text.", "若是文本，请加引号。"
                raise _refusal(where, line, f"key {name} is not text", f"键 {name} 不是文本", advice)
            if key.value in seen:
                raise _refusal(
                    where,
                    line,
                    f"key {key.value!r} is there twice, first in line {seen[key.value]}",
                    f"键 {key.value!r} 重复，首次出现于第 {seen[key.value]} 行",
                    ("Keep one.", "请只保留一个。"),
                )
            seen[key.value] = line
            _walk(value, (*at, key.value), lines, above, where)
            lines[(*at, key.value)] = line
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            _walk(value, (*at, i), lines, above, where)


# ---- other names in v3.0


def _read_as_v32(document: dict[str, Any]) -> None:
    """Rename in the document what v3.0 called otherwise and meant the same; the JSON Schema refuses anything else.

    https://github.com/bitol-io/open-data-contract-standard, docs of v3.0.2 and the change log of v3.1.0.
    """
    for member in _mappings(document.get("team")):
        if "comment" in member and "description" not in member:
            member["description"] = member.pop("comment")
    for schema in _mappings(document.get("schema")):
        for holder in (schema, *_mappings(schema.get("properties"))):
            for entry in _mappings(holder.get("quality")):
                _read_rule_as_v32(entry)


def _read_rule_as_v32(entry: dict[str, Any]) -> None:
    """`rule:` becomes `metric:`; nullCheck and validValues, which had no operator, become ``mustBe: 0``."""
    rule = entry.get("rule")
    if not isinstance(rule, str) or "metric" in entry:
        return
    entry["metric"] = _V30_RULES.get(rule, rule)
    del entry["rule"]
    if rule == "validValues" and "validValues" in entry:
        entry["arguments"] = {"validValues": entry.pop("validValues")}
    if rule in ("nullCheck", "validValues") and not any(name.startswith("must") for name in entry):
        entry["mustBe"] = 0


def _mappings(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


# ---- the standard's JSON Schema


@cache
def _standard() -> dict[str, Any]:
    """The official JSON Schema, changed in two ways for the properties of a schema object.

    A property may leave logicalType out, as the standard's text allows; unchanged, `if: {properties: {logicalType:
    {const: map}}}` is true of such a property too. And its keys are listed instead of left to `unevaluatedProperties`,
    which is checked several times at each level: eight levels took half a minute. (`schemas.odcs.columns` refuses the
    keys that belong to another type.)
    """
    schema: dict[str, Any] = json.loads(OpenDataContractStandard.json_schema())  # type: ignore[no-untyped-call]
    definitions = schema["$defs"]
    base = definitions["SchemaBaseProperty"]
    for part in base["allOf"]:
        if "if" in part:
            part["if"] = {"allOf": [part["if"], {"required": ["logicalType"]}]}
    del base["unevaluatedProperties"]
    for name in ("SchemaProperty", "SchemaItemProperty"):
        del definitions[name]["unevaluatedProperties"]
        keys = dict.fromkeys(_known_keys(definitions[name], definitions), True)
        definitions[name].update(properties=keys | definitions[name].get("properties", {}), additionalProperties=False)
    return schema


@cache
def _validator() -> Draft201909Validator:
    return Draft201909Validator(_standard())


def _leaves(error: Any) -> Iterator[Any]:
    """The errors that a person can act on: of a combined error ("not valid under any of") the deepest one inside it."""
    if error.context and error.validator in ("anyOf", "oneOf", "allOf"):
        deepest = max(len(e.absolute_path) for e in error.context)
        best = [e for e in error.context if len(e.absolute_path) == deepest]
        if deepest > len(error.absolute_path):
            for e in best[:1]:
                yield from _leaves(e)
            return
    yield error


def _wanted(error: Any) -> tuple[str, str]:
    """What the standard accepts in place of the wrong value, in English and Chinese."""
    wanted = error.validator_value
    match error.validator:
        case "type":
            names = wanted if isinstance(wanted, list) else [wanted]
            en = " or ".join(_JSON_TYPES[n][0] for n in names)
            zh = "或".join(_JSON_TYPES[n][1] for n in names)
            quote = "string" in names and isinstance(error.instance, int | float)
            return (f"{en}: put it in quotes", f"{zh}：请加引号") if quote else (en, zh)
        case "enum":
            return f"one of {', '.join(map(str, wanted))}", f" {'、'.join(map(str, wanted))} 之一"
        case "required":
            missing = [name for name in wanted if name not in error.instance]
            return f"the key {' and '.join(missing)} in it", f"其中含有键 {'、'.join(missing)}"
    if error.validator == "oneOf" and (names := [n for option in wanted for n in option.get("required", ())]):
        return f"exactly one of {', '.join(names)}", f"恰好一个：{'、'.join(names)}"
    return f"{error.validator} {json.dumps(wanted)[:200]}", f" {error.validator} {json.dumps(wanted)[:200]}"


def _unknown_keys(error: Any, at: Pointer, others: bool, problems: Problems) -> None:
    """Add each key that the standard does not have in this mapping, with the nearest known key or all of them.

    A validator also calls a known key unevaluated when something else in its mapping is wrong: `others` says that such
    a problem is known already, and then only unknown keys are added.
    """
    known = sorted(_known_keys(error.schema, _standard()["$defs"]))
    strange = [key for key in error.instance if key not in known]
    if not strange and not others:
        strange = [key for key in error.instance if repr(key) in error.message]
    for key in strange:
        close = get_close_matches(key, known, 1, 0.6)
        if key in known:
            en, zh = "it cannot be used with the other keys here", "它与此处的其他键不能并用"
        elif close:
            en, zh = f"did you mean {close[0]}?", f"是否应为 {close[0]}？"
        else:
            en, zh = f"the keys here are {', '.join(known)}", f"此处可用的键：{'、'.join(known)}"
        problems.add(
            (*at, key),
            f"found key {key!r}, which the Open Data Contract Standard v3 does not have here: {en}",
            f"开放数据契约标准（ODCS）v3 在此处没有键 {key!r}：{zh}",
        )


def _known_keys(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> set[str]:
    """Every key that some branch of a JSON Schema names."""
    keys = set(schema.get("properties", ()))
    parts = [*schema.get("allOf", ()), *schema.get("anyOf", ()), *schema.get("oneOf", ())]
    parts += [schema[name] for name in ("then", "else") if name in schema]
    if reference := schema.get("$ref"):
        parts.append(definitions[reference.removeprefix("#/$defs/")])
    return keys.union(*(_known_keys(part, definitions) for part in parts))
