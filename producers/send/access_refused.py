"""Why a bus does not let this node in: kafka-python tries again in silence until its time is over, and drops the cause."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from producers.send.kafka_internals import first_connection_error, tls_context
from schemas.ports.kafka_access import KafkaAccess

WAIT_MS = 3_000  # for each server


def why_refused(access: KafkaAccess) -> tuple[str, str] | None:
    """What a person must do before the bus lets this access in, English and Chinese; None if that is not what is wrong.

    Makes one connection of its own to each server in turn, and nothing else.
    """
    said = "; ".join(filter(None, (first_connection_error(settings, WAIT_MS) for settings in _each(access))))
    # The broker answers and hangs up at once; kafka-python mostly reads the end first and drops the answer.
    hung_up = "socket disconnected" in said and access.password is not None
    if hung_up or "SaslAuthenticationFailedError" in said:
        return (
            f"it refuses the password of {access.user}, which is wrong or was replaced. Put the newest node file in place "
            "(SUIBUS_NODE), or ask the city for `suibus node rotate`",
            f"总线拒绝了 {access.user} 的密码：密码有误或已被更换。请换上最新的节点文件（SUIBUS_NODE），"
            "或请市级执行 suibus node rotate",
        )
    if "CERTIFICATE_VERIFY_FAILED" in said:
        reason = said.partition("certificate verify failed: ")[2].partition(" (_ssl")[0]
        return (
            f"this node does not trust it: {reason}. Nothing was sent to it. Check `servers` and `authority` in the node "
            "file with the city: another program may answer in place of the bus",
            f"本节点不信任该总线（{reason}），未向其发送任何内容。请与市级核对节点文件中的 servers 与 authority："
            "可能有其他程序冒充总线",
        )
    if "ALERT" in said:  # the broker's answer to our certificate
        en, zh = _own_certificate(access.kafka_python())
        return (
            f"it refuses this node's certificate: {en}. Ask the city for a new node file (`suibus node rotate`)",
            f"总线拒绝了本节点的证书（{zh}）。请市级执行 suibus node rotate 签发新的节点文件",
        )
    if not access.secure and any(map(_speaks_tls, _each(access))):
        return (
            "it lets nobody in without credentials. Put the path of the node file that the city gave (`suibus node "
            "add`) into SUIBUS_NODE",
            "总线要求凭据。请将市级提供的节点文件（suibus node add）的路径写入 SUIBUS_NODE",
        )
    return None


def _each(access: KafkaAccess) -> Iterator[dict[str, Any]]:
    """kafka-python's settings for each of the servers alone."""
    settings = access.kafka_python()
    for server in settings["bootstrap_servers"]:
        yield {**settings, "bootstrap_servers": server}


def _speaks_tls(settings: Mapping[str, Any]) -> bool:
    return "CERTIFICATE_VERIFY_FAILED" in first_connection_error({**settings, "security_protocol": "SSL"}, WAIT_MS)


def _own_certificate(settings: Mapping[str, Any]) -> tuple[str, str]:
    """What is wrong with the node's certificate, found as the broker finds it: by a handshake with ourselves, in memory."""
    if not settings.get("ssl_certfile"):
        return "there is none", "没有证书"
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(settings["ssl_certfile"], settings["ssl_keyfile"])
    server.verify_mode = ssl.CERT_REQUIRED
    if settings.get("ssl_cafile"):
        server.load_verify_locations(settings["ssl_cafile"])
    node = tls_context(settings)
    node.check_hostname, node.verify_mode = False, ssl.CERT_NONE
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [server.wrap_bio(there, back, server_side=True), node.wrap_bio(back, there)]
    try:
        for _ in range(4):
            for end in reversed(ends):
                with suppress(ssl.SSLWantReadError):
                    end.do_handshake()
    except ssl.SSLCertVerificationError as error:
        return error.verify_message, error.verify_message
    return "the bus does not know it", "总线不认识该证书"
