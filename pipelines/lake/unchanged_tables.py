"""Whether tables are unchanged since the last pass, by the files of their logs alone: Spark is neither started nor imported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from pipelines.lake.storage import local_folder


class CommitStat(NamedTuple):
    """The newest commit of a table: its version, and what `stat` says of its file. Another commit has another CommitStat."""

    version: int
    written_ns: int
    size: int
    inode: int


NO_TABLE = CommitStat(-1, 0, 0, 0)
Layer = Literal["bronze", "silver"]  # the tables that each dataset has
CommitStats = Mapping[str, CommitStat]  # by table name, as in `table_names`


def table_name(layer: Layer, dataset_id: str) -> str:
    """The name of a dataset's table, as a path below the lake's root."""
    return f"{layer}/{dataset_id}"


def table_names(datasets: Iterable[str]) -> list[str]:
    """The names of all tables of a lake that holds these datasets, as paths below its root."""
    each = [name for dataset in datasets for name in (table_name("bronze", dataset), table_name("silver", dataset))]
    return ["releases", "account", *each]


def commit_stat(address: str, version: int) -> CommitStat | None:
    """The stat of one commit. None if the commit is missing or not the newest, or if the table is behind a URL."""
    if (folder := local_folder(address)) is None:
        return None
    log = folder / "_delta_log"
    try:
        stat = (log / f"{version:020}.json").stat()
    except OSError:
        return None
    if (log / f"{version + 1:020}.json").exists():
        return None
    return CommitStat(version, stat.st_mtime_ns, stat.st_size, stat.st_ino)


def is_absent(address: str) -> bool:
    """Whether there is no table at a local address; False for a URL, which is not looked up."""
    folder = local_folder(address)
    return folder is not None and not (folder / "_delta_log").exists()


def is_unchanged(root: str, commit_stats: CommitStats) -> bool:
    """Whether each table still has the same newest commit; False if `commit_stats` is empty."""
    return bool(commit_stats) and all(
        is_absent(f"{root}/{name}") if stat == NO_TABLE else commit_stat(f"{root}/{name}", stat.version) == stat
        for name, stat in commit_stats.items()
    )
