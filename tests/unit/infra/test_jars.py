"""A jar is used only if it has the SHA-256 of the lock."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from infra.jvm.jars import COORDINATES, LOCK, check_jars, checked_jars, read_lock, resolve_jars
from infra.settings import Settings
from schemas.errors import StateError

ROOT = Path(__file__).parents[3]
A, B = "broker/org/a/jars/a-1.jar", "broker/org/b/jars/b-2.jar"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A folder with two jars, and the lock that names them."""
    lines = ["# as ours begins"]
    for name in (A, B):
        path = tmp_path / "jars" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(name.encode() * 1000)
        lines.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}")
    (tmp_path / "jars.lock").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr("infra.jvm.jars.LOCK", tmp_path / "jars.lock")
    return Settings(home=tmp_path, jars=tmp_path / "jars")


def change_one_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)


def test_locked_jars_are_used_in_the_order_of_the_lock_and_not_read_again(settings: Settings) -> None:
    assert checked_jars("broker", settings) is None
    paths = [settings.jars / A, settings.jars / B]
    assert resolve_jars("broker", settings) == paths
    assert checked_jars("broker", settings) == paths


@pytest.mark.parametrize("checked_before", [False, True])
def test_jar_with_one_byte_changed_is_refused(settings: Settings, checked_before: bool) -> None:
    if checked_before:
        resolve_jars("broker", settings)
    change_one_byte(settings.jars / B)
    assert checked_jars("broker", settings) is None
    with pytest.raises(StateError, match="none of them is used") as caught:
        resolve_jars("broker", settings)
    expected, found = read_lock("broker")[B], hashlib.sha256((settings.jars / B).read_bytes()).hexdigest()
    for text in (caught.value.en, caught.value.zh):
        assert all(part in text for part in (B, expected, found, "python -m infra.jvm.jars", "make lock"))
        assert A not in text


def test_a_repaired_jar_is_used_again(settings: Settings) -> None:
    change_one_byte(settings.jars / B)
    with pytest.raises(StateError):
        resolve_jars("broker", settings)
    change_one_byte(settings.jars / B)
    assert resolve_jars("broker", settings)


def test_a_copied_folder_is_checked_again_without_network(settings: Settings, tmp_path: Path) -> None:
    resolve_jars("broker", settings)
    settings.jars.rename(tmp_path / "copy")
    copy = Settings(home=tmp_path, jars=tmp_path / "copy", java_home=tmp_path)
    (tmp_path / "copy" / A).write_bytes((tmp_path / "copy" / A).read_bytes())  # another mtime, as in a copy
    assert checked_jars("broker", copy) is None
    assert resolve_jars("broker", copy) == [copy.jars / A, copy.jars / B]


def test_missing_and_additional_jars_are_named(settings: Settings) -> None:
    locked = read_lock("broker")
    additional = "broker/org/c/jars/c-3.jar"
    (settings.jars / additional).parent.mkdir(parents=True)
    (settings.jars / additional).write_bytes(b"c")
    with pytest.raises(StateError) as caught:
        check_jars("broker", settings.jars, [A, additional], locked)
    for text, missing, not_locked in (
        (caught.value.en, "missing", "not in the lock"),
        (caught.value.zh, "缺失", "不在锁定清单中"),
    ):
        assert re.search(f"{B}.{{1,2}}{missing}", text)
        assert re.search(f"{additional}.{{1,2}}{not_locked}", text)


@pytest.mark.parametrize("name", COORDINATES)
def test_the_shipped_lock_has_a_hash_for_every_coordinate(name: str) -> None:
    locked = read_lock(name)  # type: ignore[arg-type]
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in locked.values())
    for coordinate in COORDINATES[name]:  # type: ignore[index]
        group, module, version = coordinate.split(":")
        assert f"{name}/{group}/{module}/jars/{module}-{version}.jar" in locked


def test_lock_is_among_the_files_of_the_wheel() -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    shipped = re.search(r"^infra = \[(.*)\]$", text, re.MULTILINE)
    assert shipped
    assert f'"{LOCK.relative_to(ROOT / "infra").as_posix()}"' in shipped[1]
