"""Find Java."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import UnavailableError


@dataclass(frozen=True)
class Java:
    """An installed Java: its program, its major version, and whether it has the vector module that Spark needs."""

    program: Path
    major: int
    vector: bool


def find_java(java_home: Path | None) -> Java:
    """Find Java 17 or later: first by JAVA_HOME, then on PATH. UnavailableError says what to install."""
    named = java_home / "bin" / "java" if java_home else None
    found = str(named) if named and named.is_file() else shutil.which("java")
    if found is None:
        raise _no_java("no Java was found on PATH or at JAVA_HOME", "PATH 与 JAVA_HOME 中均未找到 Java")
    program = Path(found).resolve()
    release = program.parent.parent / "release"
    if release.is_file():  # reading it takes milliseconds, starting a JVM a quarter of a second
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
        f"Suibus 需要 Java 17 或 21：{zh}。请安装 JDK（Debian：apt-get install openjdk-17-jre-headless），"
        "或用 JAVA_HOME 指明其位置。",
    )
