"""How to reach a Kafka and get in: told once, and spelled here for each client (kafka-python, librdkafka, Spark's source)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr


class _Stars(str):
    """A plain text, as a client wants it, that logs and error messages show as stars."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


@dataclass(frozen=True)
class KafkaAccess:
    """A Kafka's servers, and as whom to talk to it: with a password over TLS, with a certificate and its key, or as anybody."""

    servers: str  # host:port,…
    user: str | None = None
    password: SecretStr | None = None
    authority: Path | None = None  # PEM files; no authority: the machine's own list
    certificate: Path | None = None
    key: Path | None = None

    @classmethod
    def to(cls, kafka: KafkaAccess | str) -> KafkaAccess:
        """The access itself, or the one to servers that let everybody in."""
        return kafka if isinstance(kafka, KafkaAccess) else cls(kafka)

    @property
    def secure(self) -> bool:
        """Whether it takes credentials to get in."""
        return self.password is not None or self.certificate is not None

    def kafka_python(self) -> dict[str, Any]:
        """The settings of a kafka-python client, its servers included."""
        settings: dict[str, Any] = {"bootstrap_servers": self.servers.split(",")}
        if self.password is not None:
            settings |= {
                "security_protocol": "SASL_SSL",
                "sasl_mechanism": "SCRAM-SHA-512",
                "sasl_plain_username": self.user,
                "sasl_plain_password": _Stars(self.password.get_secret_value()),
            }
        elif self.certificate is not None:
            settings |= {
                "security_protocol": "SSL",
                "ssl_certfile": str(self.certificate),
                "ssl_keyfile": str(self.key),
            }
        if self.secure and self.authority is not None:
            settings["ssl_cafile"] = str(self.authority)
        return settings

    def librdkafka(self) -> dict[str, Any]:
        """The settings of a librdkafka client, its servers included."""
        settings: dict[str, Any] = {"bootstrap.servers": self.servers}
        if self.password is not None:
            settings |= {
                "security.protocol": "SASL_SSL",
                "sasl.mechanism": "SCRAM-SHA-512",
                "sasl.username": self.user,
                "sasl.password": _Stars(self.password.get_secret_value()),
            }
        elif self.certificate is not None:
            settings |= {
                "security.protocol": "SSL",
                "ssl.certificate.location": str(self.certificate),
                "ssl.key.location": str(self.key),
            }
        if self.secure and self.authority is not None:
            settings["ssl.ca.location"] = str(self.authority)
        return settings

    def spark(self) -> dict[str, str]:
        """The options of Spark's Kafka source, its servers included: certificates and keys by their file alone."""
        options = {"bootstrap.servers": self.servers}
        if self.password is not None:
            login = "org.apache.kafka.common.security.scram.ScramLoginModule required"
            user, password = (  # JAAS's own escape
                re.sub(r'(["\\])', r"\\\1", text) for text in (self.user or "", self.password.get_secret_value())
            )
            options |= {
                "security.protocol": "SASL_SSL",
                "sasl.mechanism": "SCRAM-SHA-512",
                "sasl.jaas.config": f'{login} username="{user}" password="{password}";',
            }
        elif self.certificate is not None:
            options["security.protocol"] = "SSL"
        stores = (("truststore", self.authority), ("keystore", None if self.password is not None else self.certificate))
        for store, path in stores:
            if self.secure and path is not None:
                options |= {f"ssl.{store}.type": "PEM", f"ssl.{store}.location": str(path)}
        return {f"kafka.{name}": value for name, value in options.items()}
