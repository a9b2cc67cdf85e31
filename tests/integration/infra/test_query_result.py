"""What a query prints: JSON with exact values, CSV that distinguishes null from text."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from infra.terminal.query_result import write_rows
from pipelines.share.query import query
from schemas.errors import InputError
from tests.integration.conftest import Road

SQL = """SELECT 1 AS n, CAST('12345678901234567890.10' AS DECIMAL(22,2)) AS d, TIMESTAMP'2013-01-01T10:00:00.000001Z' AS t,
DATE'2024-02-29' AS day, 'NA' AS text, CAST(NULL AS STRING) AS none, X'00FF' AS b, array(1, NULL) AS a,
named_struct('x', '穗', 'y', NULL) AS r, true AS yes"""


def test_json_is_one_array_of_objects_with_exact_values(spark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(spark.sql(SQL), "json")
    (row,) = json.loads(capsys.readouterr().out, parse_float=Decimal)
    assert row == {
        "n": 1, "d": Decimal("12345678901234567890.10"), "t": "2013-01-01T10:00:00.000001Z", "day": "2024-02-29",
        "text": "NA", "none": None, "b": "AP8=", "a": [1, None], "r": {"x": "穗", "y": None}, "yes": True,
    }  # fmt: skip


def test_json_of_no_rows_is_an_empty_array(spark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(spark.sql(SQL).where("false"), "json")
    assert json.loads(capsys.readouterr().out) == []


def test_csv_leaves_a_null_empty_and_keeps_the_text_na(spark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(spark.sql("SELECT 'NA' AS a, CAST(NULL AS STRING) AS b, '逗,号' AS c"), "csv")
    assert capsys.readouterr().out.splitlines() == ["a,b,c", 'NA,,"逗,号"']


def test_a_table_marks_null_and_counts_rows(spark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(spark.sql("SELECT '穗' AS a, CAST(NULL AS STRING) AS b"), "table")
    out = capsys.readouterr().out
    assert "∅" in out
    assert "(1 rows 行)" in out


@pytest.mark.parametrize("format_", ["table", "csv", "json"])
@pytest.mark.parametrize("sql", ["SELECT 1 / 0", "SELECT cast('x' AS int)"])
def test_a_query_with_a_row_that_cannot_be_computed_is_refused_in_a_sentence(
    road: Road, capsys: pytest.CaptureFixture[str], sql: str, format_: str
) -> None:
    with pytest.raises(InputError, match="cannot be computed"):
        write_rows(query(sql, road.lake, road.bus.store), format_)
    assert capsys.readouterr().out == ""


def test_a_column_that_a_format_cannot_show_is_refused_and_never_dropped(
    road: Road, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown(sql: str, format_: str) -> str:
        write_rows(query(sql, road.lake, road.bus.store), format_)
        return capsys.readouterr().out

    with pytest.raises(InputError, match="two columns called a"):
        shown("SELECT 1 AS a, 2 AS a", "json")
    assert shown("SELECT 1 AS a, 2 AS a", "csv").split() == ["a,a", "1,2"]
    with pytest.raises(InputError, match="Cast it to string"):
        shown("SELECT date'12000-01-01'", "csv")
    assert "2020-01-01" in shown("SELECT map(date'2020-01-01', 1)", "table")
    empty: list[Any] = json.loads(shown("SELECT 1 AS a WHERE false", "json"))
    assert empty == []
    assert shown("SELECT 1 AS a WHERE false", "csv").split() == ["a"]
