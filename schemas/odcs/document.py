"""Read text as a document of the Open Data Contract Standard v3; ContractError has the line of every mistake.

Keys of v3.0 are renamed to those of v3.2, then the document is checked against the JSON Schema of v3.2 from the official
package.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any

from jsonschema import Draft201909Validator
from open_data_contract_standard.model import OpenDataContractStandard
from pydantic import ValidationError

from schemas.odcs.problems import Pointer, Problems
from schemas.odcs.version_3_0 import read_as_v32
from schemas.odcs.yaml_lines import read_yaml

_JSON_TYPES = {
    "string": ("text", "文本"),
    "number": ("a number", "数字"),
    "integer": ("a whole number", "整数"),
    "boolean": ("true or false", "true 或 false"),
    "array": ("a list", "列表"),
    "object": ("a mapping", "映射"),
    "null": ("nothing", "空"),
}


def read_document(text: str, where: str) -> tuple[OpenDataContractStandard, Problems]:
    """The contract in the official model, and an empty `Problems`, to which the checks of Suibus add.

    ContractError with the line of everything that the standard does not allow.
    """
    document, lines = read_yaml(text, where)
    read_as_v32(document)
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


@cache
def _json_schema() -> dict[str, Any]:
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
    return Draft201909Validator(_json_schema())


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
    known = sorted(_known_keys(error.schema, _json_schema()["$defs"]))
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
