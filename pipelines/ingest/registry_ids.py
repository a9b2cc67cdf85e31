"""The schema registry's ids that the records of a batch name: which schema decodes each, or why none can."""

from __future__ import annotations

import json
from collections import defaultdict

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from schemas.dataset import Dataset
from schemas.errors import InputError
from schemas.wire.avro import avro_schema
from schemas.wire.registry import Registry
from schemas.wire.registry_agreement import agreed_schema

REGISTRY_IDS = 1_000  # the most ids looked up per batch, so that invented ids cannot flood the registry


def group_by_schema(
    records: DataFrame, number: Column, dataset: Dataset, registry: Registry
) -> tuple[dict[str, list[int]], dict[tuple[str, str], list[int]]]:
    """The registry ids of a batch, grouped by the schema that decodes them, and by the reason if none can.

    At most REGISTRY_IDS ids are looked up, the most frequent first; ids that are unknown are in neither group.
    UnavailableError if the registry does not answer.
    """
    reader = avro_schema(dataset)
    agreed: dict[str, list[int]] = defaultdict(list)
    refused: dict[tuple[str, str], list[int]] = defaultdict(list)
    counted = records.groupBy(number.alias("id")).count().where("id IS NOT NULL").orderBy(F.desc("count"))
    for found in counted.limit(REGISTRY_IDS).collect():
        if (text := registry.schema(found["id"])) is None:
            continue
        try:
            agreed[json.dumps(agreed_schema(text, reader))].append(found["id"])
        except InputError as error:
            en = f"The registry's schema does not agree with the contract: {error.en}."
            refused[en, f"注册中心的模式与契约不一致：{error.zh}。"].append(found["id"])
    return agreed, refused
