"""The jars of Spark and of the broker: downloaded once, from pinned coordinates, by the Ivy in PySpark, and checked by hash.

    python -m infra.jvm.jars          fetch and check both sets
    python -m infra.jvm.jars --lock   write jars.lock anew, after a change of the coordinates (make lock)

`jars.lock` beside this file lists every jar with its SHA-256, in the order of the class path; `sha256sum -c` in the folder of the
jars reads it too. That folder (SUIBUS_JARS) may be copied to a machine without network.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from infra.file_digest import file_digest
from infra.jvm.environment import jvm_environment
from infra.jvm.java import find_java
from infra.settings import Settings, read_settings
from infra.terminal import console
from schemas.errors import StateError, SuibusError, UnavailableError
from schemas.ports.files import write_whole
from schemas.ports.lease import Lease
from schemas.progress_messages import Tell, quiet

SetName = Literal["spark", "broker"]

COORDINATES: dict[SetName, tuple[str, ...]] = {
    "spark": (
        "io.delta:delta-spark_4.2_2.13:4.4.0",
        "org.apache.spark:spark-sql-kafka-0-10_2.13:4.2.0",
        "org.apache.spark:spark-avro_2.13:4.2.0",
        "com.globalmentor:hadoop-bare-naked-local-fs:0.1.0",  # Hadoop's own file system starts a process for each chmod
    ),
    "broker": (
        "org.apache.kafka:kafka_2.13:4.4.0",
        "org.apache.logging.log4j:log4j-slf4j-impl:2.25.5",  # without it the broker writes no log
    ),
}
LOCK = Path(__file__).with_name("jars.lock")
_TITLE = "# SHA-256 of each jar, by its path in the folder of the jars. Written by: make lock"


def resolve_jars(name: SetName, settings: Settings, tell: Tell = quiet) -> list[Path]:
    """The jars of a set, each with the SHA-256 of the lock. The first call downloads them; later ones take milliseconds.

    StateError names every jar that is different, missing or additional; no jar is used then. UnavailableError if
    they cannot be downloaded. After a kill, call it again: what was downloaded is kept.
    """
    if checked := checked_jars(name, settings):
        return checked
    folder, locked = settings.jars, read_lock(name)
    with Lease(folder / f"{name}.lock").hold():
        if checked := checked_jars(name, settings):
            return checked
        there = all((folder / path).is_file() for path in locked)
        check_jars(name, folder, locked if there else _fetch(name, settings, tell), locked)
        write_whole(_proof_file(name, folder), _proof(folder, locked))
    tell(f"{name} jars: {len(locked)} ready", f"{name} 组件：{len(locked)} 个已就绪")
    return [folder / path for path in locked]


def checked_jars(name: SetName, settings: Settings) -> list[Path] | None:
    """The jars of a set if they were checked and their sizes and times are still the same; else None. Reads no jar."""
    folder, locked = settings.jars, read_lock(name)
    try:
        same = _proof_file(name, folder).read_text("utf-8") == _proof(folder, locked)
    except FileNotFoundError:
        return None
    return [folder / path for path in locked] if same and locked else None


def check_jars(name: SetName, folder: Path, found: Iterable[str], locked: Mapping[str, str]) -> None:
    """Compare the jars found (paths in the folder) with the lock. StateError names every difference."""
    hashes = {path: file_digest(folder / path) for path in found}
    wrong = [
        (
            f"{path}: SHA-256 {hashes[path]}, expected {locked[path]}",
            f"{path}：SHA-256 为 {hashes[path]}，应为 {locked[path]}",
        )
        for path in hashes.keys() & locked.keys()
        if hashes[path] != locked[path]
    ]
    wrong += [(f"{path}: missing", f"{path}：缺失") for path in locked.keys() - hashes.keys()]
    wrong += [
        (f"{path}: not in the lock (SHA-256 {hashes[path]})", f"{path}：不在锁定清单中（SHA-256 为 {hashes[path]}）")
        for path in hashes.keys() - locked.keys()
    ]
    if wrong:
        en, zh = ("\n  ".join(lines) for lines in zip(*sorted(wrong), strict=True))
        raise StateError(
            f"The {name} jars in {folder} are not those of {LOCK.name}, so none of them is used:\n  {en}\n"
            "Delete the files named here and run: python -m infra.jvm.jars. If the same files are downloaded again, the network or the "
            "mirror (SUIBUS_IVY_SETTINGS) does not serve the jars that Suibus was tested with: get them from elsewhere (SUIBUS_JARS). "
            "If you changed the coordinates, run: make lock.",
            f"{folder} 中的 {name} 组件与 {LOCK.name} 不符，均不采用：\n  {zh}\n"
            "请删除上列文件，然后执行：python -m infra.jvm.jars。若重新下载后仍相同，说明网络或镜像（SUIBUS_IVY_SETTINGS）"
            "提供的并非 Suibus 测试所用的组件，请改用其他来源（SUIBUS_JARS）。若是自行更改了组件坐标，请执行：make lock。",
        )


def read_lock(name: SetName) -> dict[str, str]:
    """The SHA-256 of each jar of a set, by its path in the folder of the jars, in the order of the class path."""
    lines = [line.split("  ", 1) for line in LOCK.read_text("utf-8").splitlines() if not line.startswith("#")]
    return {path: digest for digest, path in lines if path.startswith(f"{name}/")}


def write_lock(settings: Settings, tell: Tell = quiet) -> None:
    """Download both sets for the present coordinates, and write their hashes to the lock."""
    found = [path for name in COORDINATES for path in _fetch(name, settings, tell)]
    lines = [_TITLE, *(f"{file_digest(settings.jars / path)}  {path}" for path in found)]
    write_whole(LOCK, "\n".join(lines) + "\n")


def _proof_file(name: SetName, folder: Path) -> Path:
    return folder / f"{name}.checked"


def _proof(folder: Path, locked: Mapping[str, str]) -> str:
    """The hash that each jar must have, and its present size and time; FileNotFoundError if a jar is missing."""
    stats = {path: (folder / path).stat() for path in locked}
    return "".join(f"{locked[path]} {s.st_size} {s.st_mtime_ns} {path}\n" for path, s in stats.items())


def _pyspark_jars() -> Path:
    spec = find_spec("pyspark")
    folder = Path(spec.origin).parent / "jars" if spec and spec.origin else None
    if folder is None or not any(folder.glob("ivy-*.jar")):
        raise UnavailableError(
            "Spark is not installed here, so neither Spark nor the embedded broker can run. "
            "Install the city's packages (in the project's folder: pip install '.[city]'), or set SUIBUS_BOOTSTRAP_SERVERS.",
            "此处未安装 Spark，无法运行 Spark 与内置消息代理。请安装市级组件（在项目文件夹执行 pip install '.[city]'），"
            "或设置 SUIBUS_BOOTSTRAP_SERVERS。",
        )
    return folder


def _ivy_xml(name: SetName, carried: Path) -> str:
    """The modules that Ivy resolves; for Spark without those that PySpark already has."""
    parts = (coordinate.split(":") for coordinate in COORDINATES[name])
    wanted = [f'<dependency org="{o}" name="{n}" rev="{r}" conf="default"/>' for o, n, r in parts]
    own = {re.sub(r"-\d[^/]*\.jar$", "", path.name) for path in carried.glob("*.jar")}
    spared = [f'<exclude module="{module}"/>' for module in sorted(own)] if name == "spark" else []
    return "\n".join(
        [
            '<ivy-module version="2.0">',
            f'<info organisation="suibus" module="{name}"/>',
            '<configurations><conf name="default"/></configurations>',
            "<dependencies>",
            *wanted,
            *spared,
            "</dependencies>",
            "</ivy-module>",
        ]
    )


def _fetch(name: SetName, settings: Settings, tell: Tell) -> list[str]:
    """Let Ivy download a set; the paths of its jars in the folder, in the order of the class path."""
    java, carried, folder = find_java(settings.java_home), _pyspark_jars(), settings.jars
    cache = folder / name  # a cache for each set, so that both can be resolved at the same time
    cache.mkdir(parents=True, exist_ok=True)
    ivy_xml, class_path = folder / f"{name}.xml", folder / f"{name}.path"
    ivy_xml.write_text(_ivy_xml(name, carried), "utf-8")
    command: list[str | Path] = [java.program, f"-Divy.default.ivy.user.dir={cache}", "-jar"]
    command += [next(carried.glob("ivy-*.jar")), "-cache", cache, "-ivy", ivy_xml]
    if settings.ivy_settings:
        command += ["-settings", settings.ivy_settings]
    command += ["-confs", "default", "-cachepath", class_path]

    last: deque[str] = deque(maxlen=12)
    modules = fetched = 0
    tell(
        f"{name} jars: looking up {' '.join(COORDINATES[name])}", f"{name} 组件：查询依赖 {' '.join(COORDINATES[name])}"
    )
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=jvm_environment()
    ) as ivy:
        assert ivy.stdout is not None  # noqa: S101 for mypy: it is a pipe
        for line in ivy.stdout:
            last.append(line.rstrip())
            modules += line.startswith("\tfound ")
            fetched += line.lstrip().startswith("[SUCCESSFUL ]")
            if line.startswith("\tfound ") and modules % 10 == 0:
                tell(f"{name} jars: {modules} modules looked up", f"{name} 组件：已查询 {modules} 个模块")
            if line.lstrip().startswith("[SUCCESSFUL ]") and fetched % 10 == 0:
                tell(f"{name} jars: {fetched} downloaded", f"{name} 组件：已下载 {fetched} 个")
    if ivy.returncode or not class_path.is_file():
        shown = "\n  ".join(last)
        raise UnavailableError(
            f"The {name} jars could not be downloaded: {', '.join(COORDINATES[name])}. The last lines of Ivy:\n"
            f"  {shown}\nCheck the network and run the same command again; what was downloaded is kept in "
            f"{cache}. Without network, copy {folder} from another machine and set SUIBUS_JARS to the copy; for a mirror, "
            "set SUIBUS_IVY_SETTINGS to an ivysettings.xml.",
            f"{name} 组件下载失败：{', '.join(COORDINATES[name])}。Ivy 的最后输出：\n"
            f"  {shown}\n请检查网络后重新执行同一命令，已下载的内容保留在 {cache}。"
            f"无网络时，请从其他机器复制 {folder}，并将 SUIBUS_JARS 设为副本的路径；使用镜像时，"
            "请将 SUIBUS_IVY_SETTINGS 设为 ivysettings.xml 的路径。",
        )
    return [Path(jar).relative_to(folder).as_posix() for jar in class_path.read_text("utf-8").strip().split(os.pathsep)]


def main() -> None:
    """Download and check both sets at the same time, or with --lock write the lock; prints a line for each step."""
    try:
        settings = read_settings()
        if "--lock" in sys.argv[1:]:
            write_lock(settings, console.tell)
            return
        with ThreadPoolExecutor() as pool:
            for resolved in [pool.submit(resolve_jars, name, settings, console.tell) for name in COORDINATES]:
                resolved.result()
    except SuibusError as error:
        console.say_error(error.en, error.zh)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
