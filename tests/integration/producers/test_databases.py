"""A district's own database as the source: a real PostgreSQL and SQLite, through the command, to silver."""

from __future__ import annotations

import csv
import os
import pwd
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

import psycopg
import pytest
from pydantic import SecretStr

from infra.bus.bus import Bus
from infra.commands.publish import publish_rows
from infra.kafka.broker import Broker
from infra.settings import Settings
from producers.outbox import Mode
from producers.publish.delivery import publish_source
from producers.publish.publisher import Publisher
from producers.sources.database import open_query
from producers.sources.source import BATCH
from schemas.errors import InputError, SuibusError, UnavailableError
from tests.integration.conftest import Road

PASSWORD = "geheim-穗"
DISTRICT = "440106"
COLUMNS = """\
      - {name: price, logicalType: number, physicalType: "decimal(18,4)"}
      - {name: seen, logicalType: timestamp}
      - {name: born, logicalType: date}
      - {name: open, logicalType: boolean}
      - {name: seal, logicalType: string, physicalType: bytea}
      - {name: tags, logicalType: array, items: {logicalType: string}}
      - name: place
        logicalType: object
        properties:
          - {name: street, logicalType: string, required: true}
          - {name: area, logicalType: number, physicalType: "decimal(24,2)"}
      - {name: small, logicalType: integer, physicalType: int4}
      - {name: ratio, logicalType: number, physicalType: real}
      - {name: size, logicalType: number, physicalType: double precision}
"""
NOTHING = ", ".join(
    f"CAST(NULL AS text) AS {c}" for c in ("price", "born", "open", "seal", "tags", "place", "small", "ratio", "size")
)


class Postgres:
    """A running server and the URL of its database."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"postgresql+psycopg://suibus:{PASSWORD}@127.0.0.1:{port}/postgres"

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="suibus", password=PASSWORD, dbname="postgres", autocommit=True
        )

    def run(self, *statements: str) -> list[tuple[Any, ...]]:
        """Execute statements; the rows of the last."""
        with closing(self.connect()) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


def find_programs() -> Path | None:
    """The newest folder of PostgreSQL's server programs."""
    folders = [p.parent for p in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if folders:
        return max(folders, key=lambda p: int(p.parent.name))
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


def lacking(reason: str) -> NoReturn:
    """Skip what needs PostgreSQL; with CI=true fail instead."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL for this module, on a free port. Started as root, it runs as an unprivileged user, as PostgreSQL demands."""
    programs = find_programs()
    if programs is None:
        lacking("no PostgreSQL server programs here (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="suibus-postgres-"))
    prefix: list[str] = []
    (folder / "password").write_text(PASSWORD, "utf-8")
    if os.getuid() == 0:
        known = {entry.pw_name: entry for entry in pwd.getpwall()}
        user = known.get("postgres") or known.get("nobody")
        if user is None or shutil.which("setpriv") is None:
            lacking("PostgreSQL does not run as root, and there is no user postgres or nobody, or no setpriv")
        prefix = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        os.chown(folder, user.pw_uid, user.pw_gid)
        os.chown(folder / "password", user.pw_uid, user.pw_gid)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = Postgres(free.getsockname()[1])
    data = folder / "data"
    initdb = [
        str(programs / "initdb"),
        "-D",
        str(data),
        "-U",
        "suibus",
        "-A",
        "scram-sha-256",
        "--no-sync",
        "-E",
        "UTF8",
    ]
    initdb += [f"--pwfile={folder / 'password'}", "--locale=C"]
    subprocess.run([*prefix, *initdb], check=True, capture_output=True, cwd=folder)
    options = {
        "listen_addresses": "127.0.0.1", "port": server.port, "unix_socket_directories": "", "fsync": "off",
        "shared_buffers": "16MB", "timezone": "Asia/Shanghai", "datestyle": "SQL, DMY",
    }  # fmt: skip
    command = [*prefix, str(programs / "postgres"), "-D", str(data), *(f"--{k}={v}" for k, v in options.items())]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        for _ in range(300):
            assert process.poll() is None, (folder / "log").read_text()
            with suppress(psycopg.OperationalError):
                server.connect().close()
                break
            time.sleep(0.1)
        yield server
    finally:
        process.send_signal(2)  # SIGINT: PostgreSQL's fast shutdown
        process.wait(30)
        shutil.rmtree(folder)


class Node:
    """A district that publishes the rows of queries with the command."""

    def __init__(self, road: Road, folder: Path) -> None:
        self.road, self.folder = road, folder
        self.name = road.name

    def publish(self, sql: str, database: str, mode: Mode = "append") -> int:
        bus = self.road.bus
        return publish_rows(bus, self.name, DISTRICT, mode, query=sql, database=SecretStr(database), timeout=30)

    def rejects(self) -> list[dict[str, str]]:
        path = self.folder / f"{self.name}.{DISTRICT}.rejects.csv"
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file))

    def silver(self, *columns: str) -> list[tuple[Any, ...]]:
        self.road.merge()
        lake = self.road.lake
        frame = lake.silver(self.road.dataset).read().where("NOT _deleted")
        return [tuple(row) for row in frame.orderBy("id").selectExpr(*columns).collect()]


@pytest.fixture
def node(tmp_path: Path, broker: Broker, spark: Any, names: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> Node:
    """A node with a dataset that has a column of every type."""
    monkeypatch.chdir(tmp_path)  # the rejects of a query are written here
    contracts = tmp_path / "contracts"
    settings = Settings(home=tmp_path / "home", bootstrap_servers=broker.access.servers, contracts=str(contracts))
    road = Road(Bus(settings), names())
    road.contract(columns=COLUMNS)
    contracts.mkdir()
    (contracts / f"{road.name}.yaml").write_text(road.dataset.text, "utf-8")
    return Node(road, tmp_path)


def postgres_table(postgres: Postgres) -> tuple[str, str]:
    """A table with PostgreSQL's own type for every column."""
    postgres.run(
        "DROP TABLE IF EXISTS parks",
        "CREATE TABLE parks (id text, district_code varchar(6), seq int8, amount int4, price numeric(18,4), "
        "seen timestamptz, born date, open boolean, seal bytea, tags text[], place jsonb, small int4, "
        "ratio real, size double precision)",
        "INSERT INTO parks VALUES ('a', '440106', 9007199254740993, 1, 12345678901234.5678, "
        "'2026-03-01 08:30:00.123456+08', '2026-02-28', true, '\\x00ff'::bytea, '{越秀,NULL,\"b c\"}', "
        '\'{"street": "中山路", "area": 9007199254740993000001.25}\', -2147483648, 0.1, 0.1)',
        "INSERT INTO parks VALUES ('b', '440106', 1)",
    )
    return postgres.url, "SELECT * FROM parks"


def sqlite_table(folder: Path) -> tuple[str, str]:
    """The same rows as SQLite can hold them: booleans as 0 and 1, decimals, dates, times, arrays, records as text."""
    path = folder / "parks.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute(
            "CREATE TABLE parks (id TEXT, district_code TEXT, seq INTEGER, amount INTEGER, price TEXT, seen TEXT, "
            "born TEXT, open INTEGER, seal BLOB, tags TEXT, place TEXT, small INTEGER, ratio REAL, size REAL)"
        )
        db.execute(
            "INSERT INTO parks VALUES ('a', '440106', 9007199254740993, 1, '12345678901234.5678', "
            "'2026-03-01 08:30:00.123456+08:00', '2026-02-28', 1, x'00ff', '[\"越秀\", null, \"b c\"]', "
            '\'{"street": "中山路", "area": 9007199254740993000001.25}\', -2147483648, 0.1, 0.1)'
        )
        db.execute("INSERT INTO parks (id, district_code, seq) VALUES ('b', '440106', 1)")
        db.commit()
    return f"sqlite:///{path}", "SELECT * FROM parks"


@pytest.mark.parametrize("engine", ["postgresql", "sqlite"])
def test_every_type_of_a_database_reaches_silver_unchanged(
    node: Node, engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if engine == "postgresql":
        url, sql = postgres_table(request.getfixturevalue("postgres"))
    else:
        url, sql = sqlite_table(tmp_path)
    assert node.publish(sql, url) == 0
    columns = ("id", "seq", "amount", "price", "unix_micros(seen)", "born", "open", "seal", "tags", "place.street")
    full, empty = node.silver(*columns, "place.area", "small", "ratio = CAST('0.1' AS float)", "size")
    assert full == (
        "a", 9007199254740993, 1, Decimal("12345678901234.5678"), 1_772_325_000_123_456, date(2026, 2, 28), True,
        b"\x00\xff", ["越秀", None, "b c"], "中山路", Decimal("9007199254740993000001.25"), -(2**31), True, 0.1,
    )  # fmt: skip
    assert empty == ("b", 1, *[None] * 12)


def test_a_sqlite_number_with_a_binary_tail_is_refused_not_rounded(node: Node, tmp_path: Path) -> None:
    url, _ = sqlite_table(tmp_path)
    others = NOTHING.removeprefix("CAST(NULL AS text) AS price, ")
    row = f"'{DISTRICT}' AS district_code, 1 AS seq, 1 AS amount, NULL AS seen, {others}"
    sql = f"SELECT 'real' AS id, 12.5 AS price, {row} UNION ALL SELECT 'tail', 0.1 + 0.2, {row}"
    assert node.publish(sql, url) == 1
    (rejected,) = node.rejects()
    assert rejected["reason"].startswith("price: finer than decimal(18,4)")


def test_a_time_without_zone_is_refused_in_its_row_and_says_so_in_both_languages(
    node: Node, postgres: Postgres
) -> None:
    row = f"'{DISTRICT}' AS district_code, 1 AS seq, 1 AS amount, {NOTHING}"
    sql = (
        f"SELECT 'naive' AS id, TIMESTAMP '2026-03-01 08:30' AS seen, {row} "
        f"UNION ALL SELECT 'null', NULL::timestamp, {row}"
    )
    assert node.publish(sql, postgres.url) == 1
    (rejected,) = node.rejects()
    assert (rejected["line"], rejected["column"]) == ("1", "seen")
    assert "a time without zone is ambiguous: add it, such as +08:00" in rejected["reason"]
    assert "时间没有时区" in rejected["原因"]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("born", ["'infinity'::date", "'10000-01-01'::date", "'0044-03-15 BC'::date"]),
        ("seen", ["'-infinity'::timestamptz", "'10000-01-01 00:00+00'::timestamptz"]),
        ("price", ["'NaN'::numeric", "1e20::numeric"]),
        ("size", ["'NaN'::float8", "'-Infinity'::float8"]),
        ("place", ['\'{"street": "a", "street": "b"}\'::json', "'[]'::json", "'{\"street\": null}'::json"]),
        ("tags", ["NULL::text[]", "'{}'::text[]"]),  # good ones
    ],
)
def test_a_value_that_the_contract_cannot_hold_rejects_only_its_own_row(
    node: Node, postgres: Postgres, column: str, values: list[str]
) -> None:
    rest = [c for c in node.road.dataset.fields if c.name not in ("id", "district_code", "seq", column)]
    nothing = ", ".join(f"NULL AS {c.name}" for c in rest)
    rows = [*values, "NULL"]
    sql = " UNION ALL ".join(
        f"SELECT '{i}' AS id, '{DISTRICT}' AS district_code, {i} AS seq, {value} AS {column}, {nothing}"
        for i, value in enumerate(rows)
    )
    source = open_query(sql, postgres.url, node.road.dataset)
    with Publisher(
        node.road.dataset, DISTRICT, node.road.bus.outbox(DISTRICT), node.road.bus.access.servers
    ) as publisher:
        info = publish_source(publisher, source, rejects_path=node.folder / "r.csv")
    bad = 0 if column == "tags" else len(values)
    assert (info.read, info.rejected, info.accepted) == (len(rows), bad, len(rows) - bad)


def test_a_large_query_is_streamed_by_the_server(node: Node, postgres: Postgres, tmp_path: Path) -> None:
    row = f"'{DISTRICT}' AS district_code, n AS seq, n AS amount, NULL AS seen, {NOTHING}"
    sql = f"SELECT n::text AS id, {row} FROM generate_series(1, 100000) AS n"
    source = open_query(sql, postgres.url, node.road.dataset)
    records = source.read()
    seen: set[str] = set()

    def watched() -> Iterator[Any]:
        for record in records:
            if record.line in (1, 50_000, 99_999):
                activity = "SELECT query FROM pg_stat_activity WHERE state = 'idle in transaction'"
                seen.update(query for (query,) in postgres.run(activity))
            yield record

    publisher = Publisher(node.road.dataset, DISTRICT, node.road.bus.outbox(DISTRICT), node.road.bus.access.servers)
    with publisher.outbox:
        info = publish_source(publisher, source.__class__(source.name, watched, sql=True))
    assert (info.read, info.accepted, info.sent, info.waiting) == (100_000, 100_000, 100_000, 0)
    fetches = [query.split() for query in seen]
    assert fetches
    assert all(words[:2] == ["FETCH", "FORWARD"] and int(words[2]) <= BATCH for words in fetches), seen


def test_a_connection_lost_half_way_keeps_the_rows_read_before_and_says_so(node: Node, postgres: Postgres) -> None:
    row = f"'{DISTRICT}' AS district_code, n AS seq, n AS amount, NULL AS seen, {NOTHING}"
    sql = f"SELECT n::text AS id, {row} FROM generate_series(1, 9000) AS n"
    source = open_query(sql, postgres.url, node.road.dataset)
    records = source.read()
    first = next(records)
    ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'"
    assert postgres.run(ended) == [(True,)]
    *good, last = records
    assert first.row is not None
    assert all(record.row for record in good)
    assert last.row is None
    assert f"breaks off after row {len(good) + 1}" in last.defects[0].en


def test_the_snapshot_of_a_query_publishes_new_changed_and_deleted_rows(
    node: Node, postgres: Postgres, capsys: pytest.CaptureFixture[str]
) -> None:
    url, sql = postgres_table(postgres)
    assert node.publish(sql, url, "snapshot") == 0
    postgres.run(
        "DELETE FROM parks WHERE id = 'a'",
        "UPDATE parks SET amount = 7, seq = 2 WHERE id = 'b'",
        "INSERT INTO parks VALUES ('c', '440106', 1, 3), ('d', '440106', 1, 4)",
    )
    assert node.publish(sql, url, "snapshot") == 0
    assert node.publish(sql, url, "snapshot") == 0
    assert node.publish("SELECT id FROM parks WHERE id = 'd'", url, "delete") == 0
    accounts = [line for line in capsys.readouterr().out.splitlines() if " read " in line]
    assert [line.split(": ")[1].split(";")[0] for line in accounts] == [
        "read 2, accepted 2, deleted 0, unchanged 0, rejected 0",
        "read 3, accepted 3, deleted 1, unchanged 0, rejected 0",
        "read 3, accepted 0, deleted 0, unchanged 3, rejected 0",
        "read 1, accepted 0, deleted 1, unchanged 0, rejected 0",
    ]
    assert node.silver("id", "amount") == [("b", 7), ("c", 3)]


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ((PASSWORD, "falsch-密码"), UnavailableError, "password authentication failed"),
        (("/postgres", "/nosuch"), UnavailableError, "nosuch"),
        (("{port}", "1"), UnavailableError, "cannot be reached"),
        (("postgresql+psycopg", "postgresql+pg8000"), InputError, "driver for this database is not installed"),
        ((f"suibus:{PASSWORD}@", "suibus@"), UnavailableError, "cannot be reached"),
    ],
)
def test_an_error_of_a_database_does_not_show_its_password(
    node: Node, postgres: Postgres, change: tuple[str, str], error: type[SuibusError], says: str
) -> None:
    old = change[0].replace("{port}", f":{postgres.port}")
    url = postgres.url.replace(old, change[1] if "port" not in change[0] else ":1")
    with pytest.raises(error) as caught:
        node.publish("SELECT 1", url)
    assert says in caught.value.en
    for text in (caught.value.en, caught.value.zh):
        assert PASSWORD not in text
        assert "falsch" not in text


def test_an_error_does_not_show_a_password_in_the_query_part_of_a_url(node: Node, postgres: Postgres) -> None:
    url = f"postgresql+psycopg://127.0.0.1:{postgres.port}/postgres?user=suibus&password=falsch-{PASSWORD}"
    with pytest.raises(UnavailableError) as caught:
        node.publish("SELECT 1", url)
    assert "falsch" not in str(caught.value)
    with pytest.raises(InputError) as refused:
        node.publish(f"SELECT '{PASSWORD}' + 1", postgres.url)
    assert PASSWORD not in str(refused.value)
