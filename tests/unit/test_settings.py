from pathlib import Path

import pytest
from pydantic import ValidationError

from infra.settings import Settings, node_text, read_node_file, read_settings, spark_options, write_secret
from schemas.errors import InputError


def test_home_is_absolute_and_under_the_current_folder_by_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = read_settings()
    assert settings.home == tmp_path / ".suibus"
    assert settings.lake_path == str(tmp_path / ".suibus" / "lake")


def test_environment_is_read_and_an_empty_variable_counts_as_unset(monkeypatch):
    monkeypatch.setenv("SUIBUS_CONTRACTS", "/one::/two")
    monkeypatch.setenv("SUIBUS_PARTITIONS", "3")
    monkeypatch.setenv("SUIBUS_LAKE", "")
    settings = read_settings()
    assert settings.contract_folders == (Path("/one"), Path("/two"))
    assert settings.partitions == 3
    assert settings.lake is None


def test_lake_url_stays_and_lake_path_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Settings(lake="s3a://bucket/lake").lake_path == "s3a://bucket/lake"
    assert Settings(lake="lake").lake_path == str(tmp_path / "lake")


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Settings().partitions = 2


def test_wrong_value_names_its_variable_in_both_languages(monkeypatch):
    monkeypatch.setenv("SUIBUS_PARTITIONS", "many")
    with pytest.raises(InputError) as caught:
        read_settings()
    assert "SUIBUS_PARTITIONS is 'many'" in caught.value.en
    assert "SUIBUS_PARTITIONS" in caught.value.zh


AUTHORITY = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"


def node_file(path, **secret):
    write_secret(path, node_text("bus.example:9093", "440106.1f2e3d4c", AUTHORITY, "440106", **secret))
    return path


def test_node_file_alone_names_the_bus_and_how_to_get_in(tmp_path, monkeypatch):
    monkeypatch.setenv("SUIBUS_NODE", str(node_file(tmp_path / "n.toml", password="s3cret")))
    settings = read_settings()
    assert settings.servers == "bus.example:9093"
    assert settings.security == {
        "security_protocol": "SASL_SSL",
        "ssl_cafile": str(tmp_path / "n.toml"),
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "440106.1f2e3d4c",
        "sasl_plain_password": "s3cret",
    }
    assert "s3cret" not in f"{settings!r} {settings.security} {read_node_file(tmp_path / 'n.toml')!r}"
    monkeypatch.setenv("SUIBUS_BOOTSTRAP_SERVERS", "elsewhere:1")
    assert read_settings().servers == "elsewhere:1"


def test_spark_gets_the_certificate_by_its_file_and_the_password_as_its_login(tmp_path):
    by_certificate = read_node_file(node_file(tmp_path / "c.toml", key="KEY", certificate=AUTHORITY))
    assert spark_options(by_certificate.client) == {
        "kafka.security.protocol": "SSL",
        "kafka.ssl.truststore.type": "PEM",
        "kafka.ssl.truststore.location": str(tmp_path / "c.toml"),
        "kafka.ssl.keystore.type": "PEM",
        "kafka.ssl.keystore.location": str(tmp_path / "c.toml"),
    }
    by_password = spark_options(read_node_file(node_file(tmp_path / "p.toml", password="s3cret")).client)
    assert by_password["kafka.sasl.mechanism"] == "SCRAM-SHA-512"
    assert by_password["kafka.sasl.jaas.config"].endswith('username="440106.1f2e3d4c" password="s3cret";')
    assert spark_options({}) == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("servers = 'a:1'\nuser = 'u'\n", "not whole"),
        ("servers = 'a:1'\nuser = 'u'\nkey = 'k'\n", "not whole"),
        ("servers = 'a:1'\nuser = 'u'\nkey = 'k'\ncertificate = 'c'\npassword = 'p'\n", "not whole"),
        ("user = 'u'\npassword = 'p'\n", "not whole"),
        ("servers = a:1\npassword = s3cret", "not TOML"),
        (None, "No such file"),
    ],
)
def test_node_file_that_is_not_whole_is_refused_without_showing_it(tmp_path, text, reason):
    path = tmp_path / "n.toml"
    if text is not None:
        write_secret(path, text)
    with pytest.raises(InputError, match=reason) as caught:
        read_node_file(path)
    assert "s3cret" not in str(caught.value)
    assert str(path) in caught.value.zh


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_node_file_that_others_can_read_is_refused(tmp_path, mode):
    path = node_file(tmp_path / "n.toml", password="s3cret")
    path.chmod(mode)
    with pytest.raises(InputError, match="chmod 600"):
        read_node_file(path)


def test_secret_file_is_private_from_its_first_byte_and_replaces_one_that_is_not(tmp_path):
    path = tmp_path / "n"
    path.write_text("old")
    path.chmod(0o666)
    write_secret(path, "new")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o600)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("host", ["bus example", "http://bus", "bus:9092", "-bus", "a\nb"])
def test_advertised_host_that_would_break_the_brokers_file_is_refused(host, monkeypatch):
    monkeypatch.setenv("SUIBUS_ADVERTISED_HOST", host)
    with pytest.raises(InputError, match="SUIBUS_ADVERTISED_HOST"):
        read_settings()
