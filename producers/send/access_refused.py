"""Why the bus refuses a connection: kafka-python retries until its timeout without a message, and drops the cause."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from producers.send.kafka_internals import first_connection_error, tls_context
from schemas.ports.kafka_access import KafkaAccess

WAIT_MS = 3_000  # for the connection to one server


def why_refused(access: KafkaAccess) -> tuple[str, str] | None:
    """Why the bus refuses this access and what to do about it, English and Chinese; None if the access is not the problem.

    Opens one connection to each server in turn, and sends no records.
    """
    settings_of_each = [*_settings_of_each_server(access)]
    errors = "; ".join(filter(None, (first_connection_error(settings, WAIT_MS) for settings in settings_of_each)))
    # The broker answers and closes the connection at once; kafka-python mostly sees the close first and drops the answer.
    closed_at_login = "socket disconnected" in errors and access.password is not None
    if closed_at_login or "SaslAuthenticationFailedError" in errors:
        return (
            f"it refuses the password of {access.user}, which is wrong or was replaced. Install the newest node file "
            "(SUIBUS_NODE), or ask the city for `suibus node rotate`",
            f"总线拒绝了 {access.user} 的密码：密码有误，或已被更换。请改用最新的节点文件（SUIBUS_NODE），"
            "或请市级执行 suibus node rotate",
        )
    if "CERTIFICATE_VERIFY_FAILED" in errors:
        reason = errors.partition("certificate verify failed: ")[2].partition(" (_ssl")[0]
        return (
            f"this node does not trust it: {reason}. Nothing was sent to it. Check `servers` and `authority` in the node "
            "file with the city: another program may be posing as the bus",
            f"本节点不信任该总线（{reason}），未向其发送任何内容。请与市级核对节点文件中的 servers 与 authority："
            "可能有其他程序冒充总线",
        )
    if "ALERT" in errors:  # the broker rejects the certificate of this node
        en, zh = _own_certificate(access.kafka_python())
        return (
            f"it refuses this node's certificate: {en}. Ask the city for a new node file (`suibus node rotate`)",
            f"总线拒绝了本节点的证书（{zh}）。请联系市级执行 suibus node rotate，签发新的节点文件",
        )
    if not access.secure and any(map(_speaks_tls, settings_of_each)):
        return (
            "it lets nobody in without credentials. Put the path of the node file that the city gave (`suibus node "
            "add`) into SUIBUS_NODE",
            "总线要求凭据。请将市级提供的节点文件（suibus node add）的路径写入 SUIBUS_NODE",
        )
    return None


def _settings_of_each_server(access: KafkaAccess) -> Iterator[dict[str, Any]]:
    """kafka-python's settings, once for each server with that server alone."""
    settings = access.kafka_python()
    for server in settings["bootstrap_servers"]:
        yield {**settings, "bootstrap_servers": server}


def _speaks_tls(settings: Mapping[str, Any]) -> bool:
    return "CERTIFICATE_VERIFY_FAILED" in first_connection_error({**settings, "security_protocol": "SSL"}, WAIT_MS)


def _own_certificate(settings: Mapping[str, Any]) -> tuple[str, str]:
    """What is wrong with the node's certificate, English and Chinese, found by a TLS handshake in memory with a server of our own.

    It verifies the certificate as the broker does, whose TLS alert says less.
    """
    if not settings.get("ssl_certfile"):
        return "there is none", "没有证书"
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(settings["ssl_certfile"], settings["ssl_keyfile"])
    server.verify_mode = ssl.CERT_REQUIRED
    if settings.get("ssl_cafile"):
        server.load_verify_locations(settings["ssl_cafile"])
    node = tls_context(settings)
    node.check_hostname, node.verify_mode = False, ssl.CERT_NONE
    to_server, to_node = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [server.wrap_bio(to_server, to_node, server_side=True), node.wrap_bio(to_node, to_server)]
    try:
        for _ in range(4):
            for end in reversed(ends):
                with suppress(ssl.SSLWantReadError):
                    end.do_handshake()
    except ssl.SSLCertVerificationError as error:
        return error.verify_message, error.verify_message
    return "the bus does not recognize it", "总线未能识别该证书"
