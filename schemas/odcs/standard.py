"""Read text as a document of the Open Data Contract Standard v3; ContractError has the line of every mistake.

The document is checked against the JSON Schema of v3.2 from the official package. Keys that v3.0 named differently are
renamed to those of v3.2 before.
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
MOST_VALUES = 100_000  # in one contract; a YAML alias counts each time it is used
MOST_LEVELS = 60  # of nested YAML

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
    """The problems found in one file, each with its line. `lines` maps every value of the file to its line."""

    def __init__(self, where: str, lines: Mapping[Pointer, int]) -> None:
        self.where, self.lines = where, lines
        self._problems: list[tuple[int, str, str]] = []

    def line(self, at: Pointer) -> int:
        """The line on which a value begins; for a missing value, the line of the nearest mapping or list that exists."""
        while at and at not in self.lines:
            at = at[:-1]
        return self.lines.get(at, 1)

    def add(self, at: Pointer, en: str, zh: str) -> None:
        """Add a problem of the value at a pointer; the text says what was found and what was expected."""
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
    """The contract in the official model, and an empty `Problems`, to which the checks of Suibus add.

    ContractError with the line of everything that the standard does not allow.
    """
    document, lines = _read_yaml(text, where)
    _read_as_v32(document)
    problems = Problems(where, lines)
    leaves = [leaf for error in _validator().iter_errors(document) for leaf in _leaves(error)]
    otherwise_wrong = {tuple(e.absolute_path) for e in leaves if e.validator != "unevaluatedProperties"}
    for leaf in leaves:
        at = tuple(leaf.absolute_path)
        if leaf.validator in ("unevaluatedProperties", "additionalProperties"):
            _add_unknown_keys(leaf, at, at in otherwise_wrong, problems)
        else:
            en, zh = _expected(leaf)
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
    """A YAML loader that leaves dates as text: the standard is checked as JSON, which has no dates."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _read_yaml(text: str, where: str) -> tuple[dict[str, Any], dict[Pointer, int]]:
    """The document, and the line of every value in it; ContractError if the text is not a YAML mapping."""
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
        advice = "Remove the character.", "请删除该字符。"
        raise _refusal(where, line, f"not YAML: {error.reason}", f"不是合法的 YAML：{error.reason}", advice) from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: text that only looks like a number, such as 0b_
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
    "A contract has the keys apiVersion, kind, id, version, schema and others of the standard.",
    "数据契约的键为 apiVersion、kind、id、version、schema 等，由标准规定。",
)
_TOO_DEEP = (
    f"nested deeper than {MOST_LEVELS} levels",
    f"嵌套超过 {MOST_LEVELS} 层",
    ("Reduce the nesting.", "请减少嵌套层次。"),
)


def _refusal(where: str, line: int, en: str, zh: str, advice: tuple[str, str]) -> ContractError:
    return ContractError(f"{where}:{line}: {en}. {advice[0]}", f"{where}:{line}: {zh}。{advice[1]}")


def _walk(node: yaml.Node, at: Pointer, lines: dict[Pointer, int], above: tuple[int, ...], where: str) -> None:
    """Record the line of every value in `lines`; ContractError for YAML that a contract must not use.

    That is recursion, deep nesting, too many values, keys that are not text, and duplicate keys. `above` has the ids of the
    enclosing nodes.
    """
    line = node.start_mark.line + 1
    if id(node) in above:
        raise _refusal(
            where,
            line,
            "an alias contains itself",
            "别名包含自身",
            ("Recursive schemas are not supported; write out each level.", "不支持递归结构，请逐层写出。"),
        )
    if len(above) > MOST_LEVELS:
        raise _refusal(where, line, *_TOO_DEEP)
    if len(lines) > MOST_VALUES:
        raise _refusal(
            where,
            line,
            f"more than {MOST_VALUES:,} values",
            f"超过 {MOST_VALUES:,} 个值",
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
                    f"key {key.value!r} appears twice, first in line {seen[key.value]}",
                    f"键 {key.value!r} 重复，首次出现于第 {seen[key.value]} 行",
                    ("Keep one of them.", "请只保留其中一个。"),
                )
            seen[key.value] = line
            _walk(value, (*at, key.value), lines, above, where)
            lines[(*at, key.value)] = line
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            _walk(value, (*at, i), lines, above, where)


# ---- keys of v3.0


def _read_as_v32(document: dict[str, Any]) -> None:
    """Rename the keys of v3.0 that v3.2 names differently. Everything else is left for the JSON Schema to check.

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
    """The official JSON Schema, with two changes for the properties of a schema object.

    First, a property may omit logicalType, as the text of the standard allows; without the change, `if: {properties:
    {logicalType: {const: map}}}` is true for such a property. Second, the allowed keys are listed, in place of
    `unevaluatedProperties`, which is evaluated several times at each level: eight levels took half a minute.
    (`schemas.odcs.columns` refuses keys that belong to another type.)
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
    """The errors to report: in place of a combined error ("not valid under any of"), the deepest error inside it."""
    if error.context and error.validator in ("anyOf", "oneOf", "allOf"):
        deepest = max(len(e.absolute_path) for e in error.context)
        best = [e for e in error.context if len(e.absolute_path) == deepest]
        if deepest > len(error.absolute_path):
            for e in best[:1]:
                yield from _leaves(e)
            return
    yield error


def _expected(error: Any) -> tuple[str, str]:
    """What the standard accepts at the place of an error, in English and Chinese."""
    expected = error.validator_value
    match error.validator:
        case "type":
            names = expected if isinstance(expected, list) else [expected]
            en = " or ".join(_JSON_TYPES[n][0] for n in names)
            zh = "或".join(_JSON_TYPES[n][1] for n in names)
            quote = "string" in names and isinstance(error.instance, int | float)
            return (f"{en}: put it in quotes", f"{zh}：请加引号") if quote else (en, zh)
        case "enum":
            return f"one of {', '.join(map(str, expected))}", f" {'、'.join(map(str, expected))} 之一"
        case "required":
            missing = [name for name in expected if name not in error.instance]
            return f"the key {' and '.join(missing)} in it", f"其中含有键 {'、'.join(missing)}"
    if error.validator == "oneOf" and (names := [n for option in expected for n in option.get("required", ())]):
        return f"exactly one of {', '.join(names)}", f"恰好一个：{'、'.join(names)}"
    return f"{error.validator} {json.dumps(expected)[:200]}", f" {error.validator} {json.dumps(expected)[:200]}"


def _add_unknown_keys(error: Any, at: Pointer, otherwise_wrong: bool, problems: Problems) -> None:
    """Add a problem for each key that the standard does not have in this mapping, with the most similar key or all keys.

    The validator also reports known keys as unevaluated if anything else in their mapping is wrong. Such keys are not added
    if `otherwise_wrong` says that the mapping has another problem.
    """
    known = sorted(_known_keys(error.schema, _standard()["$defs"]))
    refused = [key for key in error.instance if key not in known]
    if not refused and not otherwise_wrong:
        refused = [key for key in error.instance if repr(key) in error.message]
    for key in refused:
        close = get_close_matches(key, known, 1, 0.6)
        if key in known:
            en, zh = "it cannot be combined with the other keys here", "该键不能与此处的其他键同时使用"
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
    """All keys that any branch of a JSON Schema names."""
    keys = set(schema.get("properties", ()))
    parts = [*schema.get("allOf", ()), *schema.get("anyOf", ()), *schema.get("oneOf", ())]
    parts += [schema[name] for name in ("then", "else") if name in schema]
    if reference := schema.get("$ref"):
        parts.append(definitions[reference.removeprefix("#/$defs/")])
    return keys.union(*(_known_keys(part, definitions) for part in parts))
