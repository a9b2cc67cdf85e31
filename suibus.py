"""Suibus 穗: the public API. What is imported from here stays; everything else may move.

    from suibus import Bus, read_settings

    with Bus(read_settings()).publisher("enterprise", "440106") as publisher:
        publisher.publish(row)

The city's side (`Bus`, with `sync` and the lake) needs the `city` extra; importing this file does not.
"""

from infra.bus.bus import Bus
from infra.settings import Settings, read_settings
from producers.fetch_receipts import fetch_receipts
from producers.inbox import Inbox
from producers.publish.delivery import PublishInfo, publish_source
from producers.publish.publisher import Publisher
from producers.send.memory import MemoryBus
from producers.send.sender import FlushInfo, flush
from producers.sources.database import open_query
from producers.sources.files import open_source
from schemas.compatibility import Change, compare
from schemas.contract import load_contract
from schemas.contract_folders import SHIPPED, find_dataset, load_contracts
from schemas.dataset import Dataset, Field, Rule
from schemas.errors import ContractError, InputError, StateError, SuibusError, UnavailableError
from schemas.ports.kafka_access import KafkaAccess
from schemas.row.coercer import RowError
from schemas.store import ContractStore
from schemas.wire.receipt import Receipt

__all__ = [
    "SHIPPED",
    "Bus",
    "Change",
    "ContractError",
    "ContractStore",
    "Dataset",
    "Field",
    "FlushInfo",
    "Inbox",
    "InputError",
    "KafkaAccess",
    "MemoryBus",
    "PublishInfo",
    "Publisher",
    "Receipt",
    "RowError",
    "Rule",
    "Settings",
    "StateError",
    "SuibusError",
    "UnavailableError",
    "compare",
    "fetch_receipts",
    "find_dataset",
    "flush",
    "load_contract",
    "load_contracts",
    "open_query",
    "open_source",
    "publish_source",
    "read_settings",
]
