"""The settings of a node or of the city: read once from the environment, then passed on. No other module reads the environment."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from infra.node_file import read_node_file
from pipelines.lake.storage import as_address
from schemas.errors import InputError
from schemas.ports.kafka_access import KafkaAccess


class Settings(BaseSettings):
    """Every setting, frozen. An empty variable counts as one that is not set."""

    model_config = SettingsConfigDict(env_prefix="SUIBUS_", frozen=True, env_ignore_empty=True, validate_default=True)

    home: Path = Field(Path(".suibus"), description="folder that holds all state")
    contracts: str = Field(
        "", description="folders of contracts beyond the built-in ones, joined with ':' (on Windows ';')"
    )
    bootstrap_servers: str | None = Field(None, description="outside Kafka, host:port; unset: embedded")
    node: Path | None = Field(
        None, description="file that `suibus node add` made: which bus to connect to, and as whom"
    )
    advertised_host: str | None = Field(None, description="name or address at which nodes reach a secure bus")
    database: SecretStr | None = Field(None, description="the database of `suibus publish --query`, an SQLAlchemy URL")
    spark_master: str = Field("local[*]", description="Spark master")
    spark_memory: str = Field("2g", description="memory of the Spark driver, such as 2g")
    lake: str | None = Field(None, description="path or URL of the lake; unset: <home>/lake")
    registry_url: SecretStr | None = Field(None, description="a Confluent-compatible schema registry")
    partitions: int = Field(1, ge=1, description="partitions of a new topic")
    replication: int = Field(1, ge=1, description="replicas of a new topic")
    transport: Literal["kafka-python", "librdkafka"] = Field(
        "kafka-python", description="what sends a node's rows; librdkafka, the faster one, needs the extra `fast`"
    )
    metrics_port: int | None = Field(None, ge=1, le=65535, description="where `up` serves metrics; unset: nowhere")
    log_format: Literal["text", "json"] = Field("text", description="log for people, or one JSON object per line")
    jars: Path = Field(
        Path(sys.prefix, "share", "suibus", "ivy"), description="folder of the jars of Spark and of the broker"
    )
    ivy_settings: Path | None = Field(None, description="an ivysettings.xml, to take the jars from a mirror")
    java_home: Path | None = Field(
        None, validation_alias="java_home", description="JAVA_HOME, as for every program that starts Java"
    )

    @field_validator("home", "node", "jars", "ivy_settings")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return path.expanduser().absolute() if path else None

    @field_validator("advertised_host")
    @classmethod
    def _host(cls, host: str | None) -> str | None:
        if host and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", host):
            raise ValueError("not a host name or IPv4 address")
        return host

    def of_own_home(self, home: Path) -> Settings:
        """The settings of another bus, whose whole state is in `home`: only where this machine keeps its jars and Java is the same."""
        machine = {name: getattr(self, name) for name in ("jars", "ivy_settings", "java_home")}
        others = {name: field.default for name, field in Settings.model_fields.items() if name not in machine}
        return Settings(**{**others, **machine, "home": home})  # an argument goes before the environment

    @property
    def contract_folders(self) -> tuple[Path, ...]:
        """The folders of contracts beyond the built-in ones, in the order given."""
        return tuple(Path(part).expanduser().absolute() for part in self.contracts.split(os.pathsep) if part)

    @property
    def access(self) -> KafkaAccess | None:
        """How to reach the outside Kafka: by the node file, or at SUIBUS_BOOTSTRAP_SERVERS if set. None: use the embedded broker."""
        if self.node is None:
            return KafkaAccess(self.bootstrap_servers) if self.bootstrap_servers else None
        access = read_node_file(self.node).access
        return replace(access, servers=self.bootstrap_servers) if self.bootstrap_servers else access

    @property
    def lake_path(self) -> str:
        """The folder of the tables as Spark needs it: a URL unchanged, a path made absolute."""
        return as_address(self.lake or str(self.home / "lake"))


def read_settings() -> Settings:
    """Read the settings from the environment. InputError names the first variable whose value is invalid."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name, found, reason = f"SUIBUS_{str(first['loc'][0]).upper()}", first["input"], first["msg"]
        raise InputError(
            f"The environment variable {name} is {found!r}: {reason}. Correct or unset it.",
            f"环境变量 {name} 的值为 {found!r}，无效：{reason}。请更正或取消该变量。",
        ) from None


def chinese_first() -> bool:
    """Whether the language of the terminal is Chinese, by the first of LC_ALL, LC_MESSAGES and LANG that is set."""
    named = (os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
    return next(filter(None, named), "").lower().startswith("zh")
