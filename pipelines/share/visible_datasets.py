"""Which datasets a department may see. This is the seam for grants."""

from __future__ import annotations

from collections.abc import Container

from schemas.dataset import Dataset
from schemas.store import ContractStore


def visible_datasets(store: ContractStore, department: str | None, released: Container[str]) -> dict[str, Dataset]:
    """The datasets a reader may name, each by its plain name: the newest major that has a release stands for it.

    This is the seam for grants. Today a department sees every dataset whose sharing class is not `none`.
    """
    found: dict[str, Dataset] = {}
    for dataset in sorted(store.datasets().values(), key=lambda d: (d.id in released, d.major)):
        if department is None or dataset.sharing != "none":
            found[dataset.name] = dataset
    return found
