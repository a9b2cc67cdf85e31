"""Write files atomically: after a kill or a power cut, a file has its old text or its new one."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from schemas.errors import UnavailableError


def write_whole(path: Path, text: str, *, durable: bool = False, secret: bool = False) -> None:
    """Write a UTF-8 text file in one step, replacing an existing one; its folder is created if it is missing.

    UnavailableError if it cannot be written, such as on a full disk; the old text is then still there.
    `durable`: after the return the new text survives a power cut. `secret`: durable, and only the owner can read the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    mode = 0o600 if secret else 0o666
    try:
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            if durable or secret:
                file.flush()
                os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise UnavailableError(
            f"{path} cannot be written ({error.strerror or error}). It is as it was. Free some disk space or correct the permissions, then "
            "run the same command again.",
            f"{path} 无法写入（{error.strerror or error}），其内容未变。请释放磁盘空间或更正权限，然后重新执行同一命令。",
        ) from None
