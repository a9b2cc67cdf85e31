"""The files of a lake, in a local folder or behind a URL that one of Hadoop's file systems serves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from schemas.ports.files import write_whole


def local_folder(address: str) -> Path | None:
    """The local folder of an address; None for a URL."""
    return None if "://" in address else Path(address)


def as_address(lake: str) -> str:
    """The address of a lake for Spark: a URL unchanged, a path made absolute."""
    folder = local_folder(lake)
    return lake.rstrip("/") if folder is None else str(folder.expanduser().absolute())


class Storage:
    """The files below one address. Local files are read and written without Spark; all else goes through Hadoop in Spark's JVM."""

    def __init__(self, spark: Any, address: str) -> None:
        self._spark = spark
        self._address = address.rstrip("/")  # the root folder too: Hadoop reads "//name" as a host
        self._folder = local_folder(address)

    def exists(self, name: str) -> bool:
        """Whether there is such a file or folder."""
        if self._folder is not None:
            return (self._folder / name).exists()
        path = self._path(name)
        return bool(self._system(path).exists(path))

    def read_text(self, name: str) -> str:
        """The text of a UTF-8 file, with other bytes replaced. OSError (local) or Py4JJavaError (URL) if it cannot be read."""
        if self._folder is not None:
            return (self._folder / name).read_text("utf-8", "replace")
        path = self._path(name)
        stream = self._system(path).open(path)
        try:
            return str(self._java("org.apache.commons.io.IOUtils").toString(stream, "UTF-8"))
        finally:
            stream.close()

    def write_text(self, name: str, text: str) -> None:
        """Write a small UTF-8 file. A local file is written whole or not at all."""
        if self._folder is not None:
            write_whole(self._folder / name, text, durable=True)
            return
        path = self._path(name)
        stream = self._system(path).create(path, True)
        try:
            stream.write(text.encode())
        finally:
            stream.close()

    def move(self, name: str, to: str) -> bool:
        """Rename a file or folder; False if the file system refused."""
        path = self._path(name)
        return bool(self._system(path).rename(path, self._path(to)))

    def _path(self, name: str) -> Any:
        return self._java("org.apache.hadoop.fs.Path")(f"{self._address}/{name}")

    def _system(self, path: Any) -> Any:
        from pipelines.lake.spark_jvm import hadoop_configuration

        return path.getFileSystem(hadoop_configuration(self._spark))

    def _java(self, name: str) -> Any:
        from pipelines.lake.spark_jvm import java  # a node imports this module for its settings and has no Spark

        return java(self._spark, name)
