"""The datasets that a department may see. Access rights per department would be added here."""

from __future__ import annotations

from collections.abc import Container

from schemas.dataset import Dataset
from schemas.store import ContractStore


def visible_datasets(store: ContractStore, department: str | None, released: Container[str]) -> dict[str, Dataset]:
    """The datasets that a reader may query, by name: of several majors the newest that has a release, else the newest.

    A department (None: the city, which sees all) sees every dataset whose sharing class is not `none`.
    """
    found: dict[str, Dataset] = {}
    for dataset in sorted(store.datasets().values(), key=lambda d: (d.id in released, d.major)):
        if department is None or dataset.sharing != "none":
            found[dataset.name] = dataset
    return found
