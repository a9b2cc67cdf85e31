"""Every version of every contract the bus ever served, kept as files, so that records of days ago decode.

    <folder>/<dataset>.v<major>/history.jsonl            one line a registration, newest last
                                <version>-<hash8>.yaml   the contract's text
                                <fingerprint>.avsc       the Avro schema that its records were written with

Files are only ever added. A registration that was cut off leaves at most files that no line names.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from schemas.compatibility import compare
from schemas.contract import parse_contract
from schemas.dataset import Dataset
from schemas.errors import ContractError, first_line
from schemas.wire.avro import avro_schema, schema_fingerprint


class ContractStore:
    """The contracts in force, and all that came before them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parsed: dict[Path, Dataset] = {}  # files never change once they are named in a history

    def register(self, dataset: Dataset) -> bool:
        """Put a contract in force; False if it already was.

        ContractError, and no change, if records of any earlier version of its major could not be read with it.
        """
        with self._locked():
            earlier = self.versions(dataset.id)
            if earlier and earlier[-1].text == dataset.text:
                return False
            self.check(dataset)
            folder = self.folder / dataset.id
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{dataset.version}-{dataset.hash[:8]}.yaml"
            schema = avro_schema(dataset)
            _write(folder / name, dataset.text)
            _write(
                folder / f"{schema_fingerprint(schema).hex()}.avsc", json.dumps(schema, ensure_ascii=False, indent=1)
            )
            line = {
                "version": dataset.version,
                "file": name,
                "sha256": dataset.hash,
                "path": dataset.path,
                "registered_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            }
            with (folder / "history.jsonl").open("a", encoding="utf-8") as history:
                history.write("\n" + json.dumps(line, ensure_ascii=False))  # after a line that was cut off, too
                history.flush()
                os.fsync(history.fileno())
            return True

    def check(self, dataset: Dataset) -> None:
        """ContractError if records of any earlier version of the contract's major could not be read with it."""
        for old in self.versions(dataset.id):
            if wire := [c for c in compare(old, dataset) if c.wire]:
                raise ContractError(
                    f"{dataset.path}: dataset {dataset.name} {dataset.version} cannot replace {old.version}: "
                    + "; ".join(c.en for c in wire)
                    + f". Undo it, or start version {dataset.major + 1}.",
                    f"{dataset.path}：数据集 {dataset.name} {dataset.version} 不能取代 {old.version}："
                    + "；".join(c.zh for c in wire)
                    + f"。请撤销修改，或使用新的主版本 {dataset.major + 1}。",
                )

    def versions(self, dataset_id: str) -> list[Dataset]:
        """Every contract registered for a dataset id (``name.vN``), oldest first; the last is in force."""
        history = self.folder / dataset_id / "history.jsonl"
        if not history.exists():
            return []
        return [self._parse(history.parent / e["file"], e["path"]) for e in _entries(history)]

    def _parse(self, file: Path, where: str) -> Dataset:
        if file not in self._parsed:
            try:
                self._parsed[file] = parse_contract(file.read_bytes().decode(), where)
            except (ContractError, OSError, UnicodeDecodeError) as error:
                raise ContractError(
                    f"The stored contract {file} cannot be served: {first_line(error)}. Its dataset stands still, and nothing of it "
                    "is lost. Put the file back from a backup, or upgrade Suibus.",
                    f"已存契约 {file} 无法使用：{first_line(error)}。该数据集暂停处理，数据不会丢失。请从备份恢复该文件，或升级 Suibus。",
                ) from None
        return self._parsed[file]

    def datasets(self) -> dict[str, Dataset]:
        """The contracts in force, by dataset id, without those of `broken`."""
        return self._in_force()[0]

    def broken(self) -> list[ContractError]:
        """Why a dataset that was in force is not: its stored contract is damaged, or this Suibus does not serve it."""
        return self._in_force()[1]

    def _in_force(self) -> tuple[dict[str, Dataset], list[ContractError]]:
        found: dict[str, Dataset] = {}
        broken: list[ContractError] = []
        for folder in sorted(p.parent for p in self.folder.glob("*/history.jsonl")):
            try:
                if versions := self.versions(folder.name):
                    found[folder.name] = versions[-1]
            except ContractError as error:  # one dataset must not stop another
                broken.append(error)
        return found, broken

    def writer_schemas(self, dataset_id: str) -> dict[bytes, dict[str, Any]]:
        """Every Avro schema that records of the dataset may have been written with, by fingerprint (8 bytes)."""
        return {
            bytes.fromhex(p.stem): json.loads(p.read_text("utf-8"))
            for p in sorted((self.folder / dataset_id).glob("*.avsc"))
        }

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _entries(history: Path) -> Iterator[dict[str, str]]:
    """The registrations, oldest first; a line that was cut off is none."""
    for line in history.read_bytes().decode(errors="replace").split("\n"):
        with suppress(ValueError):
            yield json.loads(line)


def _write(path: Path, text: str) -> None:
    """The whole text or nothing, on disk."""
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8", newline="") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    part.replace(path)
