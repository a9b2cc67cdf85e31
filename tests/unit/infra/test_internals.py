"""The internals of other projects that Suibus uses: these tests show within a second what an upgrade broke."""

from __future__ import annotations

import inspect
from pathlib import Path

import click
import pytest
from kafka.protocol.admin import AlterClientQuotasRequest, DescribeClientQuotasRequest

from infra.terminal.usage import SENTENCES


def test_kafka_python_has_the_messages_of_quotas() -> None:
    entry = AlterClientQuotasRequest.EntryData
    sent = entry(
        entity=[entry.EntityData(entity_type="user", entity_name="u")],
        ops=[entry.OpData(key="producer_byte_rate", value=1.0, remove=False)],
    )
    assert AlterClientQuotasRequest(entries=[sent], validate_only=False).entries == [sent]
    component = DescribeClientQuotasRequest.ComponentData(entity_type="user", match_type=2, match=None)
    assert DescribeClientQuotasRequest(components=[component], strict=True).components == [component]


def test_pyspark_has_what_starting_spark_uses() -> None:
    pyspark = pytest.importorskip("pyspark")
    from pyspark.java_gateway import launch_gateway

    assert list(inspect.signature(launch_gateway).parameters) == ["conf", "popen_kwargs"]
    assert "gateway" in inspect.signature(pyspark.SparkContext).parameters
    assert {"_gateway", "_active_spark_context"} <= vars(pyspark.SparkContext).keys()


@pytest.mark.parametrize("sentence", [s for s in SENTENCES if " " in s])
def test_click_still_has_the_messages_that_are_translated(sentence: str) -> None:
    """Click's source has the longest part of the message that is not a name in braces."""
    said = "".join(path.read_text("utf-8") for path in Path(click.__file__).parent.glob("*.py"))
    parts = [part.split("}")[-1].strip() for part in sentence.split("{")]
    assert max(parts, key=len).rstrip(".") in said
