"""Where a district's rows come from: a CSV, JSON Lines, Parquet or Avro file, or a query of its database.

A source is read lazily, in bounded memory. A file that is not what it should be as a whole (no such file,
another format, a column too many) is an InputError before the first row; a row that cannot be read is a
`Record` with its defects, and the rows around it are not lost.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, NamedTuple

from schemas.dataset import Dataset
from schemas.errors import InputError, UnavailableError
from schemas.row.coercer import Defect
from schemas.row.shown import clean, did_you_mean, show
from schemas.row.strict_json import parse_json

FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".avro": "avro"}
LONGEST_LINE = 1 << 24  # characters; a file without line ends must not fill the memory
LONGEST_FIELD = 1 << 20  # characters; more than Kafka takes as one record
BATCH = 2_000
SNIFFED = 1 << 16  # bytes looked at to tell the encoding
RECEIPT_COLUMNS = ("_receipt", "_reason", "_原因")  # the columns of a file of corrections beside the contract's


class Record(NamedTuple):
    """One row as the source has it: `row` is None when it could not be read, and `defects` say why.

    `line` is the line of a text file, else the row's number, from 1. `text` is the row as the file has it, or
    None where the source is not text.
    """

    line: int
    text: str | None
    row: Mapping[str, Any] | None
    defects: tuple[Defect, ...] = ()


@dataclass(frozen=True)
class Source:
    """Rows to publish; `total` rows and `size` in bytes where known beforehand."""

    name: str  # what messages call it
    read: Callable[[], Iterator[Record]]
    position: Callable[[], int] = lambda: 0  # bytes read so far
    text: bool = False  # values are CSV text
    sql: bool = False
    path: Path | None = None
    format: str = ""
    total: int | None = None
    size: int | None = None
    columns: tuple[str, ...] = ()  # where the source names them before its rows

    def fingerprint(self) -> str | None:
        """SHA-256 of the file's content and its format; None for a query: its rows may differ next time."""
        if self.path is None:
            return None
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        digest.update(self.format.encode())
        return digest.hexdigest()


def open_source(
    path: str | Path,
    dataset: Dataset,
    *,
    format: str | None = None,
    encoding: str | None = None,
    delete: bool = False,
    corrections: bool = False,
) -> Source:
    """The rows of a file, its columns checked against the contract; InputError if the whole cannot be taken.

    The format goes by the extension unless given; `encoding` is for CSV and JSON Lines, UTF-8 unless given.
    `delete`: only the key columns must be there. `corrections`: the column `_receipt` must be there too.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file in it.", f"{path} 是文件夹：请指定其中的文件。")
    if not path.is_file():
        raise InputError(
            f"{path}: no such file. Check the name and the folder.",
            f"{path}：没有这个文件。请检查文件名和所在文件夹。",
        )
    kind = format or FORMATS.get(path.suffix.lower())
    if kind is None or kind not in _OPENERS:
        en, zh = ("format", "格式") if format else ("extension", "扩展名")
        found = repr(format or path.suffix)
        raise InputError(
            f"{path}: the {en} {found} is not taken. Taken are .csv, .jsonl, .ndjson, .parquet and .avro; "
            "save it as one of these, or name the format with --format csv|jsonl|parquet|avro.",
            f"{path}：不接受{zh} {found}。可用 .csv、.jsonl、.ndjson、.parquet、.avro；"
            "请另存为其中一种，或用 --format csv|jsonl|parquet|avro 指明格式。",
        )
    try:
        with path.open("rb") as file:
            start = file.read(SNIFFED)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): check its permissions.",
            f"{path} 无法读取（{error.strerror}）：请检查权限。",
        ) from None
    _check_content(path, kind, start, encoding)
    try:
        return _OPENERS[kind](path, encoding or "utf-8-sig", _Wanted(dataset, delete, corrections))
    except (LookupError, UnicodeError):
        raise InputError(
            f"{path} cannot be read with --encoding {encoding}: name the file's own, like utf-8 or gb18030.",
            f"{path} 无法以 --encoding {encoding} 读取：请指明文件实际的编码，例如 utf-8 或 gb18030。",
        ) from None


_MAGIC = [
    (b"PAR1", "parquet", "a Parquet file", "Parquet 文件"),
    (b"Obj\x01", "avro", "an Avro container file", "Avro 容器文件"),
    (b"PK\x03\x04", "", "a zip archive, as .xlsx is", "zip 压缩包（.xlsx 也是）"),
    (b"\x1f\x8b", "", "gzip-compressed", "gzip 压缩文件"),
    (b"\xd0\xcf\x11\xe0", "", "an old Excel or Word file", "旧版 Excel 或 Word 文件"),
    (b"%PDF", "", "a PDF file", "PDF 文件"),
    (b"SQLite format 3\0", "", "an SQLite database", "SQLite 数据库"),
]


def _check_content(path: Path, kind: str, start: bytes, encoding: str | None) -> None:
    """The file's first bytes agree with its format and its encoding; InputError says what it looks like."""
    if not start or (kind in ("csv", "jsonl") and not start.removeprefix(b"\xef\xbb\xbf").strip()):
        raise InputError(
            f"{path} is empty: nothing was published. Check the export that wrote it.",
            f"{path} 是空文件：没有发布任何数据。请检查生成它的导出程序。",
        )
    looks = next((m for m in _MAGIC if start.startswith(m[0])), None)
    if looks and looks[1] != kind:
        todo = (f"Name it with --format {looks[1]}.", f"请用 --format {looks[1]} 指明。")
        if not looks[1]:
            todo = ("Unpack it, or save it as CSV in UTF-8.", "请先解压，或另存为 UTF-8 编码的 CSV。")
        raise InputError(
            f"{path} is not {kind}: it begins like {looks[2]}. {todo[0]}",
            f"{path} 不是 {kind}：开头像 {looks[3]}。{todo[1]}",
        )
    if kind in ("parquet", "avro"):
        if not looks:
            magic = "PAR1" if kind == "parquet" else "Obj 01"
            raise InputError(
                f"{path} is not {kind}: it begins {show(start[:12])}, expected {magic}. "
                "If it is text, name it with --format csv or --format jsonl.",
                f"{path} 不是 {kind}：开头为 {show(start[:12])}，应为 {magic}。"
                "如果是文本，请用 --format csv 或 --format jsonl 指明。",
            )
        return
    if encoding is not None:
        return
    guess = "UTF-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else _looks_like_gb18030(start) and "GB18030"
    if guess:
        raise InputError(
            f"{path} is not UTF-8: it looks like {guess}. Name it with --encoding {guess.lower()}, "
            "or save the file as UTF-8.",
            f"{path} 不是 UTF-8：看起来是 {guess}。请用 --encoding {guess.lower()} 指明，或另存为 UTF-8。",
        )


def _looks_like_gb18030(start: bytes) -> bool:
    """True if most bytes beyond ASCII are not UTF-8, but are Chinese when read as GB18030."""
    start = start[: start.rfind(b"\n") + 1] or start
    text = start.decode("utf-8", "surrogateescape")
    broken = sum("\udc80" <= c <= "\udcff" for c in text)
    if broken < 4 or broken * 2 < sum(b > 127 for b in start):
        return False
    chinese = [c for c in start.decode("gb18030", "replace") if c > "\x7f"]
    return sum(
        "\u4e00" <= c <= "\u9fff" or "\u3000" <= c <= "\u303f" or "\uff00" <= c <= "\uffef" for c in chinese
    ) > 0.9 * len(chinese)


class _Wanted(NamedTuple):
    """What a source's columns must be."""

    dataset: Dataset
    delete: bool = False
    corrections: bool = False


def _check_columns(name: str, found: list[str], want: _Wanted, line: int | None = None) -> None:
    """The columns are the contract's, each once, in any order; InputError names every one that is not."""
    dataset = want.dataset
    known = [f.name for f in dataset.fields]
    wanted = list(dataset.key) if want.delete else known
    if want.corrections:
        wanted, known = [RECEIPT_COLUMNS[0], *wanted], [*RECEIPT_COLUMNS, *known]
    en: list[str] = []
    zh: list[str] = []
    for column, times in Counter(found).items():
        if times > 1:
            en.append(f"column {show(column)} is there {times} times")
            zh.append(f"列 {show(column)} 出现了 {times} 次")
        if column not in known:
            any_left = [k for k in known if k not in found]
            hint = did_you_mean(column, any_left)
            en.append(f"column {show(column)} is not in the contract" + (f" ({hint[0]})" if any_left else ""))
            zh.append(f"契约中没有列 {show(column)}" + (f"（{hint[1]}）" if any_left else ""))
    missing = [c for c in wanted if c not in found]
    if missing:
        en.append(f"missing {', '.join(missing)}")
        zh.append(f"缺少列 {'、'.join(missing)}")
    if en:
        at, at_zh = ("", "") if line is None else (f", line {line}", f"，第 {line} 行")
        raise InputError(
            f"{name}{at}: {'; '.join(en)}. Dataset {dataset.name} has the columns {', '.join(known)}. "
            "Nothing was published: correct the columns and publish again.",
            f"{name}{at_zh}：{'；'.join(zh)}。数据集 {dataset.name} 的列为 {'、'.join(known)}。"
            "没有发布任何数据：请更正列名后重新发布。",
        )


# --- text -------------------------------------------------------------------------------------------


def _open_text(path: Path, encoding: str) -> IO[str]:
    # A byte that is not text becomes a lone surrogate, which the coercer refuses in its own row and column.
    return path.open(encoding=encoding, errors="surrogateescape", newline="")


def _place(opened: list[IO[Any]]) -> int:
    return opened[0].tell() if opened and not opened[0].closed else 0


class _Lines:
    """The lines of a file one by one; those `taken` for a record can be given back to be read again."""

    def __init__(self, file: IO[str]) -> None:
        self._readline = file.readline
        self._again: deque[str] = deque()
        self.number = 0
        self.taken: list[str] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._readline(LONGEST_LINE)
        if not line:
            raise StopIteration
        self.number += 1
        self.taken.append(line)
        return line

    def give_back(self) -> None:
        """All but the first line of the record are read again."""
        self._again.extendleft(reversed(self.taken[1:]))
        self.number -= len(self.taken) - 1
        del self.taken[1:]


def _open_csv(path: Path, encoding: str, want: _Wanted) -> Source:
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_FIELD))
    with _open_text(path, encoding) as file:
        lines = _Lines(file)
        header = _csv_header(path, csv.reader(lines, strict=True))
        _check_columns(str(path), header, want, lines.number)
    opened: list[IO[Any]] = []
    width = len(header)

    def read() -> Iterator[Record]:
        with _open_text(path, encoding) as file:
            opened[:] = [file.buffer]  # type: ignore[attr-defined]
            lines = _Lines(file)
            reader = csv.reader(lines, strict=True)
            _csv_header(path, reader)
            taken = lines.taken
            while True:
                taken.clear()
                start = lines.number + 1
                try:
                    cells = next(reader)
                    if len(cells) == width:
                        yield Record(start, "".join(taken), dict(zip(header, cells, strict=True)))
                        continue
                    if not cells:
                        continue
                    en = f"{len(cells)} fields where the header has {width}: check commas and quotes"
                    zh = f"有 {len(cells)} 个字段，而表头有 {width} 个：请检查逗号和引号"
                except StopIteration:
                    return
                except csv.Error as error:
                    cut = "unexpected end of data" in str(error)
                    why = "a quote is opened and never closed" if cut else str(error)
                    en = f"not valid CSV: {why}; close the quote, and write a quote inside text twice"
                    why = "引号没有闭合" if cut else str(error)
                    zh = f"不是有效的 CSV（{why}）：请闭合引号；文本内的引号要写两个"
                # A quote left open takes the lines below with it: the first is bad, the rest is read again.
                lines.give_back()
                text = taken[0]
                yield Record(start, text, None, (Defect("", show(text.strip()), en, zh),))

    return Source(
        str(path),
        read,
        lambda: _place(opened),
        text=True,
        path=path,
        format=f"csv {encoding}",
        size=path.stat().st_size,
        columns=tuple(header),
    )


def _csv_header(path: Path, reader: Any) -> list[str]:
    try:
        return next(cells for cells in reader if cells)
    except csv.Error as error:
        raise InputError(
            f"{path}, line 1: the header is not valid CSV ({error}). Write column names, commas between.",
            f"{path}，第 1 行：表头不是有效的 CSV（{error}）。请写列名，以逗号分隔。",
        ) from None


def _open_jsonl(path: Path, encoding: str, want: _Wanted) -> Source:
    with _open_text(path, encoding) as file:
        first = [line.lstrip()[:1] for line in (file.readline(LONGEST_LINE) for _ in range(20)) if line.strip()][:3]
    if "{" not in first:
        found = show(first[0]) if first else "nothing"
        raise InputError(
            f"{path} is not JSON Lines: its lines begin with {found}, expected {{. Write one JSON object a "
            "line, with no list around them; if the file is CSV, name it with --format csv.",
            f"{path} 不是 JSON Lines：各行以 {found} 开头，应为 {{。请每行写一个 JSON 对象，外面不要加列表；"
            "如果是 CSV，请用 --format csv 指明。",
        )
    opened: list[IO[Any]] = []

    def read() -> Iterator[Record]:
        with _open_text(path, encoding) as file:
            opened[:] = [file.buffer]  # type: ignore[attr-defined]
            number = 0
            while line := file.readline(LONGEST_LINE):
                number += 1
                if not line.strip():
                    continue
                try:
                    row = parse_json(line)
                except ValueError as error:
                    cut = not line.endswith("\n")
                    en = f"not JSON: {clean(str(error))}" + ("; the file seems cut off here" if cut else "")
                    zh = f"不是有效的 JSON：{clean(str(error))}" + ("；文件似乎在此处被截断" if cut else "")
                    defect = Defect("", show(line.strip()), f"{en}: correct the line", f"{zh}：请更正该行")
                    yield Record(number, line, None, (defect,))
                    continue
                if isinstance(row, dict):
                    yield Record(number, line, row)
                else:
                    defect = Defect(
                        "",
                        show(line.strip()),
                        "not a JSON object: write {…}, one a line",
                        "不是 JSON 对象：请每行写一个 {…}",
                    )
                    yield Record(number, line, None, (defect,))

    return Source(
        str(path),
        read,
        lambda: _place(opened),
        path=path,
        format=f"jsonl {encoding}",
        size=path.stat().st_size,
    )


# --- columnar and binary ----------------------------------------------------------------------------


def _broken(name: str, after: int, error: Exception) -> Record:
    """The end of what can be read: the rows before it stand; it counts as a rejected row."""
    why = clean(" ".join(str(error).split()))[:200] or type(error).__name__
    defect = Defect(
        "",
        why,
        f"{name} breaks off after row {after}: the rest cannot be read and was not published; write it again whole",
        f"{name} 在第 {after} 行之后中断：其余内容无法读取，未发布；请重新生成完整文件",
    )
    return Record(after + 1, "", None, (defect,))


def _open_parquet(path: Path, encoding: str, want: _Wanted) -> Source:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError(
            f"{path}: reading Parquet needs pyarrow. In the project's folder: pip install '.[parquet]'",
            f"{path}：读取 Parquet 需要 pyarrow。请在项目文件夹执行：pip install '.[parquet]'",
        ) from None
    try:
        file = pq.ParquetFile(path)
        total, schema = file.metadata.num_rows, file.schema_arrow
        file.close()
    except (pa.ArrowException, OSError) as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path} is not whole: its Parquet footer cannot be read ({why}). It may be half written: write it again.",
            f"{path} 不完整：无法读取 Parquet 尾部（{why}）。文件可能只写了一半，请重新生成。",
        ) from None
    _check_columns(str(path), list(schema.names), want)
    fine = [i for i, t in enumerate(schema.types) if pa.types.is_timestamp(t) and t.unit == "ns"]
    done = 0

    def read() -> Iterator[Record]:
        nonlocal done
        done = 0
        with pq.ParquetFile(path) as file:
            batches = file.iter_batches(BATCH)
            while True:
                try:
                    batch = next(batches, None)
                    if batch is None:
                        return
                    columns = [
                        _nanoseconds(column.cast(pa.int64()).to_pylist(), schema.types[i].tz is not None)
                        if i in fine
                        else column.to_pylist()
                        for i, column in enumerate(batch.columns)
                    ]
                except (pa.ArrowException, OSError, ValueError) as error:
                    yield _broken(str(path), done, error)
                    return
                for values in zip(*columns, strict=True):
                    done += 1
                    yield Record(done, None, dict(zip(schema.names, values, strict=True)))

    return Source(str(path), read, path=path, format="parquet", total=total, columns=tuple(schema.names))


def _nanoseconds(values: list[int | None], zoned: bool) -> list[Any]:
    """Nanoseconds since 1970 as datetimes; finer than a microsecond as text, which the coercer refuses."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC if zoned else None)
    made: list[Any] = []
    for value in values:
        if value is None:
            made.append(None)
            continue
        moment = epoch + timedelta(microseconds=value // 1000)
        fine = value % 1000
        made.append(f"{moment.replace(tzinfo=None).isoformat(timespec='microseconds')}{fine:03d}Z" if fine else moment)
    return made


def _open_avro(path: Path, encoding: str, want: _Wanted) -> Source:
    import fastavro

    try:
        with path.open("rb") as file:
            schema = fastavro.reader(file).writer_schema
    except Exception as error:  # fastavro raises many kinds on broken bytes
        why = clean(" ".join(str(error).split()))[:200]
        raise InputError(
            f"{path} is not whole: its Avro header cannot be read ({why}). Write it again.",
            f"{path} 不完整：无法读取 Avro 文件头（{why}）。请重新生成。",
        ) from None
    names = [f["name"] for f in schema.get("fields", ())] if isinstance(schema, dict) else []
    _check_columns(str(path), names, want)
    opened: list[IO[Any]] = []

    def read() -> Iterator[Record]:
        number = 0
        with path.open("rb") as file:
            opened[:] = [file]
            rows: Iterator[Any] = iter(fastavro.reader(file))
            while True:
                try:
                    row = next(rows)
                except StopIteration:
                    return
                except Exception as error:  # fastavro raises many kinds on broken bytes
                    yield _broken(str(path), number, error)
                    return
                number += 1
                yield Record(number, None, row)

    return Source(
        str(path),
        read,
        lambda: _place(opened),
        path=path,
        format="avro",
        size=path.stat().st_size,
        columns=tuple(names),
    )


_OPENERS: dict[str, Callable[[Path, str, _Wanted], Source]] = {
    "csv": _open_csv,
    "jsonl": _open_jsonl,
    "parquet": _open_parquet,
    "avro": _open_avro,
}


# --- a database -------------------------------------------------------------------------------------


def open_query(sql: str, database: str, dataset: Dataset, *, delete: bool = False) -> Source:
    """The rows of a query, streamed; `database` is an SQLAlchemy URL.

    InputError if the query or the URL cannot be used, UnavailableError if the database is away. The URL's
    password appears in no message.
    """
    from sqlalchemy import create_engine, event, make_url
    from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError

    try:
        url = make_url(database)
        if url.drivername in ("postgresql", "postgres"):  # SQLAlchemy would take psycopg2; ours is psycopg 3
            url = url.set(drivername="postgresql+psycopg")
        file = url.database if url.get_backend_name() == "sqlite" else None
        if file and file != ":memory:" and not file.startswith("file:") and not Path(file).is_file():
            raise InputError(
                f"{file}: no such database file. Check the URL; an absolute path has four slashes: sqlite:////folder/file.db.",
                f"{file}：没有这个数据库文件。请检查 URL；绝对路径要写四个斜杠：sqlite:////文件夹/文件.db。",
            )
        postgres = url.get_dialect().name == "postgresql"
        more: dict[str, Any] = {"json_deserializer": _json} if postgres else {}
        if postgres and "connect_timeout" not in url.query:
            more["connect_args"] = {"connect_timeout": 15}  # seconds; without it two minutes
        engine = create_engine(url, execution_options={"stream_results": True, "max_row_buffer": BATCH}, **more)
        if engine.dialect.driver == "psycopg":
            event.listen(engine, "connect", _read_postgres_whole)
    except (ArgumentError, ValueError):
        raise InputError(
            "The --database URL cannot be read. Write it as postgresql+psycopg://user:password@host/name "
            "or sqlite:////folder/file.db.",
            "无法解析 --database 的 URL。请写成 postgresql+psycopg://用户:密码@主机/库名 或 sqlite:////文件夹/文件.db。",
        ) from None
    except (ImportError, NoSuchModuleError) as error:
        raise InputError(
            f"The driver for this database is not installed ({error}). For PostgreSQL, in the project's "
            "folder: pip install '.[postgres]', and a URL beginning postgresql+psycopg://.",
            f"未安装该数据库的驱动（{error}）。PostgreSQL 请在项目文件夹执行 pip install '.[postgres]'，"
            "URL 以 postgresql+psycopg:// 开头。",
        ) from None
    name = url.set(query={}).render_as_string(hide_password=True)
    secrets = [str(s) for s in (url.password, url.query.get("password")) if s]

    def told(error: Exception) -> str:
        text = " ".join(str(getattr(error, "orig", None) or error).split())
        for secret in secrets:
            text = text.replace(secret, "***")
        return clean(text[:300])

    try:
        connection = engine.connect()
    except (OperationalError, InterfaceError) as error:
        raise UnavailableError(
            f"Database {name} cannot be reached ({told(error)}). Check it and run the same command again.",
            f"无法连接数据库 {name}（{told(error)}）。请检查后重新执行同一命令。",
        ) from None
    try:
        # Sent as it stands: neither :name nor % in it is a parameter.
        result = connection.execution_options(no_parameters=True).exec_driver_sql(sql)
        if not result.returns_rows:
            raise InputError(
                f"{name}: the query returns no rows. Write a SELECT.",
                f"{name}：该语句不返回行。请写 SELECT 查询。",
            )
        columns = list(result.keys())
        _check_columns(f"{name}, query", columns, _Wanted(dataset, delete))
    except DBAPIError as error:
        engine.dispose()
        raise InputError(
            f"{name} refused the query: {told(error)}. Correct the SQL.",
            f"{name} 拒绝了查询：{told(error)}。请更正 SQL。",
        ) from None
    except BaseException:
        connection.close()
        engine.dispose()
        raise

    def read() -> Iterator[Record]:
        number = 0
        try:
            for row in result.yield_per(BATCH):
                number += 1
                yield Record(number, None, dict(zip(columns, row, strict=True)))
        except DBAPIError as error:
            yield _broken(f"{name}, query", number, Exception(told(error)))
        finally:
            result.close()  # the server's cursor too, where the connection was lost
            connection.close()
            engine.dispose()

    return Source(f"{name}, query", read, sql=True, format="sql", columns=tuple(columns))


def _json(text: str | bytes) -> Any:
    """JSON with its numbers exact; what is not strict JSON stays text, which the coercer refuses in its own row."""
    text = text if isinstance(text, str) else text.decode()
    try:
        return parse_json(text)
    except ValueError:
        return text


def _read_postgres_whole(connection: Any, _record: object) -> None:
    """A time that Python lacks (infinity, before year 1, after 9999) arrives as text and is refused in its own row.

    psycopg would raise for it, and the rows after it would be lost; it also reads no other DateStyle than ISO.
    """
    import psycopg
    from psycopg.types import datetime as types

    def kept(loader: type[Any]) -> type[Any]:
        def load(self: Any, data: Any) -> Any:
            try:
                return loader.load(self, data)
            except psycopg.DataError:
                return bytes(data).decode()

        return type(loader.__name__, (loader,), {"load": load})

    loaders = {"date": types.DateLoader, "timestamp": types.TimestampLoader, "timestamptz": types.TimestamptzLoader}
    for name, loader in loaders.items():
        connection.adapters.register_loader(name, kept(loader))
    connection.execute("SET datestyle = 'ISO'")
    connection.commit()
