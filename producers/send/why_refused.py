"""Why a broker lets nobody in: kafka-python tries again in silence until its time is over, and drops the cause."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from kafka.errors import KafkaError, SaslAuthenticationFailedError
from kafka.net.compat import KafkaNetClient
from kafka.net.transport import KafkaSSLTransport

WAIT_MS = 3_000


def why_refused(client: Mapping[str, Any]) -> tuple[str, str] | None:
    """What a person must mend before this client (kafka-python's settings, servers too) gets in; None if it is not that.

    Makes one connection of its own to each server in turn, and nothing else.
    """
    said = "; ".join(filter(None, map(_one_try, _each(client))))
    # The broker answers and hangs up at once; kafka-python mostly reads the end first and drops the answer.
    hung_up = "socket disconnected" in said and "sasl_mechanism" in client
    if hung_up or SaslAuthenticationFailedError.__name__ in said:
        user = client.get("sasl_plain_username")
        return (
            f"it refuses the password of {user}, which is wrong or was replaced. Put the newest node file in place "
            "(SUIBUS_NODE), or ask the city for `suibus node rotate`",
            f"总线拒绝了 {user} 的密码：密码有误或已被更换。请换上最新的节点文件（SUIBUS_NODE），"
            "或请市级执行 suibus node rotate",
        )
    if "CERTIFICATE_VERIFY_FAILED" in said:
        reason = said.partition("certificate verify failed: ")[2].partition(" (_ssl")[0]
        return (
            f"this node does not trust it: {reason}. Nothing was sent to it. Check `servers` and `authority` in the node "
            "file with the city: another program may have taken the bus's place",
            f"本节点不信任该总线（{reason}），未向其发送任何内容。请与市级核对节点文件中的 servers 与 authority："
            "可能有其他程序冒充总线",
        )
    if "ALERT" in said:  # the broker's answer to our certificate
        reason = _own_certificate(client)
        return (
            f"it refuses this node's certificate: {reason}. Ask the city for a new node file (`suibus node rotate`)",
            f"总线拒绝了本节点的证书（{reason}）。请市级执行 suibus node rotate 签发新的节点文件",
        )
    if not client.get("security_protocol", "PLAINTEXT").endswith("SSL") and any(map(_speaks_tls, _each(client))):
        return (
            "it lets nobody in without credentials. Put the path of the node file that the city gave (`suibus node "
            "add`) into SUIBUS_NODE",
            "总线要求凭据。请将市级提供的节点文件（suibus node add）的路径写入 SUIBUS_NODE",
        )
    return None


def _each(client: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{**client, "bootstrap_servers": server} for server in client["bootstrap_servers"]]


def _one_try(client: Mapping[str, Any]) -> str:
    """The error that the first connection ends with, as kafka-python has it; nothing where it succeeds."""
    net = KafkaNetClient(**client)
    manager = net._manager
    node = manager.cluster.bootstrap_brokers()[0].node_id

    async def connect() -> None:
        await manager.get_connection(node, timeout_ms=WAIT_MS, pop_on_close=False, refresh_metadata_on_err=False)

    try:
        manager.run(connect)
    except (KafkaError, OSError, ValueError) as error:
        return repr(error)
    finally:
        net.close()
    return ""


def _speaks_tls(client: Mapping[str, Any]) -> bool:
    return "CERTIFICATE_VERIFY_FAILED" in _one_try({**client, "security_protocol": "SSL"})


def _own_certificate(client: Mapping[str, Any]) -> str:
    """What is wrong with the client's certificate, found as the broker finds it: a handshake that leaves memory never."""
    if not client.get("ssl_certfile"):
        return "there is none"
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(client["ssl_certfile"], client["ssl_keyfile"])
    server.verify_mode = ssl.CERT_REQUIRED
    if client.get("ssl_cafile"):
        server.load_verify_locations(client["ssl_cafile"])
    node = KafkaSSLTransport._build_ssl_context({**KafkaSSLTransport.DEFAULT_CONFIG, **client})
    node.check_hostname, node.verify_mode = False, ssl.CERT_NONE
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [server.wrap_bio(there, back, server_side=True), node.wrap_bio(back, there)]
    try:
        for _ in range(4):
            for end in reversed(ends):
                with suppress(ssl.SSLWantReadError):
                    end.do_handshake()
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    return "it knows it not"
