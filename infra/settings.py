"""Where this node keeps its state and whom it talks to: read once from SUIBUS_… variables, then passed in."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.errors import InputError


class Settings(BaseSettings):
    """Every setting of a node, frozen. An empty variable counts as one that is not set."""

    model_config = SettingsConfigDict(env_prefix="SUIBUS_", frozen=True, env_ignore_empty=True, validate_default=True)

    home: Path = Field(Path(".suibus"), description="folder that holds all state")
    contracts: str = Field("", description="folders of contracts beyond the built-in ones, joined with ':'")
    bootstrap_servers: str | None = Field(None, description="outside Kafka, host:port; unset: embedded")
    spark_master: str = Field("local[*]", description="Spark master")
    spark_memory: str = Field("2g", description="memory of the Spark driver, such as 2g")
    lake: str | None = Field(None, description="path or URL of the lake; unset: <home>/lake")
    registry_url: str | None = Field(None, description="a Confluent-compatible schema registry")
    partitions: int = Field(1, ge=1, description="partitions of a new topic")
    replication: int = Field(1, ge=1, description="replicas of a new topic")

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @property
    def contract_folders(self) -> tuple[Path, ...]:
        """The folders of contracts beyond the built-in ones, in the order given."""
        return tuple(Path(part).expanduser().absolute() for part in self.contracts.split(":") if part)

    @property
    def lake_path(self) -> str:
        """Where the tables are, as Spark takes it: a URL as it is, a path in full."""
        lake = self.lake or str(self.home / "lake")
        return lake if "://" in lake else str(Path(lake).expanduser().absolute())


def read_settings() -> Settings:
    """Read the settings from the environment; InputError names the variable that cannot be taken."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name, found, reason = f"SUIBUS_{str(first['loc'][0]).upper()}", first["input"], first["msg"]
        raise InputError(
            f"{name} is {found!r}: {reason}. Set it right or unset it.",
            f"环境变量 {name} 的值 {found!r} 无法采用:{reason}。请改正或取消该变量。",
        ) from None
