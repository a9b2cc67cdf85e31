"""Rows of a query on the district's own database, streamed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from producers.sources.source import BATCH, Columns, Record, Source, truncated_record
from schemas.dataset import Dataset
from schemas.errors import InputError, UnavailableError
from schemas.row.message_text import clean
from schemas.row.strict_json import parse_json


def open_query(sql: str, database: SecretStr | str, dataset: Dataset, *, delete: bool = False) -> Source:
    """The rows of a query, streamed; `database` is an SQLAlchemy URL, whose password appears in no message.

    InputError if the query or the URL cannot be used, UnavailableError if the database cannot be reached. If the connection
    is lost while rows are read, the rows before that are published, and the rest counts as one rejected row.
    """
    from sqlalchemy import create_engine, event, make_url
    from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError

    try:
        url = make_url(database.get_secret_value() if isinstance(database, SecretStr) else database)
        if url.drivername in ("postgresql", "postgres"):  # SQLAlchemy would choose psycopg2; Suibus installs psycopg 3
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
            more["connect_args"] = {"connect_timeout": 15}  # seconds; the default is about two minutes
        engine = create_engine(url, execution_options={"stream_results": True, "max_row_buffer": BATCH}, **more)
        if engine.dialect.driver == "psycopg":
            event.listen(engine, "connect", _load_any_postgres_time)
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

    def without_secrets(error: Exception) -> str:
        text = " ".join(str(getattr(error, "orig", None) or error).split())
        for secret in secrets:
            text = text.replace(secret, "***")
        return clean(text[:300])

    try:
        connection = engine.connect()
    except (OperationalError, InterfaceError) as error:
        raise UnavailableError(
            f"Database {name} cannot be reached ({without_secrets(error)}). Check it and run the same command again.",
            f"无法连接数据库 {name}（{without_secrets(error)}）。请检查后重新执行同一命令。",
        ) from None
    try:
        # The query is sent unchanged: neither :name nor % in it is a parameter.
        result = connection.execution_options(no_parameters=True).exec_driver_sql(sql)
        if not result.returns_rows:
            raise InputError(
                f"{name}: the query returns no rows. Write a SELECT.",
                f"{name}：该语句不返回行。请写 SELECT 查询。",
            )
        columns = list(result.keys())
        Columns(dataset, delete).check(f"{name}, query", columns)
    except DBAPIError as error:
        engine.dispose()
        raise InputError(
            f"{name} refused the query: {without_secrets(error)}. Correct the SQL.",
            f"{name} 拒绝了查询：{without_secrets(error)}。请更正 SQL。",
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
            yield truncated_record(f"{name}, query", number, Exception(without_secrets(error)))
        finally:
            result.close()  # closes the server's cursor, also after an error
            connection.close()
            engine.dispose()

    return Source(f"{name}, query", read, sql=True, format="sql", columns=tuple(columns))


def _json(text: str | bytes) -> Any:
    """The value of JSON text, with exact numbers. Text that is not strict JSON stays text, which the coercer refuses."""
    text = text if isinstance(text, str) else text.decode()
    try:
        return parse_json(text)
    except ValueError:
        return text


def _load_any_postgres_time(connection: Any, _record: object) -> None:
    """Make psycopg return a time that Python cannot hold (infinity, years before 1 or after 9999) as text.

    The coercer then refuses it in its own row; psycopg alone would raise, and the rows after it would be lost. DateStyle is
    set to ISO, the only one that psycopg reads.
    """
    import psycopg
    from psycopg.types import datetime as types

    def tolerant(loader: type[Any]) -> type[Any]:
        def load(self: Any, data: Any) -> Any:
            try:
                return loader.load(self, data)
            except psycopg.DataError:
                return bytes(data).decode()

        return type(loader.__name__, (loader,), {"load": load})

    loaders = {"date": types.DateLoader, "timestamp": types.TimestampLoader, "timestamptz": types.TimestamptzLoader}
    for name, loader in loaders.items():
        connection.adapters.register_loader(name, tolerant(loader))
    connection.execute("SET datestyle = 'ISO'")
    connection.commit()
