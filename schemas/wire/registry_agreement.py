"""Check a schema from a registry against the contract, since any program may register a schema there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from schemas.errors import InputError

_PROMOTED = {("int", "long"), ("float", "double")}  # writer's and reader's type that Avro resolves to the same value
_PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")


def agreed_schema(text: str, reader: Mapping[str, Any]) -> dict[str, Any]:
    """A registry's schema in the names of `reader`, an `avro_schema`, to which every value resolves unchanged.

    Avro resolves by type and ignores logical types: a decimal of another scale, or milliseconds for microseconds, would be
    read as a wrong value without an error. Every field must therefore be in the contract with the same logical type. int
    may stand for long, and float for double. An optional field may be missing, and any field may be nullable: a null in a
    required column is refused later, with its record. Names of records, namespaces, docs, defaults and the order of fields
    may differ. InputError names the first five differences.
    """
    try:
        writer = json.loads(text)
    except (ValueError, RecursionError):
        writer = None
    comparison = _Comparison()
    agreed = comparison.match(writer, reader, "", "")
    if comparison.differences:
        first = comparison.differences[:5]
        raise InputError("; ".join(en for en, _ in first), "；".join(zh for _, zh in first))
    return dict(agreed)


class _Comparison:
    """One comparison of a writer's schema with the reader's; `differences` has each in English and Chinese."""

    def __init__(self) -> None:
        self.differences: list[tuple[str, str]] = []
        self._named: dict[str, Any] = {}  # the writer's records so far, by full name: later types may refer to them

    def match(self, writer: Any, reader: Any, path: str, namespace: str) -> Any:
        """The writer's type with the reader's names, without docs and defaults; adds to `differences` if the two disagree.

        `path` leads from the root record to the type; `namespace` is that of the enclosing record.
        """
        nullable, other = _nullable(writer)
        if nullable:
            inner = self.match(other, reader[1] if isinstance(reader, list) else reader, path, namespace)
            return ["null", inner] if writer[0] == "null" else [inner, "null"]
        if isinstance(reader, list):
            reader = reader[1]
        if isinstance(writer, str) and writer not in _PRIMITIVES:
            writer = self._named.get(f"{namespace}.{writer}", self._named.get(writer))
        elif isinstance(writer, str):
            writer = {"type": writer}
        reader = {"type": reader} if isinstance(reader, str) else reader
        kind = writer.get("type") if isinstance(writer, dict) else None
        if kind == reader["type"] == "record":
            return self._record(writer, reader, path, namespace)
        if kind == reader["type"] == "array":
            items = self.match(writer.get("items"), reader["items"], f"{path}[]", namespace)
            return {"type": "array", "items": items}
        actual, expected = _type_text(writer), _type_text(reader)
        if actual == expected:
            return reader
        if (actual, expected) in _PROMOTED:
            return kind
        self.differences.append(
            (
                f"{path or 'the whole schema'} is {actual}, expected {expected}",
                f"{path or '整个模式'} 为 {actual}，应为 {expected}",
            )
        )
        return reader

    def _record(
        self, writer: Mapping[str, Any], reader: Mapping[str, Any], path: str, namespace: str
    ) -> dict[str, Any]:
        own, _, last = str(writer.get("name")).rpartition(".")
        namespace = own or str(writer.get("namespace", namespace))
        self._named[f"{namespace}.{last}" if namespace else last] = writer
        members = writer.get("fields")
        members = [m for m in members if isinstance(m, dict)] if isinstance(members, list) else []
        known = {f["name"]: f for f in reader["fields"]}
        fields: dict[str, Any] = {}
        for member in members:
            name = str(member.get("name"))
            inside = f"{path}.{name}".removeprefix(".")
            if (field := known.get(name)) is None:
                self.differences.append((f"field {inside} is not in the contract", f"契约中没有字段 {inside}"))
            elif name in fields:
                self.differences.append((f"field {inside} appears twice", f"字段 {inside} 重复"))
            else:
                matched = self.match(member.get("type"), field["type"], inside, namespace)
                fields[name] = {"name": name, "type": matched}
        for name, field in known.items():
            if name not in fields and "default" not in field:
                inside = f"{path}.{name}".removeprefix(".")
                self.differences.append((f"field {inside} is missing", f"缺少字段 {inside}"))
        return {**reader, "fields": list(fields.values())}


def _nullable(schema: Any) -> tuple[bool, Any]:
    """Whether a schema is a union of null and one other type, and that type."""
    if isinstance(schema, list) and len(schema) == 2 and schema.count("null") == 1:
        (other,) = (branch for branch in schema if branch != "null")
        return not isinstance(other, list), other  # Avro has no union in a union
    return False, schema


def _type_text(schema: Any) -> str:
    """A type as text. Two types with the same text decode the same bytes to the same value."""
    return " ".join(_type_words(schema))


def _type_words(schema: Any) -> Iterator[str]:
    if isinstance(schema, list):
        yield f"a union of {len(schema)}"
    elif not isinstance(schema, dict) or not isinstance(schema.get("type"), str):
        yield "no Avro type"
    else:
        yield schema["type"]
        if schema["type"] != "string" and (logical := schema.get("logicalType")):
            digits = f"({schema.get('precision')},{schema.get('scale', 0)})" if logical == "decimal" else ""
            yield f"{logical}{digits}"
