"""A node's file: which Kafka to connect to, and as whom. `suibus node add` writes one for a district, `suibus up --secure` one for the city.

The file is valid TOML and PEM, so TLS libraries can read the certificates and the key from it directly.
"""

from __future__ import annotations

import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from schemas.errors import InputError
from schemas.ports.kafka_access import KafkaAccess


@dataclass(frozen=True)
class NodeFile:
    """The content of a node's file."""

    user: str  # Kafka's name for the node
    district: str | None  # None: the file of the city or of an administrator
    authority: str  # the certificate that the node trusts (PEM); empty: the machine's own list
    access: KafkaAccess


def read_node_file(path: Path) -> NodeFile:
    """Read a node's file. InputError if it is absent, readable by others or incomplete; the message shows no line of the file."""
    try:
        mode = path.stat().st_mode
        found = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not TOML"
        raise InputError(
            f"The node file {path} cannot be read: {reason}. Set SUIBUS_NODE to the file that `suibus node add` made.",
            f"节点文件 {path} 无法读取：{reason}。请将 SUIBUS_NODE 设为 suibus node add 生成的文件。",
        ) from None
    if mode & 0o077 and sys.platform != "win32":  # Windows has no such mode: every file would seem open to all
        raise InputError(
            f"The node file {path} holds a secret, and others can read it (mode {mode & 0o777:04o}). "
            f"Run: chmod 600 {path}. If others may have seen the secret, ask the city to run `suibus node rotate`.",
            f"节点文件 {path} 含有密钥，但其他用户可以读取（权限 {mode & 0o777:04o}）。请执行：chmod 600 {path}。"
            "若密钥可能已被他人看到，请市级执行 suibus node rotate。",
        )
    given = {name: str(value).strip() for name, value in found.items()}
    absent = [name for name in ("servers", "user") if name not in given]
    if absent or ("password" in given) == ("key" in given) or ("key" in given and "certificate" not in given):
        raise InputError(
            f"The node file {path} is incomplete: it needs servers, user, and either password, or certificate and "
            "key. Restore the file that `suibus node add` made.",
            f"节点文件 {path} 不完整：需要 servers、user，以及 password（或 certificate 与 key）。"
            "请恢复 suibus node add 生成的文件。",
        )
    by_certificate = path if "key" in given else None
    access = KafkaAccess(
        given["servers"],
        given["user"],
        SecretStr(given["password"]) if "password" in given else None,
        path if "authority" in given else None,
        by_certificate,
        by_certificate,
    )
    return NodeFile(given["user"], given.get("district"), given.get("authority", ""), access)


def node_text(
    servers: str,
    user: str,
    authority: str,
    district: str | None = None,
    *,
    password: SecretStr | None = None,
    certificate: str | None = None,
    key: SecretStr | None = None,
) -> str:
    """The text of a node's file, secrets included. Give either the password, or the certificate (PEM) and its key."""
    title = f"district {district}" if district else user
    names = {"servers": servers, "user": user, "district": district}
    texts = {
        "password": password and password.get_secret_value(),
        "key": key and key.get_secret_value(),
        "certificate": certificate,
        "authority": authority,
    }
    lines = [
        f"# Suibus, {title}: keep this file secret (mode 0600) and put its path into SUIBUS_NODE. 请妥善保密（权限 0600），并将路径写入 SUIBUS_NODE。",
        *(f'{name} = "{value}"' for name, value in names.items() if value),
        *(f"{name} = '''\n{value.strip()}\n'''" for name, value in texts.items() if value),
    ]
    return "\n".join(lines) + "\n"
