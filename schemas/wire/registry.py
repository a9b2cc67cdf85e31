"""A Confluent-compatible schema registry, where one is configured: ids to schemas and back.

Only two calls of its REST API are needed, so they are made with the standard library. What a registry holds under
an id was written by somebody else: `agreed_schema` says whether it means what the contract means.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import Request, urlopen

from schemas.errors import InputError, UnavailableError

LARGEST_ID = 2**31 - 1  # the API's ids are Java ints: a frame with more was not written from a registry
_NOT_FOUND = (40401, 40402, 40403)  # the API's own codes: subject, version, schema; any other 404 is a wrong URL
_PROMOTED = {("int", "long"), ("float", "double")}  # what Avro resolves and no value changes by
_PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")


class Registry:
    """The registry at a base URL, user:password@ in it if it asks for them. An id's schema never changes: it is kept."""

    def __init__(self, url: str, timeout: float = 10) -> None:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        if parts.scheme not in ("http", "https") or not host:
            shown = url.rpartition("@")[2]
            raise InputError(
                f"SUIBUS_REGISTRY_URL is {shown!r}, expected http://… or https://….",
                f"SUIBUS_REGISTRY_URL 为 {shown!r}，应以 http:// 或 https:// 开头。",
            )
        self.url = parts._replace(netloc=host, query="", fragment="").geturl().rstrip("/")
        self.timeout = timeout
        self._headers = {"Content-Type": "application/vnd.schemaregistry.v1+json"}
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = f"Basic {b64encode(login.encode()).decode()}"
        self._schemas: dict[int, str] = {}

    def schema(self, number: int) -> str | None:
        """The schema of an id as text; None if the registry has no such id. UnavailableError if it is away."""
        if number not in self._schemas:
            if number > LARGEST_ID:
                return None
            try:
                self._schemas[number] = str(self._call(f"/schemas/ids/{number}", "schema"))
            except HTTPError as error:
                detail = _detail(error)
                if error.code == 404 and detail.get("error_code") in _NOT_FOUND:
                    return None
                raise self._away(f"{error.code} {detail['message']}") from None
        return self._schemas[number]

    def register(self, subject: str, schema: Mapping[str, Any]) -> int:
        """The id of a schema under a subject (``<topic>-value``), registered if it is new.

        InputError if the registry refuses the schema, UnavailableError if it is away.
        """
        body = json.dumps({"schema": json.dumps(schema)}).encode()
        stop = (
            "; or unset SUIBUS_REGISTRY_URL to publish in Avro single-object encoding, which needs no registry",
            "；或取消 SUIBUS_REGISTRY_URL，改用无需注册中心的 Avro 单对象编码发布",
        )
        try:
            found = self._call(f"/subjects/{quote(subject, safe='')}/versions", "id", body, stop)
            if type(found) is not int:
                raise self._away(f"its answer names the id {found!r}", stop)
            return found
        except HTTPError as error:
            detail = _detail(error)
            if error.code not in (409, 422):
                raise self._away(f"{error.code} {detail['message']}", stop) from None
            raise InputError(
                f"The schema registry at {self.url} refused the schema of {subject}: {detail['message']}. Nothing was "
                "published. Correct the subject or its compatibility in the registry, or start a new major version.",
                f"模式注册中心 {self.url} 拒绝了 {subject} 的模式：{detail['message']}。未发布任何数据。"
                "请在注册中心更正该主题的模式或兼容级别，或使用新的主版本。",
            ) from None

    def _call(self, path: str, member: str, body: bytes | None = None, stop: tuple[str, str] = ("", "")) -> Any:
        """One member of the answer. HTTPError if the registry says no; UnavailableError if there is no such answer."""
        try:
            request = Request(self.url + path, data=body, headers=self._headers)  # noqa: S310 - http and https only, see __init__
            with urlopen(request, timeout=self.timeout) as response:  # noqa: S310
                return json.load(response)[member]
        except HTTPError:
            raise
        except (KeyError, TypeError):
            raise self._away(f"its answer holds no {member!r}", stop) from None
        except (OSError, HTTPException, ValueError) as error:
            raise self._away(str(getattr(error, "reason", error)), stop) from None

    def _away(self, detail: str, stop: tuple[str, str] = ("", "")) -> UnavailableError:
        return UnavailableError(
            f"The schema registry at {self.url} did not answer as expected: {detail}. Nothing was taken and nothing "
            f"skipped: start it, or set SUIBUS_REGISTRY_URL right, and run the same command again{stop[0]}.",
            f"模式注册中心 {self.url} 未正常应答：{detail}。未接收也未跳过任何数据：请启动它或改正 SUIBUS_REGISTRY_URL，"
            f"然后重新执行同一命令{stop[1]}。",
        )


def _detail(error: HTTPError) -> dict[str, Any]:
    """The API's ``{"error_code": …, "message": …}``, or the text of another server's answer as the message."""
    text = error.read().decode(errors="replace")
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    found = found if isinstance(found, dict) else {}
    return {**found, "message": " ".join(str(found.get("message") or text).split())[:300].rstrip(".")}


def agreed_schema(text: str, reader: Mapping[str, Any]) -> dict[str, Any]:
    """A registry's schema, reduced to what resolves to `reader`, an `avro_schema`, without changing a value.

    Avro resolves by type alone: a decimal of another scale, or milliseconds for microseconds, would be read as a
    wrong value with no error. So every field must be in the contract with the same logical type; int may stand for
    long and float for double. An optional field may be missing, and any may be nullable: a null where the contract
    has none is found in its own record. Names of records, namespaces, docs, defaults and order are the writer's
    affair, and are left out. InputError names what does not agree.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    agreement = _Agreement()
    agreed = agreement.match(found, reader, "", "")
    if agreement.problems:
        few = agreement.problems[:5]
        raise InputError("; ".join(en for en, _ in few), "；".join(zh for _, zh in few))
    return dict(agreed)


class _Agreement:
    """One walk over a writer's schema beside the reader's, noting what differs."""

    def __init__(self) -> None:
        self.problems: list[tuple[str, str]] = []
        self._named: dict[str, Any] = {}

    def match(self, found: Any, wanted: Any, path: str, space: str) -> Any:
        """The writer's type as far as it matters, in the reader's names; `space` is the enclosing namespace."""
        nullable, kind = _nullable(found)
        if nullable:
            inner = self.match(kind, wanted[1] if isinstance(wanted, list) else wanted, path, space)
            return ["null", inner] if found[0] == "null" else [inner, "null"]
        if isinstance(wanted, list):
            wanted = wanted[1]
        if isinstance(found, str) and found not in _PRIMITIVES:
            found = self._named.get(f"{space}.{found}", self._named.get(found))
        elif isinstance(found, str):
            found = {"type": found}
        wanted = {"type": wanted} if isinstance(wanted, str) else wanted
        word = found.get("type") if isinstance(found, dict) else None
        if word == wanted["type"] == "record":
            return self._record(found, wanted, path, space)
        if word == wanted["type"] == "array":
            items = self.match(found.get("items"), wanted["items"], f"{path}[]", space)
            return {"type": "array", "items": items}
        expected, actual = _shown(wanted), _shown(found)
        if actual == expected:
            return wanted
        if (actual, expected) in _PROMOTED:
            return word
        where = path or "the whole"
        self.problems.append(
            (f"{where} is {actual}, expected {expected}", f"{path or '整体'} 为 {actual}，应为 {expected}")
        )
        return wanted

    def _record(self, found: Mapping[str, Any], wanted: Mapping[str, Any], path: str, space: str) -> dict[str, Any]:
        name = str(found.get("name"))
        own, _, last = name.rpartition(".")
        space = own or str(found.get("namespace", space))
        self._named[f"{space}.{last}" if space else last] = found
        members = found.get("fields")
        members = [m for m in members if isinstance(m, dict)] if isinstance(members, list) else []
        known = {f["name"]: f for f in wanted["fields"]}
        fields: dict[str, Any] = {}
        for member in members:
            here = f"{path}.{member.get('name')}".removeprefix(".")
            if (field := known.get(member.get("name"))) is None:
                self.problems.append((f"field {here} is not in the contract", f"契约中没有字段 {here}"))
            elif field["name"] in fields:
                self.problems.append((f"field {here} is there twice", f"字段 {here} 重复"))
            else:
                matched = self.match(member.get("type"), field["type"], here, space)
                fields[field["name"]] = {"name": field["name"], "type": matched}
        for name, field in known.items():
            if name not in fields and "default" not in field:
                here = f"{path}.{name}".removeprefix(".")
                self.problems.append((f"field {here} is missing", f"缺少字段 {here}"))
        return {**wanted, "fields": list(fields.values())}


def _nullable(found: Any) -> tuple[bool, Any]:
    if isinstance(found, list) and len(found) == 2 and found.count("null") == 1:
        return True, next(branch for branch in found if branch != "null")
    return False, found


def _shown(schema: Any) -> str:
    """A type as a person reads it; two types of the same text have the same values behind the same bytes."""
    return " ".join(_words(schema))


def _words(schema: Any) -> Iterator[str]:
    if isinstance(schema, list):
        yield f"a union of {len(schema)}"
    elif not isinstance(schema, dict) or not isinstance(schema.get("type"), str):
        yield "no Avro type"
    else:
        yield schema["type"]
        if schema["type"] != "string" and (logical := schema.get("logicalType")):
            digits = f"({schema.get('precision')},{schema.get('scale', 0)})" if logical == "decimal" else ""
            yield f"{logical}{digits}"
