"""A node's file: the Kafka to talk to, and as whom. `suibus node add` writes one for a district, `suibus up --secure` one for the city.

It is TOML and PEM at once: TLS libraries take the certificates and the key out of it by themselves.
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
    """What a node's file says."""

    user: str  # Kafka's name for the node
    district: str | None  # None: the file of the city or of an administrator
    authority: str  # the certificate that the node trusts (PEM); empty: the machine's own list
    access: KafkaAccess


def read_node_file(path: Path) -> NodeFile:
    """Read a node's file. InputError, which shows no line of the file, where it is absent, readable by others, or incomplete."""
    try:
        mode = path.stat().st_mode
        found = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not TOML"
        raise InputError(
            f"The node file {path} cannot be read: {reason}. SUIBUS_NODE names the file that `suibus node add` made.",
            f"节点文件 {path} 无法读取：{reason}。SUIBUS_NODE 应为 suibus node add 生成的文件。",
        ) from None
    if mode & 0o077 and sys.platform != "win32":  # Windows keeps rights elsewhere, and shows every file as open to all
        raise InputError(
            f"The node file {path} holds a secret, and others can read it (mode {mode & 0o777:04o}). "
            f"Run: chmod 600 {path}. If a stranger may have seen it, ask the city for `suibus node rotate`.",
            f"节点文件 {path} 含有密钥，但其他用户可以读取（权限 {mode & 0o777:04o}）。请执行：chmod 600 {path}。"
            "若可能已被他人看到，请市级执行 suibus node rotate。",
        )
    given = {name: str(value).strip() for name, value in found.items()}
    absent = [name for name in ("servers", "user") if name not in given]
    if absent or ("password" in given) == ("key" in given) or ("key" in given and "certificate" not in given):
        raise InputError(
            f"The node file {path} is incomplete: it needs servers, user, and either a password, or a certificate with "
            "its key. Put back the file that `suibus node add` made.",
            f"节点文件 {path} 不完整：需要 servers、user，以及 password，或 certificate 与 key。"
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
    """The text of a node's file, its secrets in plain: give either the password, or the certificate (PEM) and its key."""
    title = f"district {district}" if district else user
    names = {"servers": servers, "user": user, "district": district}
    texts = {
        "password": password and password.get_secret_value(),
        "key": key and key.get_secret_value(),
        "certificate": certificate,
        "authority": authority,
    }
    lines = [
        f"# Suibus, {title}: keep it secret (mode 0600) and name it in SUIBUS_NODE. 请妥善保密，并由 SUIBUS_NODE 指明。",
        *(f'{name} = "{value}"' for name, value in names.items() if value),
        *(f"{name} = '''\n{value.strip()}\n'''" for name, value in texts.items() if value),
    ]
    return "\n".join(lines) + "\n"
