"""Where this node keeps its state and whom it talks to: read once from SUIBUS_… variables, then passed in."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.errors import InputError
from schemas.ports.kafka_access import KafkaAccess


class Settings(BaseSettings):
    """Every setting of a node, frozen. An empty variable counts as one that is not set."""

    model_config = SettingsConfigDict(env_prefix="SUIBUS_", frozen=True, env_ignore_empty=True, validate_default=True)

    home: Path = Field(Path(".suibus"), description="folder that holds all state")
    contracts: str = Field("", description="folders of contracts beyond the built-in ones, joined with ':'")
    bootstrap_servers: str | None = Field(None, description="outside Kafka, host:port; unset: embedded")
    node: Path | None = Field(None, description="file that `suibus node add` made: the bus to talk to and who we are")
    advertised_host: str | None = Field(None, description="name or address at which nodes reach a secure bus")
    spark_master: str = Field("local[*]", description="Spark master")
    spark_memory: str = Field("2g", description="memory of the Spark driver, such as 2g")
    lake: str | None = Field(None, description="path or URL of the lake; unset: <home>/lake")
    registry_url: str | None = Field(None, description="a Confluent-compatible schema registry")
    partitions: int = Field(1, ge=1, description="partitions of a new topic")
    replication: int = Field(1, ge=1, description="replicas of a new topic")
    transport: Literal["kafka-python", "librdkafka"] = Field(
        "kafka-python", description="what sends a node's rows; librdkafka, the faster one, needs the extra `fast`"
    )
    metrics_port: int | None = Field(None, ge=1, le=65535, description="where `up` serves metrics; unset: nowhere")
    log_format: Literal["text", "json"] = Field("text", description="the log, for people or one JSON object a line")

    @field_validator("home", "node")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return path.expanduser().absolute() if path else None

    @field_validator("advertised_host")
    @classmethod
    def _host(cls, host: str | None) -> str | None:
        if host and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", host):
            raise ValueError("it is no host name or IPv4 address")
        return host

    @property
    def contract_folders(self) -> tuple[Path, ...]:
        """The folders of contracts beyond the built-in ones, in the order given."""
        return tuple(Path(part).expanduser().absolute() for part in self.contracts.split(":") if part)

    @property
    def servers(self) -> str | None:
        """An outside Kafka: the variable's, else the node file's; None for the embedded one."""
        return self.bootstrap_servers or (read_node_file(self.node).servers if self.node else None)

    @property
    def security(self) -> Mapping[str, Any]:
        """kafka-python's security settings by the node file; none without."""
        return read_node_file(self.node).client if self.node else {}

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


class _Secret(str):
    """A text that logs and error messages show as stars."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


@dataclass(frozen=True)
class NodeFile:
    """Whom to talk to, and as whom: what `suibus node add` wrote for a district, or `suibus up --secure` for the city."""

    servers: str
    user: str  # Kafka's name for it
    district: str | None  # None: no district's, but the city's or an administrator's
    authority: str  # PEM, empty where the machine's own list is meant
    client: Mapping[str, Any] = field(repr=False)  # kafka-python's security settings


def read_node_file(path: Path) -> NodeFile:
    """Read a node's configuration file; InputError where it is absent, not private, or not whole.

    It is TOML, and at the same time PEM: TLS libraries pick the certificates and the key out of it by themselves.
    """
    try:
        mode = path.stat().st_mode
        found = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not TOML"  # never a line of it
        raise InputError(
            f"The node file {path} cannot be read: {reason}. SUIBUS_NODE names the file that `suibus node add` made.",
            f"节点文件 {path} 无法读取：{reason}。SUIBUS_NODE 应为 suibus node add 生成的文件。",
        ) from None
    if mode & 0o077:
        raise InputError(
            f"The node file {path} holds a secret, and others can read it (mode {mode & 0o777:04o}). "
            f"Run: chmod 600 {path}. If a stranger may have seen it, ask the city for `suibus node rotate`.",
            f"节点文件 {path} 含有密钥，但其他用户可以读取（权限 {mode & 0o777:04o}）。请执行：chmod 600 {path}。"
            "若可能已被他人看到，请市级执行 suibus node rotate。",
        )
    here = {name: str(value).strip() for name, value in found.items()}
    missing = [name for name in ("servers", "user") if name not in here]
    if missing or ("password" in here) == ("key" in here) or ("key" in here and "certificate" not in here):
        raise InputError(
            f"The node file {path} is not whole: it needs servers, user, and either a password or a certificate with "
            "its key. Put back the file that `suibus node add` made.",
            f"节点文件 {path} 不完整：需要 servers、user，以及 password 或 certificate 与 key。"
            "请恢复 suibus node add 生成的文件。",
        )
    client: dict[str, Any] = {"ssl_cafile": str(path)} if "authority" in here else {}
    if "password" in here:
        client |= {
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_plain_username": here["user"],
            "sasl_plain_password": _Secret(here["password"]),
        }
    else:
        client |= {"security_protocol": "SSL", "ssl_certfile": str(path), "ssl_keyfile": str(path)}
    return NodeFile(here["servers"], here["user"], here.get("district"), here.get("authority", ""), client)


def node_text(servers: str, user: str, authority: str, district: str | None = None, **secret: str) -> str:
    """The text of a node file; `secret` is a password, or a key and its certificate (PEM, the certificate's first)."""
    title = f"district {district}" if district else user
    lines = [
        f"# Suibus, {title}: keep it secret (mode 0600) and name it in SUIBUS_NODE. 请妥善保密，并由 SUIBUS_NODE 指明。",
        *(
            f'{name} = "{value}"'
            for name, value in (("servers", servers), ("user", user), ("district", district))
            if value
        ),
        *(f"{name} = '''\n{value.strip()}\n'''" for name, value in secret.items()),
        *([f"authority = '''\n{authority.strip()}\n'''"] if authority else []),
    ]
    return "\n".join(lines) + "\n"


def spark_options(client: Mapping[str, Any]) -> dict[str, str]:
    """kafka-python's security settings as Spark's `kafka.*` options: certificates and keys by their file alone."""
    if not client:
        return {}
    options = {"security.protocol": client["security_protocol"]}
    for setting, store in (("ssl_cafile", "truststore"), ("ssl_certfile", "keystore")):
        if setting in client:
            options |= {f"ssl.{store}.type": "PEM", f"ssl.{store}.location": client[setting]}
    if "sasl_mechanism" in client:
        login = "org.apache.kafka.common.security.scram.ScramLoginModule required"
        names = ("sasl_plain_username", "sasl_plain_password")
        user, password = (re.sub(r'(["\\])', r"\\\1", client[name]) for name in names)  # JAAS's own escape
        options["sasl.mechanism"] = client["sasl_mechanism"]
        options["sasl.jaas.config"] = f'{login} username="{user}" password="{password}";'
    return {f"kafka.{name}": value for name, value in options.items()}


def access_by(servers: str, client: Mapping[str, Any]) -> KafkaAccess:
    """The access that kafka-python's security settings describe."""
    password = client.get("sasl_plain_password")
    names = ("ssl_cafile", "ssl_certfile", "ssl_keyfile")
    files = (Path(client[name]) if name in client else None for name in names)
    return KafkaAccess(servers, client.get("sasl_plain_username"), password and SecretStr(password), *files)


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all; one that is there is replaced."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
