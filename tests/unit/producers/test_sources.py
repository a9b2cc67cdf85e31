"""A bad row is rejected alone, a wrong file is refused before its first row, and no other row is lost."""

from __future__ import annotations

import sqlite3
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

from producers.sources.database import open_query
from producers.sources.files import open_source
from producers.sources.source import Record, Source
from schemas.dataset import Dataset, Field
from schemas.errors import InputError
from schemas.row.coercer import RowCoercer, RowError

FIELDS = (Field("code", "string", True), Field("name", "string"), Field("n", "int"))
DATASET = Dataset("t", "1.0.0", FIELDS, ("code",), None, None, "none", None, (), "", "", "t.yaml", "")


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows(source: Source) -> list[Record]:
    return list(source.read())


def refused(path: Path, **options: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        open_source(path, DATASET, **options)
    assert str(path) in caught.value.en
    assert str(path) in caught.value.zh
    return caught.value


# --- whole files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", b"\xef\xbb\xbf\r\n", "is empty"),
        ("a.jsonl", "\n\n", "is empty"),
        ("a.parquet", "", "is empty"),
        ("a.csv", b"PAR1\0\0", "begins like a Parquet file. Name it with --format parquet"),
        ("a.jsonl", b"Obj\x01\0", "begins like an Avro container file"),
        ("a.csv", b"PK\x03\x04rest", ".xlsx"),
        ("a.csv", b"\x1f\x8b\x08", "gzip"),
        ("a.parquet", "code,name,n\n", "expected PAR1"),
        ("a.avro", "code,name,n\n", "expected Obj 01"),
        ("a.csv", "\ufeffcode,name,n\n".encode("utf-16-le"), "looks like UTF-16"),
        ("a.csv", "code,name,n\n1,岳洲社区居委会,1\n".encode("gb18030"), "--encoding gb18030"),
        ("a.xlsx", b"PK\x03\x04rest", "the extension '.xlsx' is not supported"),
        ("a.csv", "code,nam,n,x\n", "did you mean name?"),
        ("a.csv", "code,nam,n,x\n", 'column "x" is not in the contract'),
        ("a.csv", "code,n\n", "missing name"),
        ("a.csv", "code,name,n,code\n", 'column "code" appears 2 times'),
        ("a.csv", 'code,"name\n', "header is not valid CSV"),
        ("a.jsonl", "code,name,n\n1,2,3\n", "is not JSON Lines"),
        ("a.jsonl", '[{"code":"1"}]', "no list around them"),
        ("a.parquet", b"PAR1 cut", "half written"),
        ("a.avro", b"Obj\x01 cut", "is not complete"),
    ],
)
def test_wrong_file_is_refused_before_its_first_row(tmp_path: Path, name: str, content: str | bytes, says: str) -> None:
    assert says in refused(write(tmp_path, name, content)).en


def test_missing_file_folder_and_unknown_encoding_are_refused(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "a.csv").en
    assert "folder" in refused(tmp_path).en
    path = write(tmp_path, "a.csv", "code,name,n\n")
    for encoding in ("klingon", "hex", "utf-16"):
        assert "--encoding" in refused(path, encoding=encoding).en


def test_format_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "code,name,n\n1,a,1\n")
    assert len(rows(open_source(path, DATASET, format="csv"))) == 1


def test_file_to_delete_by_needs_its_key_alone(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "code\n1\n")
    assert rows(open_source(path, DATASET, delete=True))[0].row == {"code": "1"}
    refused(write(tmp_path, "b.csv", "name\n1\n"), delete=True)
    refused(write(tmp_path, "c.csv", "code,other\n1,2\n"), delete=True)


# --- CSV -----------------------------------------------------------------------------------------


def test_csv_rows_keep_their_line_text_and_values(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", '\ufeffcode,name,n\r\n1,"a\r\nb",1\r\n\r\n2,NA,\r\n')
    first, second = rows(open_source(path, DATASET))
    assert (first.line, first.text, first.row) == (
        2,
        '1,"a\r\nb",1\r\n',
        {"code": "1", "name": "a\r\nb", "n": "1"},
    )
    assert (second.line, second.row) == (5, {"code": "2", "name": "NA", "n": ""})


def test_a_broken_byte_rejects_one_row_and_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "code,name,n\n1,好,1\n2,".encode() + b"ab\xff" + ",2\n3,好,3\n".encode())
    coercer = RowCoercer(DATASET, True)
    made, bad = [], []
    for record in open_source(path, DATASET).read():
        try:
            made.append(coercer.coerce(record.row or {})["code"])
        except RowError as error:
            bad.append((record.line, error.defects[0].column, error.defects[0].en))
    assert made == ["1", "3"]
    assert bad[0][:2] == (3, "name")
    assert "byte 0xFF at character 3" in bad[0][2]


@pytest.mark.parametrize(
    "bad",
    ['2,"open,2\n', "2,b\n", "2,b,2,x\n", '2,"b"x,2\n', '2,"open\n', '2,b,"2\n'],
    ids=lambda b: b.strip(),
)
@pytest.mark.parametrize("after", ["3,c,3\n", '3,"c",3\n4,"say ""c""",4\n', '3,"c\nc",3\n', ""])
def test_a_bad_csv_row_is_reported_and_the_rows_around_it_are_kept(tmp_path: Path, bad: str, after: str) -> None:
    path = write(tmp_path, "a.csv", f"code,name,n\n1,a,1\n{bad}{after}")
    good = rows(open_source(write(tmp_path, "b.csv", f"code,name,n\n1,a,1\n{after}"), DATASET))
    found = rows(open_source(path, DATASET))
    assert [r.row for r in found if r.row] == [r.row for r in good]
    (broken,) = (r for r in found if r.row is None)
    assert (broken.line, broken.text) == (3, bad)
    assert broken.defects[0].en


def test_gb18030_is_read_when_named(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "code,name,n\n1,岳洲社区居委会,1\n".encode("gb18030"))
    (record,) = rows(open_source(path, DATASET, encoding="gb18030"))
    assert record.row == {"code": "1", "name": "岳洲社区居委会", "n": "1"}


def test_progress_is_known_in_bytes(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "code,name,n\n" + "1,a,1\n" * 100_000)
    source = open_source(path, DATASET)
    read = source.read()
    next(read)
    early = source.position()
    for _ in zip(range(60_000), read, strict=False):
        pass
    assert source.size is not None
    assert 0 < early < source.position() < source.size
    read.close()  # type: ignore[attr-defined]


# --- JSON Lines ----------------------------------------------------------------------------------


def test_a_bad_json_line_is_reported_and_the_rows_around_it_are_kept(tmp_path: Path) -> None:
    bad = ['{"code":"2","n":NaN}', '{"code":"2","code":"3"}', "[1]", '{"code":', "{" * 9 + "[" * 100_000]
    good = '{"code":"1","n":0.10000000000000000001}'
    path = write(tmp_path, "a.jsonl", "\n".join([good, *bad, "", good, '{"code":"4","na']))
    found = rows(open_source(path, DATASET))
    assert [r.line for r in found if r.row] == [1, 8]
    assert found[0].row == {"code": "1", "n": Decimal("0.10000000000000000001")}
    assert [r.line for r in found if not r.row] == [2, 3, 4, 5, 6, 9]
    assert "cut off" in found[-1].defects[0].en


# --- Parquet and Avro ----------------------------------------------------------------------------


def test_parquet_rows_come_with_their_total(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"code": ["1", "2"], "name": ["a", None], "n": [1, None]}), path)
    source = open_source(path, DATASET)
    assert source.total == 2
    assert [r.row for r in rows(source)] == [
        {"code": "1", "name": "a", "n": 1},
        {"code": "2", "name": None, "n": None},
    ]


def test_parquet_nanoseconds_are_exact_or_refused(tmp_path: Path) -> None:
    data = Dataset("t", "1.0.0", (Field("w", "timestamp"),), (), None, None, "none", None, (), "", "", "", "")
    path = tmp_path / "a.parquet"
    whole = 1_700_000_000_123_456_000
    pq.write_table(pa.table({"w": pa.array([whole, whole + 1, None], pa.timestamp("ns", "UTC"))}), path)
    first, second, third = rows(open_source(path, data))
    coercer = RowCoercer(data, False)
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=whole // 1000)
    assert coercer.coerce(first.row or {}) == {"w": moment}
    with pytest.raises(RowError, match="finer than a microsecond"):
        coercer.coerce(second.row or {})
    assert third.row == {"w": None}


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install '.[parquet]'" in refused(write(tmp_path, "a.parquet", b"PAR1")).en


def avro_file(path: Path, count: int) -> Path:
    schema = {"type": "record", "name": "t", "fields": [{"name": f, "type": t} for f, t in
              (("code", "string"), ("name", ["null", "string"]), ("n", ["null", "int"]))]}  # fmt: skip
    with path.open("wb") as file:
        fastavro.writer(
            file,
            fastavro.parse_schema(schema),
            ({"code": str(i), "name": "a", "n": i} for i in range(count)),
            sync_interval=500,
        )
    return path


def test_cut_off_avro_file_keeps_the_rows_before_the_cut(tmp_path: Path) -> None:
    path = avro_file(tmp_path / "a.avro", 1000)
    assert len(rows(open_source(path, DATASET))) == 1000
    whole = path.read_bytes()
    for keep in (0.3, 0.5, 0.9, 0.999):
        path.write_bytes(whole[: int(len(whole) * keep)])
        found = rows(open_source(path, DATASET))
        good = [r.row for r in found if r.row]
        assert good == [{"code": str(i), "name": "a", "n": i} for i in range(len(good))]
        assert len(good) > 1000 * keep - 150
        assert "breaks off after row" in found[-1].defects[0].en


# --- a database ----------------------------------------------------------------------------------


def database(folder: Path) -> str:
    with sqlite3.connect(folder / "d.sqlite") as db:
        db.execute("CREATE TABLE t (code TEXT, name TEXT, n INTEGER)")
        db.executemany("INSERT INTO t VALUES (?,?,?)", [("1", "a%b", 1), ("2", None, None)])
    db.close()
    return f"sqlite:///{folder}/d.sqlite"


def test_a_query_is_sent_unchanged(tmp_path: Path) -> None:
    source = open_query(
        "SELECT code, name, n FROM t WHERE name IS NULL OR name LIKE 'a%b' AND ':x' > ''",
        database(tmp_path),
        DATASET,
    )
    assert source.fingerprint() is None
    assert [r.row for r in rows(source)] == [
        {"code": "1", "name": "a%b", "n": 1},
        {"code": "2", "name": None, "n": None},
    ]


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("SELEC 1", "refused the query"),
        ("SELECT code, n FROM t", "missing name"),
        ("SELECT code, name, n, n FROM t", "appears 2 times"),
        ("CREATE TABLE u (x)", "returns no rows"),
    ],
)
def test_a_query_that_cannot_be_published_is_refused(tmp_path: Path, sql: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        open_query(sql, database(tmp_path), DATASET)


@pytest.mark.parametrize(
    "url", ["hunter2", "nosuchdb://u:hunter2@h/x", "sqlite:////no/such/folder.db?password=hunter2"]
)
@pytest.mark.parametrize("kind", [str, SecretStr])
def test_bad_database_url_is_refused_without_its_password(url: str, kind: type[str] | type[SecretStr]) -> None:
    with pytest.raises(InputError) as caught:
        open_query("SELECT 1", kind(url), DATASET)
    assert "hunter2" not in str(caught.value)


def test_database_given_as_a_secret_is_read(tmp_path: Path) -> None:
    source = open_query("SELECT code, name, n FROM t", SecretStr(database(tmp_path)), DATASET)
    assert len(rows(source)) == 2
