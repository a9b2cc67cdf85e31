"""Queries of departments: they see released versions under the datasets' names, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pyspark.errors import AnalysisException, ParseException
from pyspark.sql import DataFrame, SparkSession

from pipelines.lake.lake import Lake
from pipelines.release.release import shared_rows
from pipelines.release.release_table import released_records
from pipelines.share.visible_datasets import visible_datasets
from schemas.dataset import Dataset
from schemas.errors import InputError, UnavailableError, first_line
from schemas.store import ContractStore


def query(sql: str, lake: Lake, store: ContractStore, department: str | None = None) -> DataFrame:
    """The result of a SELECT on the released versions; `department` None means the city itself.

    It runs in a new session whose only tables are the datasets that this reader may see. InputError if the query cannot be run;
    UnavailableError if a dataset is being rebuilt and has no release of its new table yet.
    """
    session = lake.spark.newSession()
    mine, newest = lake.in_session(session), released_records(lake)
    visible = visible_datasets(store, department, newest)
    for name, dataset in visible.items():
        if re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", sql, re.IGNORECASE) and dataset.id in newest:
            release = newest[dataset.id]
            as_released = next((d for d in store.versions(dataset.id) if d.hash == release.contract_sha256), dataset)
            if release.silver_id != mine.silver(dataset).id:
                raise UnavailableError(
                    f"Dataset {name} is being rebuilt: its last release is a version of the old table, which was set aside. "
                    "Query it again after its next release.",
                    f"数据集 {name} 正在重建：最近一次发布的版本属于旧表，旧表已移出。请在该数据集下次发布后再查询。",
                )
            shared_rows(mine, as_released, release.silver_version).createOrReplaceTempView(name)
    try:
        return session.sql(sql)
    except (AnalysisException, ParseException) as error:
        raise _explain(error, session, visible, newest) from error


def _explain(
    error: Exception, session: SparkSession, visible: Mapping[str, Dataset], newest: Mapping[str, object]
) -> InputError:
    first = first_line(error)
    released = sorted(n for n, d in visible.items() if d.id in newest)
    waiting = sorted(n for n, d in visible.items() if d.id not in newest)
    named = ", ".join(released) or "none / 无"
    en = f"The query cannot be run: {first} Released datasets: {named}."
    zh = f"查询无法执行：{first} 已发布的数据集：{named}。"
    if waiting:
        en += f" Not yet released: {', '.join(waiting)}."
        zh += f" 尚未发布：{'、'.join(waiting)}。"
    return InputError(en, zh)
