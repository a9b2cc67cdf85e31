"""Write files atomically: after a kill or a power cut, a file has its old text or its new one."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, text: str, *, durable: bool = False, secret: bool = False) -> None:
    """Write a UTF-8 text file in one step, replacing an existing one; its folder is created if it is missing.

    `durable`: after the return the new text survives a power cut. `secret`: durable, and only the owner can read the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    draft.unlink(missing_ok=True)
    mode = 0o600 if secret else 0o666
    with os.fdopen(
        os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8", newline=""
    ) as file:
        file.write(text)
        if durable or secret:
            file.flush()
            os.fsync(file.fileno())
    draft.replace(path)
