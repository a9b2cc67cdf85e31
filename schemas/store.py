"""All versions of all contracts that were ever in force, kept as files, so that older records can be decoded.

    <folder>/<dataset>.v<major>/history.jsonl            one line per registration, newest last
                                <version>-<hash8>.yaml   the contract's text
                                <fingerprint>.avsc       the Avro schema that its records were written with

Files are only added, never changed or removed. An interrupted registration leaves at most files that no line of the
history names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from schemas.compatibility import compare
from schemas.contract import parse_contract
from schemas.dataset import Dataset
from schemas.errors import ContractError, first_line
from schemas.ports.files import write_whole
from schemas.ports.lease import Lease
from schemas.wire.avro import avro_schema, schema_fingerprint


class ContractStore:
    """The contracts in force, and every earlier version of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parsed: dict[Path, Dataset] = {}  # a file never changes once the history names it

    def register(self, dataset: Dataset) -> bool:
        """Put a contract in force; False if it already is.

        ContractError, and no change, if records of an earlier version with the same major version could not be read with
        it. Killed at any moment, it leaves either the earlier contract or the new one in force, and the call may be repeated.
        """
        with Lease(self.folder / ".lock").hold():
            earlier = self.versions(dataset.id)
            if earlier and earlier[-1].text == dataset.text:
                return False
            self.check(dataset)
            folder = self.folder / dataset.id
            name = f"{dataset.version}-{dataset.hash[:8]}.yaml"
            schema = avro_schema(dataset)
            avsc = folder / f"{schema_fingerprint(schema).hex()}.avsc"
            write_whole(folder / name, dataset.text, durable=True)
            write_whole(avsc, json.dumps(schema, ensure_ascii=False, indent=1), durable=True)
            registration = {
                "version": dataset.version,
                "file": name,
                "sha256": dataset.hash,
                "path": dataset.path,
                "registered_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            }
            with (folder / "history.jsonl").open("a", encoding="utf-8") as history:
                # The line end comes first, in case the last line is incomplete.
                history.write("\n" + json.dumps(registration, ensure_ascii=False))
                history.flush()
                os.fsync(history.fileno())
            return True

    def check(self, dataset: Dataset) -> None:
        """ContractError if records of an earlier version with the same major version could not be read with this contract."""
        for old in self.versions(dataset.id):
            if changes := [c for c in compare(old, dataset) if c.wire]:
                raise ContractError(
                    f"{dataset.path}: dataset {dataset.name} {dataset.version} cannot replace {old.version}: "
                    + "; ".join(c.en for c in changes)
                    + f". Undo the change, or start version {dataset.major + 1}.",
                    f"{dataset.path}：数据集 {dataset.name} {dataset.version} 不能取代 {old.version}："
                    + "；".join(c.zh for c in changes)
                    + f"。请撤销修改，或使用新的主版本 {dataset.major + 1}。",
                )

    def versions(self, dataset_id: str) -> list[Dataset]:
        """Every contract registered for a dataset id (``name.vN``), oldest first; the last is in force."""
        history = self.folder / dataset_id / "history.jsonl"
        if not history.exists():
            return []
        return [self._parse(history.parent / r["file"], r["path"]) for r in _registrations(history)]

    def _parse(self, file: Path, where: str) -> Dataset:
        if file not in self._parsed:
            try:
                self._parsed[file] = parse_contract(file.read_bytes().decode(), where)
            except (ContractError, OSError, UnicodeDecodeError) as error:
                raise ContractError(
                    f"The stored contract {file} cannot be served: {first_line(error)}. Processing of its dataset is stopped; no data is "
                    "lost. Restore the file from a backup, or upgrade Suibus.",
                    f"已存契约 {file} 无法使用：{first_line(error)}。该数据集暂停处理，数据不会丢失。请从备份恢复该文件，或升级 Suibus。",
                ) from None
        return self._parsed[file]

    def datasets(self) -> dict[str, Dataset]:
        """The contracts in force, by dataset id, without those that `broken` reports."""
        return self._in_force()[0]

    def broken(self) -> list[ContractError]:
        """One error for each contract in force that cannot be used: its file is damaged, or this Suibus does not support it."""
        return self._in_force()[1]

    def _in_force(self) -> tuple[dict[str, Dataset], list[ContractError]]:
        datasets: dict[str, Dataset] = {}
        broken: list[ContractError] = []
        for folder in sorted(p.parent for p in self.folder.glob("*/history.jsonl")):
            try:
                if versions := self.versions(folder.name):
                    datasets[folder.name] = versions[-1]
            except ContractError as error:  # must not stop the other datasets
                broken.append(error)
        return datasets, broken

    def writer_schemas(self, dataset_id: str) -> dict[bytes, dict[str, Any]]:
        """Every Avro schema that records of the dataset may have been written with, by fingerprint (8 bytes)."""
        return {
            bytes.fromhex(p.stem): json.loads(p.read_text("utf-8"))
            for p in sorted((self.folder / dataset_id).glob("*.avsc"))
        }


def _registrations(history: Path) -> Iterator[dict[str, str]]:
    """The registrations in a history file, oldest first; incomplete lines are skipped."""
    for line in history.read_bytes().decode(errors="replace").split("\n"):
        with suppress(ValueError):
            yield json.loads(line)
