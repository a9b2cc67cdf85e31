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


def format_text() -> str:
    """The text of the format file that this Suibus writes beside its data."""
    return json.dumps({"format": FORMAT, "suibus": version("suibus")}) + "\n"


def other_format(text: str | None, where: str, otherwise: tuple[str, str]) -> FoundFormat | None:
    """The format in the text of the format file `where`; None if it is that of this Suibus.

    StateError if it is damaged, or missing (`text` is None) although data lies beside it; `otherwise` says, in English and
    Chinese, what to do if nobody knows the format any more.
    """
    try:
        found = json.loads(text or "")
        return None if found["format"] == FORMAT else FoundFormat(int(found["format"]), str(found["suibus"]))
    except (ValueError, KeyError, TypeError):
        what, zh = ("missing", "缺失") if text is None else ("damaged", "已损坏")
        made_by, line = version("suibus"), format_text().strip()
        raise StateError(
            f"{where}, which names the format of the data beside it, is {what}. Nothing was changed. Restore this file from a "
            f"backup; or, if Suibus {made_by} wrote the data, write this line into it: {line}. Otherwise {otherwise[0]}.",
            f"{where} 记录同一文件夹中数据的格式，该文件{zh}。未作任何更改。请从备份恢复该文件；如数据由 Suibus {made_by} 写入，"
            f"也可在其中写入这一行：{line}。否则{otherwise[1]}。",
        ) from None


def check_state_folder(home: Path) -> None:
    """StateError if a state folder is of another format; without the format file it is new, or has only outboxes."""
    file = home / FORMAT_FILE
    if not file.is_file():
        return
    restart = (
        f"move it away and start again: mv {home} {home}.old, suibus up",
        f"请将其移走并重新开始：mv {home} {home}.old，然后执行 suibus up",
    )
    if found := other_format(file.read_text("utf-8", "replace"), str(file), restart):
        raise StateError(
            f"The state folder {home} is of format {found.number} (Suibus {found.made_by}), and this Suibus reads format {FORMAT}. "
            f"Nothing was changed. With the Suibus that made it, send what waits in its outboxes (suibus flush); then {restart[0]}.",
            f"状态文件夹 {home} 的格式为 {found.number}（Suibus {found.made_by}），当前 Suibus 只能读取格式 {FORMAT}。未作任何更改。"
            f"请先用生成它的 Suibus 发送发件箱中待发的数据（suibus flush）；之后{restart[1]}。",
        )


def make_state_folder(home: Path) -> None:
    """Create the folder and its format file, each if it is missing; StateError if the folder is of another format."""
    check_state_folder(home)
    if not (home / FORMAT_FILE).is_file():
        write_whole(home / FORMAT_FILE, format_text(), durable=True)
