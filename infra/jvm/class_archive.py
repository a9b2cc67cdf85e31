"""Where `make setup` keeps the classes that Kafka and Spark load, so that they start and run first in less time."""

from __future__ import annotations

from pathlib import Path

from infra.jvm.jars import SetName
from infra.settings import Settings


def archive_path(name: SetName, settings: Settings) -> Path:
    """The archive of a set of jars, whether it is there or not."""
    return settings.jars / f"{name}.jsa"


def archived_classes(name: SetName, settings: Settings) -> list[str]:
    """The Java option that uses the archive; none where there is no archive. Java itself checks whether it fits."""
    archive = archive_path(name, settings)
    return [f"-XX:SharedArchiveFile={archive}"] if archive.is_file() else []
