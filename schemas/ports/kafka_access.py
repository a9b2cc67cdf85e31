"""Address and credentials of a Kafka cluster, and the settings that each client needs: kafka-python, librdkafka, Spark."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr


class _MaskedText(str):
    """A plain `str`, as clients require it, whose repr is masked in logs and error messages."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


@dataclass(frozen=True)
class KafkaAccess:
    """The servers of a Kafka cluster and how to log in: with a password over TLS, with a client certificate, or not at all."""

    servers: str  # host:port,…
    user: str | None = None
    password: SecretStr | None = None
    authority: Path | None = None  # PEM files; without an authority, that of the operating system
    certificate: Path | None = None
    key: Path | None = None

    @classmethod
    def to(cls, kafka: KafkaAccess | str) -> KafkaAccess:
        """The access itself, or access without credentials to servers given as text."""
        return kafka if isinstance(kafka, KafkaAccess) else cls(kafka)

    @property
    def secure(self) -> bool:
        """Whether credentials are used."""
        return self.password is not None or self.certificate is not None

    def kafka_python(self) -> dict[str, Any]:
        """The settings of a kafka-python client, its servers included."""
        settings: dict[str, Any] = {"bootstrap_servers": self.servers.split(",")}
        if self.password is not None:
            settings |= {
                "security_protocol": "SASL_SSL",
                "sasl_mechanism": "SCRAM-SHA-512",
                "sasl_plain_username": self.user,
                "sasl_plain_password": _MaskedText(self.password.get_secret_value()),
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

    def kafka_python_reader(self) -> dict[str, Any]:
        """The settings of a kafka-python consumer that reads committed records, from the start, without a group."""
        return {
            **self.kafka_python(),
            "group_id": None,
            "isolation_level": "read_committed",
            "auto_offset_reset": "earliest",
            "enable_auto_commit": False,
            "allow_auto_create_topics": False,
            "metrics_enabled": False,
        }

    def librdkafka(self) -> dict[str, Any]:
        """The settings of a librdkafka client, its servers included."""
        settings: dict[str, Any] = {"bootstrap.servers": self.servers}
        if self.password is not None:
            settings |= {
                "security.protocol": "SASL_SSL",
                "sasl.mechanism": "SCRAM-SHA-512",
                "sasl.username": self.user,
                "sasl.password": _MaskedText(self.password.get_secret_value()),
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
        """The options of Spark's Kafka source, its servers included. Certificate and key are read from one PEM file."""
        options = {"bootstrap.servers": self.servers}
        if self.password is not None:
            login = "org.apache.kafka.common.security.scram.ScramLoginModule required"
            user, password = (  # escaped as JAAS requires
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
