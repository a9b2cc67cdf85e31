from pathlib import Path

import pytest
from pydantic import ValidationError

from infra.settings import Settings, read_settings
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
