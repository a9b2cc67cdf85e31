"""Settings come from the environment alone; a value that cannot be used is refused with the name of its variable."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from infra.node_file import node_text
from infra.settings import Settings, chinese_first, read_settings
from schemas.errors import InputError
from schemas.ports.files import write_whole
from schemas.ports.kafka_access import KafkaAccess


def test_home_is_absolute_and_under_the_current_folder_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = read_settings()
    assert settings.home == tmp_path / ".suibus"
    assert settings.lake_path == str(tmp_path / ".suibus" / "lake")


def test_environment_is_read_and_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUIBUS_CONTRACTS", "/one::/two")
    monkeypatch.setenv("SUIBUS_PARTITIONS", "3")
    monkeypatch.setenv("SUIBUS_LAKE", "")
    settings = read_settings()
    assert settings.contract_folders == (Path("/one"), Path("/two"))
    assert settings.partitions == 3
    assert settings.lake is None


def test_lake_url_stays_and_lake_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings(lake="s3a://bucket/lake").lake_path == "s3a://bucket/lake"
    assert Settings(lake="lake").lake_path == str(tmp_path / "lake")


def test_settings_of_an_own_home_take_nothing_but_jars_and_java_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_own_home() -> dict[str, object]:
        return dict(read_settings().of_own_home(tmp_path / "own"))

    given = {
        "home": "/in/use", "contracts": "/in/use", "bootstrap_servers": "in.use:1", "node": "/in/use.toml", "advertised_host": "in.use",
        "database": "sqlite:///in-use", "spark_master": "spark://in.use", "spark_memory": "9g", "lake": "s3a://in-use",
        "registry_url": "https://in.use", "partitions": "9", "replication": "9", "transport": "librdkafka", "metrics_port": "9",
        "log_format": "json", "jars": "/jars", "ivy_settings": "/ivy.xml", "java_home": "/java",
    }  # fmt: skip
    assert given.keys() == Settings.model_fields.keys(), "a new setting needs a value here"
    without = of_own_home()
    for name, value in given.items():
        monkeypatch.setenv("JAVA_HOME" if name == "java_home" else f"SUIBUS_{name.upper()}", value)
    assert read_settings().model_fields_set == given.keys()
    machine = {"jars": Path("/jars"), "ivy_settings": Path("/ivy.xml"), "java_home": Path("/java")}
    assert of_own_home() == {**without, **machine}
    assert read_settings().of_own_home(tmp_path / "own").lake_path == str(tmp_path / "own" / "lake")


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().partitions = 2  # type: ignore[misc]


def test_wrong_value_names_its_variable_in_both_languages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUIBUS_PARTITIONS", "many")
    with pytest.raises(InputError) as caught:
        read_settings()
    assert "SUIBUS_PARTITIONS is 'many'" in caught.value.en
    assert "SUIBUS_PARTITIONS" in caught.value.zh


def test_the_address_of_the_bus_is_the_node_files_unless_a_variable_sets_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "n.toml"
    password = SecretStr("s3cret")
    write_whole(path, node_text("bus.example:9093", "440106.1f2e3d4c", "", "440106", password=password), secret=True)
    monkeypatch.setenv("SUIBUS_NODE", str(path))
    assert read_settings().access == KafkaAccess("bus.example:9093", "440106.1f2e3d4c", password)
    monkeypatch.setenv("SUIBUS_BOOTSTRAP_SERVERS", "elsewhere:1")
    assert read_settings().access == KafkaAccess("elsewhere:1", "440106.1f2e3d4c", password)
    monkeypatch.delenv("SUIBUS_NODE")
    assert read_settings().access == KafkaAccess("elsewhere:1")
    monkeypatch.delenv("SUIBUS_BOOTSTRAP_SERVERS")
    assert read_settings().access is None


def test_settings_show_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUIBUS_DATABASE", "postgresql+psycopg://u:s3cret@host/db")
    monkeypatch.setenv("SUIBUS_REGISTRY_URL", "https://u:s3cret@registry")
    settings = read_settings()
    assert "s3cret" not in f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()}"
    assert settings.database is not None
    assert settings.database.get_secret_value().endswith("s3cret@host/db")


def test_java_home_is_read_under_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", "/opt/java")
    assert read_settings().java_home == Path("/opt/java")
    monkeypatch.setenv("SUIBUS_JAVA_HOME", "/opt/other")
    assert read_settings().java_home == Path("/opt/java")


@pytest.mark.parametrize(
    ("variables", "chinese"),
    [
        ({}, False),
        ({"LANG": "zh_CN.UTF-8"}, True),
        ({"LANG": "zh_HK.UTF-8", "LC_ALL": ""}, True),
        ({"LANG": "zh_CN.UTF-8", "LC_MESSAGES": "en_GB.UTF-8"}, False),
        ({"LANG": "en_GB.UTF-8", "LC_MESSAGES": "en_GB.UTF-8", "LC_ALL": "zh_CN"}, True),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C.UTF-8"}, False),
    ],
)
def test_language_is_that_of_the_first_variable_set(
    variables: dict[str, str], chinese: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert chinese_first() is chinese


def test_no_other_module_reads_the_environment() -> None:
    """Copying the environment for a new process and setting a variable do not count as reading."""
    root = Path(__file__).parents[3]
    reading = re.compile(r"getenv|environ\.get\(|environ\[[^\]]+\](?! *=)")
    sources = [
        p for folder in ("infra", "pipelines", "producers", "quality", "schemas") for p in (root / folder).rglob("*.py")
    ]
    found = {str(p.relative_to(root)) for p in sources if reading.search(p.read_text("utf-8"))}
    assert found == {"infra/settings.py", "infra/jvm/environment.py"}  # the second deletes names


def test_no_other_module_makes_settings_which_would_read_the_environment() -> None:
    root = Path(__file__).parents[3]
    making = [p.name for p in (root / "infra").rglob("*.py") if re.search(r"\bSettings\(\**\w", p.read_text("utf-8"))]
    assert making == ["settings.py"]


@pytest.mark.parametrize("host", ["bus example", "http://bus", "bus:9092", "-bus", "a\nb"])
def test_advertised_host_that_would_break_the_brokers_file_is_refused(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUIBUS_ADVERTISED_HOST", host)
    with pytest.raises(InputError, match="SUIBUS_ADVERTISED_HOST"):
        read_settings()
