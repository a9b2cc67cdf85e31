"""`suibus publish` takes a database's URL from the environment, so that no argument has to contain a password."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from infra.cli import main

QUERY = "SELECT code, name, street_code, street_name, district_code FROM register"
PASSWORD = "s3cret"


def publish(folder: Path, *words: str, database: str | None = None) -> Result:
    """Publish to a Kafka that does not answer: accepted rows wait, and the exit status is 3."""
    environment = {
        "SUIBUS_HOME": str(folder / "home"), "SUIBUS_BOOTSTRAP_SERVERS": "127.0.0.1:1", "SUIBUS_DATABASE": database,
    }  # fmt: skip
    command = ["publish", "grassroots_division", "--district", "440106", "--timeout", "0.2", *words]
    return CliRunner().invoke(main, command, env=environment)


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)  # the rejects of a query are written here
    with closing(sqlite3.connect(tmp_path / "node.db")) as db:
        db.execute("CREATE TABLE register (code, name, street_code, street_name, district_code)")
        row = ("440106001001", "五山社区居委会", "440106001", "五山街道", "440106")
        db.execute("INSERT INTO register VALUES (?, ?, ?, ?, ?)", row)
        db.commit()
    return f"sqlite:///{tmp_path}/node.db"


def test_a_query_uses_the_database_of_the_environment(tmp_path: Path, database: str) -> None:
    done = publish(tmp_path, "--query", QUERY, database=database)
    assert done.exit_code == 3, done.output
    assert "accepted 1" in done.stdout


def test_the_database_of_the_command_line_overrides_that_of_the_environment(tmp_path: Path, database: str) -> None:
    done = publish(tmp_path, "--query", QUERY, "--database", database, database="sqlite:////nowhere/x.db")
    assert done.exit_code == 3, done.output


def test_file_is_published_whatever_database_the_environment_names(tmp_path: Path, database: str) -> None:
    register = Path(__file__).parents[3] / "infra" / "demo" / "register" / "440106.csv"
    done = publish(tmp_path, str(register), database=database)
    assert done.exit_code == 3, done.output
    assert "accepted 230" in done.stdout


def test_query_without_a_database_names_both_ways_to_give_one(tmp_path: Path) -> None:
    done = publish(tmp_path, "--query", QUERY)
    assert done.exit_code == 2
    for text in ("--database or SUIBUS_DATABASE", "--database（或 SUIBUS_DATABASE）"):
        assert text in done.stderr


def test_the_password_of_the_environment_is_shown_nowhere(tmp_path: Path) -> None:
    url = f"postgresql+psycopg://u:{PASSWORD}@127.0.0.1:1/db?connect_timeout=1"
    done = publish(tmp_path, "--query", QUERY, database=url)
    assert done.exit_code in (2, 3)
    assert PASSWORD not in done.output
