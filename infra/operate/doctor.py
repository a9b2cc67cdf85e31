"""Check that this machine has what Suibus needs, with a remedy for each thing that is missing."""

from __future__ import annotations

import os
import re
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from infra.jvm.jars import COORDINATES, SetName, checked_jars
from infra.jvm.java import find_java
from infra.kafka.broker import Broker
from infra.settings import Settings
from schemas.errors import InputError, SuibusError

GIB = 1024**3
MEMORY_GIB, DISK_GIB = 4, 5


@dataclass(frozen=True)
class Check:
    """The result of one check: what was found, and the remedy; the remedy is empty if the check is ok."""

    name: str
    ok: bool
    found: str
    remedy_en: str = ""
    remedy_zh: str = ""


def examine(settings: Settings) -> list[Check]:
    """Run every check, without changing anything; the only connection made is to Kafka.

    A check that cannot be made counts as not ok. No check raises an error.
    """
    return [
        _python(),
        _java(settings),
        _memory(),
        _disk(settings.home),
        _writable(settings.home),
        _broker(settings),
        *(_jars(name, settings) for name in COORDINATES),
        _libraries(),
    ]


def _check(name: str, ok: bool, found: str, remedy_en: str, remedy_zh: str) -> Check:
    return Check(name, ok, found) if ok else Check(name, ok, found, remedy_en, remedy_zh)


def _python() -> Check:
    ok = (3, 11) <= sys.version_info[:2] < (3, 13)
    found = ".".join(map(str, sys.version_info[:3]))
    return _check("python", ok, found, "Install Python 3.11 or 3.12.", "请安装 Python 3.11 或 3.12。")


def _java(settings: Settings) -> Check:
    try:
        java = find_java(settings.java_home)
    except SuibusError as error:
        return Check("java", False, "-", error.en, error.zh)
    found = f"{java.major}, {'with' if java.vector else 'without'} jdk.incubator.vector, {java.program}"
    return _check(
        "java",
        java.major in (17, 21) and java.vector,
        found,
        "Point JAVA_HOME at a full JDK 17 or 21.",
        "请将 JAVA_HOME 指向完整的 JDK 17 或 21。",
    )


def _memory() -> Check:
    try:
        text = Path("/proc/meminfo").read_text("ascii")
        free = int(re.findall(r"MemAvailable:\s+(\d+)", text)[0]) * 1024 / GIB
    except (OSError, IndexError):  # not Linux: the total memory
        try:
            free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
        except (AttributeError, ValueError):  # nor macOS
            return Check("memory", False, "not known", "Check the free memory yourself.", "请自行查看可用内存。")
    return _check(
        "memory",
        free >= MEMORY_GIB,
        f"{free:.1f} GiB available",
        f"Spark and the broker need {MEMORY_GIB} GiB of memory: close other programs or lower SUIBUS_SPARK_MEMORY.",
        f"Spark 与消息代理需要 {MEMORY_GIB} GiB 内存：请关闭其他程序，或调低 SUIBUS_SPARK_MEMORY。",
    )


def _existing(path: Path) -> Path:
    """The path itself or the nearest folder above it that exists."""
    return next(folder for folder in (path, *path.parents) if os.access(folder, os.F_OK))


def _disk(home: Path) -> Check:
    free = shutil.disk_usage(_existing(home)).free / GIB
    return _check(
        "disk",
        free >= DISK_GIB,
        f"{free:.1f} GiB free at {home}",
        f"Free {DISK_GIB} GiB there, or set SUIBUS_HOME to a larger disk.",
        f"请在该处留出 {DISK_GIB} GiB，或将 SUIBUS_HOME 设到更大的磁盘。",
    )


def _writable(home: Path) -> Check:
    folder = _existing(home)
    return _check(
        "home",
        folder.is_dir() and os.access(folder, os.W_OK | os.X_OK),
        str(home),
        f"Let this user write to {folder}, or set SUIBUS_HOME to another folder.",
        f"请授予当前用户对 {folder} 的写权限，或将 SUIBUS_HOME 设为其他文件夹。",
    )


def _broker(settings: Settings) -> Check:
    try:
        access = settings.access or Broker(settings).access
    except InputError as error:  # the node file
        return Check("broker", False, str(settings.node), error.en, error.zh)
    except SuibusError:  # not running is a state, not a fault
        return Check("broker", True, "not running; `suibus up` starts it")
    try:
        admin = KafkaAdminClient(**access.kafka_python(), bootstrap_timeout_ms=3000)
        nodes = len(admin.describe_cluster()["brokers"])
        admin.close()
    except (KafkaError, ValueError) as error:
        return Check(
            "broker",
            False,
            f"{access.servers}: {type(error).__name__}",
            "Start it (suibus up), or check SUIBUS_BOOTSTRAP_SERVERS and the network.",
            "请启动消息代理（suibus up），或检查 SUIBUS_BOOTSTRAP_SERVERS 与网络。",
        )
    return Check("broker", True, f"{access.servers}, {nodes} node(s)")


def _jars(name: SetName, settings: Settings) -> Check:
    found = checked_jars(name, settings)
    return _check(
        f"{name} jars",
        found is not None,
        f"{len(found)} as locked" if found else "absent, or not checked since they changed",
        "Run: make setup (or: python -m infra.jvm.jars).",
        "请执行：make setup（或 python -m infra.jvm.jars）。",
    )


def _libraries() -> Check:
    """Whether the installed libraries have the pinned versions; libraries of an extra may be absent."""
    try:
        lines = requires("suibus") or []
    except PackageNotFoundError:
        return Check("libraries", False, "suibus is not installed", "Run: make setup.", "请执行：make setup。")
    wrong = []
    for line in lines:
        pin = re.match(r"([A-Za-z0-9._-]+)(?:\[\w+\])?==([^;\s]+)(.*extra)?", line)
        if pin is None:
            continue
        try:
            here = version(pin[1])
        except PackageNotFoundError:
            here = "absent" if pin[3] is None else pin[2]
        if here != pin[2]:
            wrong.append(f"{pin[1]} {here}, pinned {pin[2]}")
    return _check(
        "libraries",
        not wrong,
        "; ".join(wrong) or "as pinned",
        "Install the pinned versions: make setup.",
        "请安装锁定的版本：make setup。",
    )
