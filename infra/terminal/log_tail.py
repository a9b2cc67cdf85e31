"""The end of a log, as an error message shows it."""

from __future__ import annotations

from pathlib import Path


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log; empty if the file does not exist."""
    text = path.read_text("utf-8", errors="replace") if path.is_file() else ""
    return "\n".join(text.splitlines()[-lines:])
