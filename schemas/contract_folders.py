"""Load the contracts of folders of YAML files: those that can be used, and the errors of the others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from schemas.contract import load_contract
from schemas.dataset import Dataset
from schemas.errors import ContractError, InputError

SHIPPED = Path(__file__).parent / "contracts"


def contract_files(folders: Sequence[Path]) -> Iterator[Path]:
    """Every .yaml or .yml file directly in the folders, in order of folder and name."""
    for folder in folders:
        yield from sorted(p for p in folder.glob("*.y*ml") if p.suffix in (".yaml", ".yml") and p.is_file())


def load_contracts(folders: Sequence[Path], naming: str = "") -> tuple[dict[str, Dataset], list[ContractError]]:
    """All contracts of the folders by dataset id (``name.vN``), and the errors of those that cannot be used.

    A broken contract does not affect the others. Of two different files for one id the first is used. `naming`: read only
    files that contain this text, since checking one file against the standard takes 0.05 s.
    """
    served: dict[str, Dataset] = {}
    refused: list[ContractError] = []
    for path in contract_files(folders):
        with suppress(OSError):  # load_contract below reports a file that cannot be read
            if naming.encode() not in path.read_bytes():
                continue
        try:
            dataset = load_contract(path)
        except ContractError as error:
            refused.append(error)
            continue
        same_id = next((d for d in served.values() if d.id.lower() == dataset.id.lower()), None)
        if same_id is None:
            served[dataset.id] = dataset
        elif same_id.text != dataset.text:
            refused.append(
                ContractError(
                    f"{path}: dataset {dataset.id} is already declared by {same_id.path}. Keep one of the two files, "
                    "or raise the major version in this one.",
                    f"{path}：数据集 {dataset.id} 已由 {same_id.path} 声明。请只保留其中一个文件，或提升本文件的主版本号。",
                )
            )
    return served, refused


def find_dataset(name: str, folders: Sequence[Path]) -> Dataset:
    """The highest major version of the dataset `name`, or exactly ``name.vN``; InputError lists the known datasets."""
    for naming in (re.sub(r"\.v\d+$", "", name), ""):  # first only the files that contain the name, which is faster
        served, refused = load_contracts(folders, naming)
        if name in served:
            return served[name]
        if candidates := [d for d in served.values() if d.name == name]:
            return max(candidates, key=lambda d: d.major)
    names = sorted({d.name for d in served.values()})
    where = ":".join(map(str, folders))
    raise InputError(
        f"Dataset {name!r} is not known. Contracts found: {', '.join(names) or 'none'} (in {where}). "
        "Add its contract to a folder of SUIBUS_CONTRACTS." + "".join(f"\n{e.en}" for e in refused),
        f"没有名为 {name!r} 的数据集。已有契约：{'、'.join(names) or '无'}（位于 {where}）。"
        "请将其契约放入 SUIBUS_CONTRACTS 指定的文件夹。" + "".join(f"\n{e.zh}" for e in refused),
    )
