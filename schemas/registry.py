"""A Confluent-compatible schema registry, where one is configured: ids to schemas and back.

Only two calls of its REST API are needed, so they are made with the standard library.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from schemas.errors import InputError, UnavailableError


class Registry:
    """The registry at a base URL. Answers are kept for good: an id never changes its schema."""

    def __init__(self, url: str, timeout: float = 10) -> None:
        if not url.startswith(("http://", "https://")):
            raise InputError(
                f"SUIBUS_REGISTRY_URL is {url!r}, expected http://… or https://….",
                f"SUIBUS_REGISTRY_URL 为 {url!r}，应以 http:// 或 https:// 开头。",
            )
        self.url = url.rstrip("/")
        self.timeout = timeout
        self._schemas: dict[int, str] = {}

    def schema(self, number: int) -> str | None:
        """The Avro schema of an id, as JSON text; None if the registry has no such id."""
        if number not in self._schemas:
            try:
                self._schemas[number] = self._call(f"/schemas/ids/{number}")["schema"]
            except HTTPError as error:
                if error.code == 404:
                    return None
                raise self._away(error) from error
        return self._schemas[number]

    def register(self, subject: str, schema: Mapping[str, Any]) -> int:
        """The id of a schema under a subject (``<topic>-value``), registered if it is new."""
        body = json.dumps({"schema": json.dumps(schema)}).encode()
        try:
            return int(self._call(f"/subjects/{quote(subject, safe='')}/versions", body)["id"])
        except HTTPError as error:
            raise self._away(error) from error

    def _call(self, path: str, body: bytes | None = None) -> dict[str, Any]:
        headers = {"Content-Type": "application/vnd.schemaregistry.v1+json"}
        try:
            request = Request(self.url + path, data=body, headers=headers)  # noqa: S310 - http and https only, see __init__
            with urlopen(request, timeout=self.timeout) as response:  # noqa: S310
                answer: dict[str, Any] = json.load(response)
                return answer
        except HTTPError:
            raise
        except (URLError, OSError, ValueError) as error:
            raise self._away(error) from error

    def _away(self, error: Exception) -> UnavailableError:
        detail = error.read().decode(errors="replace")[:200] if isinstance(error, HTTPError) else error
        return UnavailableError(
            f"The schema registry at {self.url} did not answer as expected: {detail}. "
            "Start it, or unset SUIBUS_REGISTRY_URL to use Avro single-object encoding.",
            f"模式注册中心 {self.url} 未正常应答：{detail}。请启动它，或取消 SUIBUS_REGISTRY_URL 以使用 Avro 单对象编码。",
        )
