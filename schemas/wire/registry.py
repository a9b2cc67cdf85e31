"""HTTP client of a Confluent-compatible schema registry: read the schema of an id, register a schema.

Only two calls of its REST API are needed, so they are made with the standard library.
https://docs.confluent.io/platform/current/schema-registry/develop/api.html
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import Request, urlopen

from pydantic import SecretStr

from schemas.errors import InputError, UnavailableError

LARGEST_ID = 2**31 - 1  # the API's ids are Java ints: a larger number in a frame is not the id of any schema
# The API's codes for: no such subject, version, schema. Any other 404 means a wrong URL.
_NO_SUCH_ID = (40401, 40402, 40403)
_INSTEAD = (
    "; or unset SUIBUS_REGISTRY_URL to publish in Avro single-object encoding, which needs no registry",
    "；或取消 SUIBUS_REGISTRY_URL，改用无需注册中心的 Avro 单对象编码发布",
)


class Registry:
    """The registry at a base URL, which may contain user:password@.

    A schema is read once and cached, since the schema of an id never changes. The password is sent only to the host of the
    URL, not to one that it redirects to, and appears in no message. `timeout`: seconds for one call.
    """

    def __init__(self, url: SecretStr | str, timeout: float = 10) -> None:
        text = url.get_secret_value() if isinstance(url, SecretStr) else url
        try:
            parts = urlsplit(text)
        except ValueError:  # its message may quote the password
            parts = urlsplit("")
        host = parts.netloc.rpartition("@")[2]
        if parts.scheme not in ("http", "https") or not host:
            shown = text.rpartition("@")[2]
            raise InputError(
                f"SUIBUS_REGISTRY_URL is {shown!r}, expected http://… or https://…. Correct it.",
                f"SUIBUS_REGISTRY_URL 为 {shown!r}，应以 http:// 或 https:// 开头。请更正。",
            )
        self.url = parts._replace(netloc=host, query="", fragment="").geturl().rstrip("/")
        self.timeout = timeout
        self._authorization: SecretStr | None = None
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._authorization = SecretStr(f"Basic {b64encode(login.encode()).decode()}")
        self._schemas: dict[int, str] = {}

    def schema(self, number: int) -> str | None:
        """The schema of an id, as text; None if the registry does not have the id; UnavailableError if it does not answer."""
        if number not in self._schemas:
            if number > LARGEST_ID:
                return None
            try:
                self._schemas[number] = str(self._call(f"/schemas/ids/{number}", "schema"))
            except HTTPError as error:
                answer = _answer(error)
                if error.code == 404 and answer.get("error_code") in _NO_SUCH_ID:
                    return None
                raise self._away(f"{error.code} {answer['message']}") from None
        return self._schemas[number]

    def register(self, subject: str, schema: Mapping[str, Any]) -> int:
        """Register a schema under a subject (``<topic>-value``) and return its id; the same schema always gets the same id.

        InputError if the registry refuses the schema, UnavailableError if it does not answer.
        """
        body = json.dumps({"schema": json.dumps(schema)}).encode()
        try:
            number = self._call(f"/subjects/{quote(subject, safe='')}/versions", "id", body, _INSTEAD)
        except HTTPError as error:
            answer = _answer(error)
            if error.code not in (409, 422):
                raise self._away(f"{error.code} {answer['message']}", _INSTEAD) from None
            raise InputError(
                f"The schema registry at {self.url} refused the schema of {subject}: {answer['message']}. Nothing was "
                "published. Correct the subject or its compatibility in the registry, or start a new major version.",
                f"模式注册中心 {self.url} 拒绝了 {subject} 的模式：{answer['message']}。未发布任何数据。"
                "请在注册中心更正该主题的模式或兼容级别，或使用新的主版本。",
            ) from None
        if type(number) is not int:
            raise self._away(f"its answer has the id {number!r}, expected a number", _INSTEAD)
        return number

    def _call(self, path: str, member: str, body: bytes | None = None, instead: tuple[str, str] = ("", "")) -> Any:
        """One member of the answer. HTTPError for an error status; UnavailableError for no answer or one without the member."""
        try:
            request = Request(self.url + path, data=body)  # noqa: S310 - http and https only, see __init__
            request.add_header("Content-Type", "application/vnd.schemaregistry.v1+json")
            if self._authorization is not None:  # unredirected: not sent to another host after a redirect
                request.add_unredirected_header("Authorization", self._authorization.get_secret_value())
            with urlopen(request, timeout=self.timeout) as response:  # noqa: S310
                return json.load(response)[member]
        except HTTPError:
            raise
        except (KeyError, TypeError):
            raise self._away(f"its answer has no {member!r}", instead) from None
        except (OSError, HTTPException, ValueError) as error:
            raise self._away(str(getattr(error, "reason", error)), instead) from None

    def _away(self, detail: str, instead: tuple[str, str] = ("", "")) -> UnavailableError:
        return UnavailableError(
            f"The schema registry at {self.url} did not answer as expected: {detail}. Nothing was accepted or "
            f"skipped: start it, or correct SUIBUS_REGISTRY_URL, and run the same command again{instead[0]}.",
            f"模式注册中心 {self.url} 未正常应答：{detail}。未接收也未跳过任何数据：请启动该注册中心，或更正 SUIBUS_REGISTRY_URL，"
            f"然后重新执行同一命令{instead[1]}。",
        )


def _answer(error: HTTPError) -> dict[str, Any]:
    """The API's ``{"error_code": …, "message": …}``; an answer that is not such JSON is returned as `message`."""
    text = error.read().decode(errors="replace")
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    answer = answer if isinstance(answer, dict) else {}
    return {**answer, "message": " ".join(str(answer.get("message") or text).split())[:300].rstrip(".")}
