"""A file written whole has its old text or its new one; if it cannot be written, the error says what to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from schemas.errors import UnavailableError
from schemas.ports.files import write_whole


def test_a_file_is_replaced_and_its_folder_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    for text in ("first 穗\r\n", "second"):
        write_whole(path, text)
        assert path.read_bytes() == text.encode()
    assert list(path.parent.iterdir()) == [path]


def test_a_secret_file_can_be_read_by_its_owner_only(tmp_path: Path) -> None:
    write_whole(tmp_path / "secret", "x", secret=True)
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_a_full_disk_leaves_the_old_text_and_no_draft_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_whole(path, "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UnavailableError, match=r"No space left on device.*Free some disk space") as refusal:
        write_whole(path, "new", durable=True)
    assert "请释放磁盘空间" in refusal.value.zh
    assert path.read_text("utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]
