"""The format number of a state folder and of a lake, so that no version of Suibus misreads the data of another."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from schemas.errors import StateError
from schemas.ports.files import write_whole

FORMAT = 1  # raised with each change of files or tables that another version of Suibus would misread
FORMAT_FILE = "suibus-format.json"


class FoundFormat(NamedTuple):
    """The format of existing data, and the version of Suibus that wrote it."""

    number: int
    made_by: str


WITHOUT_FILE = FoundFormat(0, "before 0.1")  # no released Suibus wrote data without the format file


def format_text() -> str:
    """The text of the format file that this Suibus writes beside its data."""
    return json.dumps({"format": FORMAT, "suibus": version("suibus")}) + "\n"


def other_format(text: str | None) -> FoundFormat | None:
    """The format in the text of a format file (None: there is no file); None if it is the format of this Suibus."""
    try:
        found = json.loads(text or "")
        return None if found["format"] == FORMAT else FoundFormat(int(found["format"]), str(found["suibus"]))
    except (ValueError, KeyError, TypeError):
        return WITHOUT_FILE


def check_state_folder(home: Path) -> None:
    """StateError if a state folder is of another format.

    A folder in which no pass ran may lack the format file: it has only outboxes, which have their own version.
    """
    file = home / FORMAT_FILE
    found = other_format(file.read_text("utf-8")) if file.is_file() else None
    if not file.is_file() and (home / "run" / "pipeline.json").exists():
        found = WITHOUT_FILE
    if found:
        raise StateError(
            f"The state folder {home} is of format {found.number} (Suibus {found.made_by}), and this Suibus reads format {FORMAT}. "
            "Nothing was changed. With the Suibus that made it, send what waits in its outboxes (suibus flush); then move it "
            f"away and start again: mv {home} {home}.old, suibus up.",
            f"状态文件夹 {home} 的格式为 {found.number}（Suibus {found.made_by}），当前 Suibus 只能读取格式 {FORMAT}。未作任何更改。"
            "请先用生成它的 Suibus 发送发件箱中待发的数据（suibus flush），再将其移走并重新开始："
            f"mv {home} {home}.old，然后执行 suibus up。",
        )


def make_state_folder(home: Path) -> None:
    """Create the folder and its format file, each if it is missing; StateError if the folder is of another format."""
    check_state_folder(home)
    if not (home / FORMAT_FILE).is_file():
        write_whole(home / FORMAT_FILE, format_text(), durable=True)
