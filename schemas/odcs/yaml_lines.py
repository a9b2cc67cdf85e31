"""Read YAML together with the line of every value in it; ContractError for YAML that a contract must not use."""

from __future__ import annotations

from typing import Any

import yaml

from schemas.errors import ContractError
from schemas.odcs.problems import Pointer

MOST_VALUES = 100_000  # in one contract; a YAML alias counts each time it is used
MOST_LEVELS = 60  # of nested YAML

_CONTRACT_KEYS = (
    "A contract has the keys apiVersion, kind, id, version, schema and others of the standard.",
    "数据契约的键为 apiVersion、kind、id、version、schema 等，由标准规定。",
)
_TOO_DEEP = (
    f"nested deeper than {MOST_LEVELS} levels",
    f"嵌套超过 {MOST_LEVELS} 层",
    ("Reduce the nesting.", "请减少嵌套层次。"),
)


class _Loader(yaml.SafeLoader):
    """A YAML loader that leaves dates as text: the standard is checked as JSON, which has no dates."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(text: str, where: str) -> tuple[dict[str, Any], dict[Pointer, int]]:
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
