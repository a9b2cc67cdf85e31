"""What is used of Spark's and Delta's own classes is there, with as many arguments: this tells in a second what an upgrade breaks."""

from __future__ import annotations

import re
from inspect import getsource
from pathlib import Path
from typing import Any

import pytest

import infra.jvm.spark
import pipelines.lake.delta
import pipelines.lake.row_replacement
from pipelines.lake.delta import CONFLICTS, INTERNALS
from pipelines.lake.spark_jvm import KAFKA_POOLS, drop_kafka_data, load_class

MODULES = (pipelines.lake.delta, pipelines.lake.row_replacement)  # the modules that use internal classes
SOURCES = [getsource(module) for module in MODULES]


@pytest.mark.parametrize("name", INTERNALS)
def test_every_internal_class_has_the_methods_that_are_used(spark: Any, name: str) -> None:
    found = load_class(spark, name)
    arities: dict[str, set[int]] = {"new": {len(c.getParameterTypes()) for c in found.getConstructors()}}
    for method in found.getMethods():
        arities.setdefault(method.getName(), set()).add(len(method.getParameterTypes()))
    missing = {m: wanted - arities.get(m, set()) for m, wanted in INTERNALS[name].items()}
    assert not {m: n for m, n in missing.items() if n}, f"{name} has other methods now"


@pytest.mark.parametrize("source", SOURCES, ids=[module.__name__ for module in MODULES])
def test_every_internal_class_that_the_modules_name_is_in_internals(source: str) -> None:
    named = set(re.findall(r'delta_class\([\w.]+, "([\w.$]+)"\)', source))
    known = {name.removeprefix("org.apache.spark.sql.delta.") for name in INTERNALS}
    assert named
    assert named <= known
    assert set(re.findall(r'java\([\w.]+, "(org\.apache\.spark\.[\w.$]+)"\)', source)) <= set(INTERNALS)


def test_every_conflict_that_delta_raises_is_known(spark: Any) -> None:
    for conflict in CONFLICTS:
        load_class(spark, f"io.delta.exceptions.{conflict.__name__}")


def test_every_class_named_in_sparks_settings_exists(spark: Any) -> None:
    named = re.findall(r'"((?:org|io|com)\.[\w.]+\.[A-Z][\w$]+)"', Path(infra.jvm.spark.__file__).read_text("utf-8"))
    assert len(named) >= 4
    for name in named:
        load_class(spark, name)


def test_sparks_pools_of_kafka_data_are_where_they_are_looked_for_and_can_be_emptied(spark: Any) -> None:
    name, pools = KAFKA_POOLS
    for pool in pools:
        kind = load_class(spark, name).getDeclaredField(pool).getType()
        assert "reset" in {method.getName() for method in kind.getMethods() if not method.getParameterTypes()}
    drop_kafka_data(spark)


def test_no_other_module_names_an_internal_class_of_spark_or_delta() -> None:
    root = Path(__file__).parents[3]
    allowed = {
        "pipelines/lake/delta.py",
        "pipelines/lake/row_replacement.py",
        "pipelines/lake/spark_jvm.py",
        "infra/jvm/spark.py",
    }
    for folder in ("schemas", "producers", "quality", "pipelines", "infra"):
        for path in (root / folder).rglob("*.py"):
            name = path.relative_to(root).as_posix()
            if name not in allowed:
                private = r"\._(jsparkSession|jvm|jsc|jdf|gateway|sc)\b|org\.apache\.spark\.sql"
                assert not re.search(private, path.read_text("utf-8")), name
