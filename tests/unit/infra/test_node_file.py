"""A node's file: what is read from it, and when it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from infra.node_file import node_text, read_node_file
from schemas.errors import InputError
from schemas.ports.files import write_whole
from schemas.ports.kafka_access import KafkaAccess

AUTHORITY = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"
PASSWORD = SecretStr("s3cret")


def node_file(path: Path, **secret: str | SecretStr) -> Path:
    text = node_text("bus.example:9093", "440106.1f2e3d4c", AUTHORITY, "440106", **secret)  # type: ignore[arg-type]
    write_whole(path, text, secret=True)
    return path


def test_file_with_a_password_gives_access_by_it(tmp_path: Path) -> None:
    path = node_file(tmp_path / "n.toml", password=PASSWORD)
    found = read_node_file(path)
    assert found.access == KafkaAccess("bus.example:9093", "440106.1f2e3d4c", PASSWORD, authority=path)
    assert (found.user, found.district, found.authority) == ("440106.1f2e3d4c", "440106", AUTHORITY)


def test_file_with_a_certificate_gives_access_by_itself(tmp_path: Path) -> None:
    path = node_file(tmp_path / "n.toml", certificate=AUTHORITY, key=SecretStr("KEY"))
    access = KafkaAccess("bus.example:9093", "440106.1f2e3d4c", None, path, path, path)
    assert read_node_file(path).access == access


def test_a_node_file_that_was_read_shows_no_secret(tmp_path: Path) -> None:
    found = read_node_file(node_file(tmp_path / "n.toml", password=PASSWORD))
    assert "s3cret" not in f"{found} {found!r} {found.access.kafka_python()} {found.access.librdkafka()}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("servers = 'a:1'\nuser = 'u'\n", "incomplete"),
        ("servers = 'a:1'\nuser = 'u'\nkey = 'k'\n", "incomplete"),
        ("servers = 'a:1'\nuser = 'u'\nkey = 'k'\ncertificate = 'c'\npassword = 'p'\n", "incomplete"),
        ("user = 'u'\npassword = 'p'\n", "incomplete"),
        ("servers = a:1\npassword = s3cret", "not TOML"),
        (None, "No such file"),
    ],
)
def test_incomplete_file_is_refused_without_showing_it(tmp_path: Path, text: str | None, reason: str) -> None:
    path = tmp_path / "n.toml"
    if text is not None:
        write_whole(path, text, secret=True)
    with pytest.raises(InputError, match=reason) as caught:
        read_node_file(path)
    assert "s3cret" not in str(caught.value)
    assert str(path) in caught.value.zh


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = node_file(tmp_path / "n.toml", password=PASSWORD)
    path.chmod(mode)
    with pytest.raises(InputError, match="chmod 600"):
        read_node_file(path)
