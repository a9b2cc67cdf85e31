"""The format of a state folder and of a lake: a number beside the data, so that no Suibus misreads what another one wrote."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from schemas.errors import StateError
from schemas.ports.files import write_whole

FORMAT = 1  # raised with every change of files or tables that an older or newer Suibus would misread
FORMAT_FILE = "suibus-format.json"


class FoundFormat(NamedTuple):
    """The format that was found, and the Suibus that wrote it."""

    number: int
    made_by: str


BEFORE = FoundFormat(0, "before 0.1")  # data without the file: no released Suibus wrote it


def format_text() -> str:
    """What stands in the file of data that this Suibus makes."""
    return json.dumps({"format": FORMAT, "suibus": version("suibus")}) + "\n"


def other_format(text: str | None) -> FoundFormat | None:
    """What data with this file's text (None: no such file) was made by, if that is another format; None if it is this one."""
    try:
        found = json.loads(text or "")
        return None if found["format"] == FORMAT else FoundFormat(int(found["format"]), str(found["suibus"]))
    except (ValueError, KeyError, TypeError):
        return BEFORE


def check_state_folder(home: Path) -> None:
    """StateError if a state folder is of another format. One in which no pass ran needs no format: its outboxes have their own."""
    file = home / FORMAT_FILE
    found = other_format(file.read_text("utf-8")) if file.is_file() else None
    if not file.is_file() and (home / "run" / "pipeline.json").exists():
        found = BEFORE
    if found:
        raise StateError(
            f"The state folder {home} is of format {found.number} (Suibus {found.made_by}), and this Suibus reads format {FORMAT}. "
            "Nothing was changed. With the Suibus that made it, send what waits in its outboxes (suibus flush); then move it "
            f"away and begin anew: mv {home} {home}.old, suibus up.",
            f"状态文件夹 {home} 的格式为 {found.number}（Suibus {found.made_by}），当前 Suibus 只能读取格式 {FORMAT}。未作任何更改。"
            "请先用生成它的 Suibus 发送发件箱中待发的数据（suibus flush），再将其移走并重新开始："
            f"mv {home} {home}.old，然后执行 suibus up。",
        )


def make_state_folder(home: Path) -> None:
    """Make a state folder of this format unless it is there; StateError if it is of another format."""
    check_state_folder(home)
    if not (home / FORMAT_FILE).is_file():
        write_whole(home / FORMAT_FILE, format_text(), durable=True)
