"""For each contract: the version in the folders if it can be served, else the last version that could."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from infra.bus.state import Refusal, RunState
from infra.kafka.topics import Kafka
from schemas.contract_folders import contract_files, find_dataset, load_contracts
from schemas.dataset import Dataset, receipts_topic
from schemas.districts import districts
from schemas.errors import ContractError, InputError
from schemas.progress_messages import Tell, quiet
from schemas.store import ContractStore

FolderFiles = tuple[tuple[str, int, int], ...]  # path, modification time in ns and size of each contract file


class ContractsInForce:
    """The contract folders of one bus, and the store of every contract that was ever put in force."""

    def __init__(self, folders: Sequence[Path], store: ContractStore, state: RunState) -> None:
        self.folders = tuple(folders)
        self.store = store
        self._state = state
        self._adopted: FolderFiles | None = None

    def find(self, name: str) -> Dataset:
        """The dataset of that name in the folders; ContractError if the city could not read records published with its contract."""
        dataset = find_dataset(name, self.folders)
        self.store.check(dataset)
        return dataset

    def adopt(self, kafka: Kafka, partitions: int, replication: int, tell: Tell = quiet) -> list[Dataset]:
        """Create the topics of every contract in the folders and put it in force; the newly registered datasets.

        Topics come first, since another process reads the topics of every contract in force. A contract that cannot be served is
        listed in the status; its last version that could be served stays in force.
        """
        self._adopted = self._folder_files()
        found, refused = load_contracts(self.folders)
        refused += self.store.broken()
        served = {**self.store.datasets(), **found}
        topics = [t for d in served.values() for t in d.topics]
        topics += [receipts_topic(code) for code in districts()]
        made = kafka.ensure(topics, partitions, replication)
        fresh: list[Dataset] = []
        for dataset in found.values():
            try:
                if self.store.register(dataset):
                    fresh.append(dataset)
            except ContractError as error:
                refused.append(error)
        if fresh or made:
            tell(
                f"{len(fresh)} contracts put in force, {len(made)} topics created",
                f"{len(fresh)} 份契约生效，新建 {len(made)} 个主题",
            )
        for refusal in refused:
            tell(refusal.en, refusal.zh)
        self._state.note_refused_contracts([Refusal(e.en, e.zh) for e in refused])
        return fresh

    def changed(self) -> bool:
        """Whether a contract file was added, changed or removed since `adopt`; False if this process has not called it."""
        return self._adopted is not None and self._adopted != self._folder_files()

    def in_force(self, name: str | None) -> dict[str, Dataset]:
        """The datasets in force by id: every major of dataset `name` (a name or an id), or of all.

        InputError if none is in force; the message lists the names that are.
        """
        known = self.store.datasets()
        matching = {k: d for k, d in known.items() if name is None or name in (d.name, d.id)}
        if name is not None and not matching:
            names = ", ".join(sorted({d.name for d in known.values()}))
            raise InputError(
                f"Dataset {name!r} is not in force here. In force: {names or 'none'}.",
                f"数据集 {name!r} 未生效。已生效：{names or '无'}。",
            )
        return matching

    def newest_in_force(self, name: str) -> Dataset:
        """The newest major of a dataset that is in force; InputError as in `in_force`."""
        return max(self.in_force(name).values(), key=lambda d: d.major)

    def topics(self) -> list[str]:
        """The topics on which districts publish, for all contracts in force."""
        return [topic for dataset in self.store.datasets().values() for topic in dataset.topics]

    def hashes(self) -> dict[str, str]:
        """The hash of each contract in force, by dataset id."""
        return {name: dataset.hash for name, dataset in self.store.datasets().items()}

    def _folder_files(self) -> FolderFiles:
        listed = []
        for path in contract_files(self.folders):
            with suppress(FileNotFoundError):
                stat = path.stat()
                listed.append((str(path), stat.st_mtime_ns, stat.st_size))
        return tuple(listed)
