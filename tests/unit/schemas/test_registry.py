"""The address of a registry is checked before it is used, and its password is shown nowhere."""

from __future__ import annotations

from base64 import b64encode

import pytest
from pydantic import SecretStr

from schemas.errors import InputError
from schemas.wire.registry import Registry


@pytest.mark.parametrize(
    "url",
    [
        "user:geheim@host:8081",
        "ftp://user:geheim@host",
        "http://",
        "file:///etc/passwd",
        "http://u:geheim@[::1",
        "http://u:geheim@ho\u2100st",
    ],
)
@pytest.mark.parametrize("of", [str, SecretStr])
def test_a_registry_url_is_http_and_its_password_is_not_shown(url: str, of: type[str] | type[SecretStr]) -> None:
    with pytest.raises(InputError, match="SUIBUS_REGISTRY_URL") as refused:
        Registry(of(url))
    assert "geheim" not in str(refused.value)


def test_a_registry_holds_its_password_as_a_secret() -> None:
    registry = Registry(SecretStr("http://user:geheim@host:8081/base/"))
    assert registry.url == "http://host:8081/base"
    shown = repr(vars(registry))
    assert "geheim" not in shown
    assert b64encode(b"user:geheim").decode() not in shown
