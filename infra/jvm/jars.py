"""The jars of Spark and of the broker, resolved once from pinned coordinates by the Ivy that PySpark carries.

They lie under the virtual environment, so that removing it removes them. SUIBUS_JARS names another folder,
which may be copied to a machine without network; SUIBUS_IVY_SETTINGS names an ivysettings.xml, for a mirror.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from schemas.errors import UnavailableError
from schemas.tell import Tell, quiet

SetName = Literal["spark", "broker"]

COORDINATES: dict[SetName, tuple[str, ...]] = {
    "spark": (
        "io.delta:delta-spark_4.2_2.13:4.4.0",
        "org.apache.spark:spark-sql-kafka-0-10_2.13:4.2.0",
        "org.apache.spark:spark-avro_2.13:4.2.0",
        "com.globalmentor:hadoop-bare-naked-local-fs:0.1.0",  # Hadoop's own local files start a process for each chmod
    ),
    "broker": (
        "org.apache.kafka:kafka_2.13:4.4.0",
        "org.apache.logging.log4j:log4j-slf4j-impl:2.25.5",  # without it the broker logs nothing
    ),
}


def print_line(en: str, _zh: str) -> None:
    """Print it as a line on standard output, where a setup shows its progress."""
    sys.stdout.write(en + "\n")
    sys.stdout.flush()


@dataclass(frozen=True)
class Java:
    """A Java that was found: its program, its major version, and whether Spark's vector module is in it."""

    program: Path
    major: int
    vector: bool


def find_java() -> Java:
    """Find Java 17 or later, by JAVA_HOME and then PATH; UnavailableError says what to install."""
    home = os.environ.get("JAVA_HOME")
    named = Path(home, "bin", "java") if home else None
    found = str(named) if named and named.is_file() else shutil.which("java")
    if found is None:
        raise _no_java("no Java was found on PATH or at JAVA_HOME", "PATH 与 JAVA_HOME 中均未找到 Java")
    program = Path(found).resolve()
    release = program.parent.parent / "release"
    if release.is_file():  # milliseconds, where starting a JVM costs a quarter of a second
        text = release.read_text(errors="replace")
    else:
        asked = subprocess.run([program, "-version"], capture_output=True, text=True, check=False)
        modules = subprocess.run([program, "--list-modules"], capture_output=True, text=True, check=False)
        text = asked.stderr + modules.stdout
    version = re.search(r'(?:JAVA_VERSION=|version )"(?:1\.)?(\d+)', text)
    major = int(version[1]) if version else 0
    if major < 17:
        raise _no_java(f"{program} is Java {major or 'unknown'}", f"{program} 的版本是 {major or '未知'}")
    return Java(program, major, "jdk.incubator.vector" in text)


def _no_java(en: str, zh: str) -> UnavailableError:
    return UnavailableError(
        f"Suibus needs Java 17 or 21: {en}. Install a JDK (Debian: apt-get install openjdk-17-jre-headless) "
        "or point JAVA_HOME at one.",
        f"Suibus 需要 Java 17 或 21:{zh}。请安装 JDK(Debian:apt-get install openjdk-17-jre-headless),"
        "或用 JAVA_HOME 指明其位置。",
    )


def jars_folder() -> Path:
    """The folder that holds the jars."""
    named = os.environ.get("SUIBUS_JARS")
    return Path(named).expanduser().absolute() if named else Path(sys.prefix, "share", "suibus", "ivy")


def resolved(name: SetName) -> list[Path] | None:
    """The jars of a set, or None where they have not been resolved yet or one of them is gone."""
    folder = jars_folder()
    try:
        found = [folder / line for line in _list_file(folder, name).read_text("utf-8").splitlines()]
    except FileNotFoundError:
        return None
    return found if found and all(path.is_file() for path in found) else None


def jars(name: SetName, tell: Tell = quiet) -> list[Path]:
    """The jars of a set; the first use fetches them, later ones cost milliseconds and no JVM.

    The list is written last and at once, so a killed run leaves none and the next one goes on where it was.
    UnavailableError says what was tried, what Ivy answered and what to do.
    """
    if found := resolved(name):
        return found
    folder = jars_folder()
    with _lock(folder / f"{name}.lock"):
        return resolved(name) or _resolve(name, folder, tell)


def _list_file(folder: Path, name: SetName) -> Path:
    key = hashlib.sha256(" ".join(COORDINATES[name]).encode()).hexdigest()[:12]
    return folder / f"{name}-{key}.list"


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a lock between processes; a process that dies gives it back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _pyspark_jars() -> Path:
    spec = find_spec("pyspark")
    folder = Path(spec.origin).parent / "jars" if spec and spec.origin else None
    if folder is None or not any(folder.glob("ivy-*.jar")):
        raise UnavailableError(
            "Spark is not installed here, so neither Spark nor the embedded broker can run. "
            "Install the city's packages (in the project's folder: pip install '.[city]'), or set SUIBUS_BOOTSTRAP_SERVERS.",
            "此处未安装 Spark,无法运行 Spark 与内置消息代理。请安装市级组件(在项目文件夹执行 pip install '.[city]'),"
            "或设置 SUIBUS_BOOTSTRAP_SERVERS。",
        )
    return folder


def _ivy_xml(name: SetName, carried: Path) -> str:
    """What Ivy shall resolve: for Spark without the modules that PySpark already carries."""
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


def _resolve(name: SetName, folder: Path, tell: Tell) -> list[Path]:
    java, carried = find_java(), _pyspark_jars()
    cache = folder / name  # one cache a set: the two sets can be resolved side by side
    cache.mkdir(parents=True, exist_ok=True)
    ivy_xml, class_path = folder / f"{name}.xml", folder / f"{name}.path"
    ivy_xml.write_text(_ivy_xml(name, carried), "utf-8")
    command: list[str | Path] = [java.program, f"-Divy.default.ivy.user.dir={cache}", "-jar"]
    command += [next(carried.glob("ivy-*.jar")), "-cache", cache, "-ivy", ivy_xml]
    if mirror := os.environ.get("SUIBUS_IVY_SETTINGS"):
        command += ["-settings", mirror]
    command += ["-confs", "default", "-cachepath", class_path]

    tail: deque[str] = deque(maxlen=12)
    modules = fetched = 0
    tell(f"{name} jars: looking up {' '.join(COORDINATES[name])}", f"{name} 组件:查询依赖")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=jvm_env()
    ) as ivy:
        assert ivy.stdout is not None  # noqa: S101 for mypy: it is a pipe
        for line in ivy.stdout:
            tail.append(line.rstrip())
            modules += line.startswith("\tfound ")
            fetched += line.lstrip().startswith("[SUCCESSFUL ]")
            if line.startswith("\tfound ") and modules % 10 == 0:
                tell(f"{name} jars: {modules} modules looked up", f"{name} 组件:已查询 {modules} 个模块")
            if line.lstrip().startswith("[SUCCESSFUL ]") and fetched % 10 == 0:
                tell(f"{name} jars: {fetched} fetched", f"{name} 组件:已下载 {fetched} 个")
    if ivy.returncode or not class_path.is_file():
        shown = "\n  ".join(tail)
        raise UnavailableError(
            f"The {name} jars could not be resolved: {', '.join(COORDINATES[name])}. Ivy ended with:\n"
            f"  {shown}\nCheck the network and run the same command again; what was fetched is kept in "
            f"{cache}. Without network copy that folder's parent from another machine and set SUIBUS_JARS to "
            "it; for a mirror set SUIBUS_IVY_SETTINGS to an ivysettings.xml.",
            f"{name} 组件解析失败。请检查网络后重新执行同一命令,已下载的内容保留在 {cache}。"
            "无网络时,请从其他机器复制其上级文件夹并设置 SUIBUS_JARS;使用镜像时,"
            "请将 SUIBUS_IVY_SETTINGS 设为 ivysettings.xml 的路径。",
        )
    found = [Path(entry) for entry in class_path.read_text("utf-8").strip().split(os.pathsep)]
    written = _list_file(folder, name)
    draft = written.with_suffix(".draft")
    draft.write_text("\n".join(str(path.relative_to(folder)) for path in found) + "\n", "utf-8")
    draft.replace(written)
    tell(f"{name} jars: {len(found)} ready", f"{name} 组件:{len(found)} 个已就绪")
    return found


def jvm_env() -> dict[str, str]:
    """The environment for a JVM: in the C locale Java turns the Chinese in a path into question marks."""
    return {**os.environ, "LC_ALL": "C.UTF-8"}


def main() -> None:
    """Resolve both sets side by side, with a line for each step."""
    with ThreadPoolExecutor() as pool:
        for found in [pool.submit(jars, name, print_line) for name in COORDINATES]:
            try:
                found.result()
            except UnavailableError as error:
                sys.exit(str(error))


if __name__ == "__main__":
    main()
