"""Back up and restore the state folder and the lake: a backup is complete or absent, and a restore checks every byte.

    DEST/manifest.json      version and time of the backup; SHA-256, size and mode of each file
         manifest.sha256    the SHA-256 of manifest.json, for `sha256sum -c`
         state/…            the state folder: contracts, outboxes, inboxes, credentials, the broker's data
         lake/…             the tables, also if the lake is outside the state folder

Locks, logs, Spark's temporary files, and which processes run are not backed up. A lake behind a URL has to be backed up by its storage system.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from infra.bus.bus import Bus
from infra.file_digest import file_digest
from infra.operate.copying import DRAFT_LEASE, copy_database, copy_file, draft_of, tree
from pipelines.lake.storage import local_folder
from schemas.errors import InputError, StateError
from schemas.progress_messages import Tell, quiet

FORMAT = 1
_NOT_BACKED_UP = re.compile(r".*\.(lock|part|draft)|up\.(json|log)|.*\.sqlite-(wal|shm)")


@dataclass(frozen=True)
class BackupInfo:
    """The content of a backup; `left_out` says in English and Chinese which parts of the bus it does not contain."""

    files: int
    bytes: int
    made_at: str  # ISO 8601, UTC
    version: str
    left_out: tuple[tuple[str, str], ...]


def back_up(bus: Bus, destination: Path, without_broker: bool = False, tell: Tell = quiet) -> BackupInfo:
    """Copy the whole state of a bus to a new folder that only its owner can read.

    The copy is made between two passes, so that the tables agree with each other. Killed anywhere, it leaves no DEST, at most a
    DEST.part, which the next run clears. InputError if DEST cannot be used; StateError if the embedded broker runs and is not
    left out, since its files cannot be copied while it runs; UnavailableError if the disk is full or cannot be written.
    """
    destination = destination.expanduser().absolute()
    roots = _roots(bus)
    if not bus.home.is_dir():
        raise InputError(
            f"There is no state folder {bus.home}. Set SUIBUS_HOME to the one to back up.",
            f"状态文件夹 {bus.home} 不存在。请将 SUIBUS_HOME 设为要备份的状态文件夹。",
        )
    if destination.exists():
        raise InputError(
            f"{destination} exists; a backup never overwrites anything. Choose another folder.",
            f"{destination} 已存在，备份不会覆盖任何内容。请另选文件夹。",
        )
    if any(destination.resolve().is_relative_to(root.resolve()) for root in roots.values()):
        raise InputError(
            f"{destination} lies inside a folder that is backed up. Choose a folder outside it, preferably on another disk.",
            f"{destination} 位于被备份的文件夹之内。请选择其外的文件夹，最好在另一块磁盘上。",
        )
    with ExitStack() as held:
        if not (without_broker or bus.settings.access):
            held.enter_context(_stopped(bus))
        held.enter_context(_between_passes(bus, tell))
        draft = held.enter_context(draft_of(destination))
        tell("copying", "正在复制")
        made_at = datetime.now(UTC).isoformat(timespec="seconds")
        files: dict[str, dict[str, Any]] = {}
        folders: dict[str, int] = {}
        for part, root in roots.items():
            for path in _state(root, roots, without_broker) if part == "state" else tree(root):
                name = (Path(part) / path.relative_to(root)).as_posix()
                mode = path.stat().st_mode & 0o777
                if path.is_dir():
                    (draft / name).mkdir(mode=0o700)
                    folders[name] = mode
                else:
                    digest = _copy(path, draft / name, bus)
                    files[name] = {"sha256": digest, "size": (draft / name).stat().st_size, "mode": mode}
        info = BackupInfo(
            len(files),
            sum(file["size"] for file in files.values()),
            made_at,
            version("suibus"),
            tuple(_left_out(bus, without_broker)),
        )
        text = json.dumps({"format": FORMAT, "info": asdict(info), "folders": folders, "files": files}, indent=1)
        (draft / "manifest.json").write_text(text, "utf-8")
        (draft / "manifest.sha256").write_text(f"{file_digest(draft / 'manifest.json')}  manifest.json\n", "ascii")
    return info


def restore(bus: Bus, source: Path, lake_only: bool = False, tell: Tell = quiet) -> BackupInfo:
    """Restore a backup to an empty or absent state folder; with `lake_only`, only the tables, to an empty or absent lake.

    Every file is checked before anything is written. Killed anywhere, it can be run again. StateError if the backup is damaged or a
    newer Suibus made it; InputError if a target is not empty, since nothing is ever overwritten.
    """
    source = source.expanduser().absolute()
    manifest = _manifest(source)
    home, lake = bus.home, _roots(bus).get("lake")
    if lake_only and lake is None:
        raise InputError(
            f"The lake is at {bus.settings.lake_path}; it has to be restored by its storage system.",
            f"数据湖位于 {bus.settings.lake_path}，须由其存储系统恢复。",
        )
    inside = lake is not None and lake.is_relative_to(home) and not lake_only
    apart = None if lake is None or inside or _is_restored(manifest, lake) else lake
    for target in [path for path in (apart, None if lake_only else home) if path and path.exists()]:
        if not target.is_dir() or any(target.iterdir()):
            raise InputError(
                f"{target} is not empty; a restore never overwrites anything. Move it away, or configure another folder.",
                f"{target} 不为空，恢复不会覆盖任何内容。请将其移走，或另行配置文件夹。",
            )
    tell("checking every file of the backup", "正在校验备份中的每个文件")
    for name, file in manifest["files"].items():
        if not _is_whole(source / name, file):
            raise _damaged(source, name)
    with ExitStack() as held:
        if lake_only:
            held.enter_context(bus.only_one("restore"))
            held.enter_context(_between_passes(bus, tell))
        if apart:
            with draft_of(apart) as draft:
                _fill(draft, manifest, source, "lake")
        if lake_only:  # the state of the last pass belongs to the lake that was there before
            bus.state.forget_pass()
        else:
            with draft_of(home) as draft:
                _fill(draft, manifest, source, "state")
                if inside and lake:
                    _fill(draft / lake.relative_to(home), manifest, source, "lake")
    return BackupInfo(**{**manifest["info"], "left_out": tuple(tuple(pair) for pair in manifest["info"]["left_out"])})


def _roots(bus: Bus) -> dict[str, Path]:
    lake = local_folder(bus.settings.lake_path)
    return {"state": bus.home, **({"lake": lake} if lake else {})}


@contextmanager
def _stopped(bus: Bus) -> Iterator[None]:
    """Keep the bus from starting until the block ends; StateError if it or its broker is running, or another backup."""
    with bus.state.up_lease.hold_if_free(1.0, "backup") as held:
        if not (held or bus.state.up_process()):
            raise bus.busy()
        if not held or bus.broker.running():
            raise StateError(
                "The embedded broker is running, so its files cannot be copied. Run `suibus down` first, or leave them out "
                "with --without-broker.",
                "内置消息代理正在运行，无法复制其文件。请先执行 suibus down，或用 --without-broker 将其排除。",
            )
        yield


def _between_passes(bus: Bus, tell: Tell) -> AbstractContextManager[None]:
    return bus.state.pass_lease.hold(
        lambda: tell("a pass is under way; waiting for it", "一轮处理正在进行，等待其结束")
    )


def _left_out(bus: Bus, without_broker: bool) -> Iterator[tuple[str, str]]:
    if bus.settings.access or without_broker:
        yield (
            "the topics and the nodes' access rights, which Kafka keeps: with another Kafka, run `suibus resume` before the lake can go on",
            "Kafka 中的主题数据与节点权限：若改用另一个 Kafka，须先执行 suibus resume，数据湖才能继续处理",
        )
    if local_folder(bus.settings.lake_path) is None:
        yield f"the lake at {bus.settings.lake_path}", f"位于 {bus.settings.lake_path} 的数据湖"


def _state(home: Path, roots: dict[str, Path], without_broker: bool) -> Iterator[Path]:
    """All folders and files of the state folder, without the lake. Of the broker only its data: it rewrites its settings on each start."""
    kafka = home / "kafka"
    without = {home / "spark", roots.get("lake", home / "lake"), *([kafka] if without_broker else [])}

    def leave(path: Path) -> bool:
        return (
            path in without
            or (path.parent == kafka and path.name != "data")
            or bool(_NOT_BACKED_UP.fullmatch(path.name))
        )

    return tree(home, leave)


def _copy(source: Path, target: Path, bus: Bus) -> str:
    """Copy a file of the state folder or of the lake; the SHA-256 of the copy."""
    if source == bus.broker.state_file:
        target.write_text(bus.broker.state_for_backup(), "ascii")
        return file_digest(target)
    is_database = source.suffix == ".sqlite" and source.is_relative_to(bus.home)
    return copy_database(source, target) if is_database else copy_file(source, target)


def _is_whole(path: Path, file: dict[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == file["size"] and file_digest(path) == file["sha256"]


def _is_restored(manifest: dict[str, Any], lake: Path) -> bool:
    """Whether a lake outside the state folder is restored already, by a run that was killed later on."""
    here = {
        path.relative_to(lake).as_posix() for path in lake.rglob("*") if path.is_file() and path.name != DRAFT_LEASE
    }
    files = {name.removeprefix("lake/"): file for name, file in manifest["files"].items() if name.startswith("lake/")}
    return bool(here) and here == files.keys() and all(_is_whole(lake / name, file) for name, file in files.items())


def _fill(draft: Path, manifest: dict[str, Any], source: Path, part: str) -> None:
    """Copy one part of a backup (state or lake) into a draft; StateError if a file's SHA-256 differs from the manifest."""
    modes = {}
    for name, mode in manifest["folders"].items():
        if name.split("/")[0] == part:
            path = draft / name.removeprefix(part).lstrip("/")
            path.mkdir(parents=True, exist_ok=True)
            modes[path] = mode
    for name, file in manifest["files"].items():
        if name.split("/")[0] == part:
            path = draft / name.removeprefix(f"{part}/")
            if copy_file(source / name, path) != file["sha256"]:
                raise _damaged(source, name)
            path.chmod(file["mode"])
    for path, mode in modes.items():
        path.chmod(mode)


def _manifest(source: Path) -> dict[str, Any]:
    """The manifest of a backup. InputError if there is none; StateError if it is damaged, or a newer Suibus made the backup."""
    path = source / "manifest.json"
    if not path.is_file():
        raise InputError(
            f"{source} is no backup: it has no manifest.json. Give the folder that `suibus backup` made.",
            f"{source} 不是备份：其中没有 manifest.json。请指定由 suibus backup 生成的文件夹。",
        )
    sums = source / "manifest.sha256"
    if not sums.is_file() or sums.read_text("ascii", "replace").split()[:1] != [file_digest(path)]:
        raise _damaged(source, path.name)
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    made_by = found["info"]["version"]
    if found["format"] > FORMAT or _numbers(made_by) > _numbers(version("suibus")):
        raise StateError(
            f"{source} was made by Suibus {made_by}, but this is {version('suibus')}. Upgrade Suibus, then restore.",
            f"{source} 由 Suibus {made_by} 生成，而当前版本为 {version('suibus')}。请先升级 Suibus 再恢复。",
        )
    for name in (*found["folders"], *found["files"]):
        if name.split("/")[0] not in ("state", "lake") or ".." in name.split("/"):
            raise _damaged(source, name)
    return found


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)[:3]]


def _damaged(source: Path, name: str) -> StateError:
    return StateError(
        f"{source} is damaged: {name} is missing or was changed. Nothing was restored. Use another backup.",
        f"{source} 已损坏：{name} 缺失或已被改动。没有恢复任何内容。请使用其他备份。",
    )
