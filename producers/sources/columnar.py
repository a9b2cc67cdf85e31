"""Rows of a Parquet or Avro file. If the file is truncated, the rows before the cut are still read."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

from producers.sources.source import BATCH, Columns, Record, Source, bytes_read, truncated_record
from schemas.errors import InputError
from schemas.row.message_text import clean


def open_parquet(path: Path, _: str, columns: Columns) -> Source:
    """The rows of a Parquet file, its columns checked against the contract.

    A timestamp in nanoseconds that is not a whole number of microseconds is a defect of its own row.
    """
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
            f"{path} is not complete: its Parquet footer cannot be read ({why}). It may be half written: generate it again.",
            f"{path} 不完整：无法读取 Parquet 尾部（{why}）。文件可能只写了一半，请重新生成。",
        ) from None
    columns.check(str(path), list(schema.names))
    nanosecond_columns = [i for i, t in enumerate(schema.types) if pa.types.is_timestamp(t) and t.unit == "ns"]
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
                    values_of = [
                        _nanoseconds(column.cast(pa.int64()).to_pylist(), schema.types[i].tz is not None)
                        if i in nanosecond_columns
                        else column.to_pylist()
                        for i, column in enumerate(batch.columns)
                    ]
                except (pa.ArrowException, OSError, ValueError) as error:
                    yield truncated_record(str(path), done, error)
                    return
                for values in zip(*values_of, strict=True):
                    done += 1
                    yield Record(done, None, dict(zip(schema.names, values, strict=True)))

    return Source(str(path), read, path=path, format="parquet", total=total, columns=tuple(schema.names))


def _nanoseconds(values: list[int | None], zoned: bool) -> list[Any]:
    """Nanoseconds since 1970 as datetimes. One finer than a microsecond stays text, which the coercer refuses in its own row."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC if zoned else None)
    made: list[Any] = []
    for value in values:
        if value is None:
            made.append(None)
            continue
        moment = epoch + timedelta(microseconds=value // 1000)
        rest = value % 1000
        made.append(f"{moment.replace(tzinfo=None).isoformat(timespec='microseconds')}{rest:03d}Z" if rest else moment)
    return made


def open_avro(path: Path, _: str, columns: Columns) -> Source:
    """The rows of an Avro container file; the fields of its schema are checked as columns."""
    import fastavro

    try:
        with path.open("rb") as file:
            schema = fastavro.reader(file).writer_schema
    except Exception as error:  # fastavro raises many kinds on broken bytes
        why = clean(" ".join(str(error).split()))[:200]
        raise InputError(
            f"{path} is not complete: its Avro header cannot be read ({why}). Generate it again.",
            f"{path} 不完整：无法读取 Avro 文件头（{why}）。请重新生成。",
        ) from None
    names = [f["name"] for f in schema.get("fields", ())] if isinstance(schema, dict) else []
    columns.check(str(path), names)
    opened: list[IO[bytes]] = []

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
                    yield truncated_record(str(path), number, error)
                    return
                number += 1
                yield Record(number, None, row)

    return Source(
        str(path),
        read,
        lambda: bytes_read(opened),
        path=path,
        format="avro",
        size=path.stat().st_size,
        columns=tuple(names),
    )
