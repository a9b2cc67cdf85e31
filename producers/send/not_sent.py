"""What an operator is told when the rows of an outbox could not be sent: why, that they are kept, and what to do."""

from __future__ import annotations

from producers.outbox import Outbox
from producers.send.transport import ForbiddenError, MissingTopicError, Transport
from schemas.errors import UnavailableError


def no_progress(holder: int, waiting: int, outbox: Outbox) -> UnavailableError:
    """The error that another process, `holder`, has the outbox's lease and sends none of its rows."""
    command = _command(outbox)
    return UnavailableError(
        f"Process {holder} is sending {outbox.path} but makes no progress. "
        f"{waiting} rows wait; they are kept. End that process, or run `{command}` later.",
        f"进程 {holder} 正在发送 {outbox.path}，但没有进展。"
        f"有 {waiting} 行等待发送，均已保留。请结束该进程，或稍后执行 `{command}`。",
    )


def unavailable(
    error: Exception, transport: Transport | None, outbox: Outbox, servers: str, timeout: float
) -> UnavailableError:
    """The error that the broker took nothing for `timeout` seconds, or refuses to.

    `error` is the last one of the connection, and `transport` that connection, which may ask the broker for the cause.
    """
    waiting, command = outbox.waiting(), _command(outbox)
    why = " ".join(str(error).split())[:200] or type(error).__name__
    topic = next(iter(outbox.next_rows(1, 1))).topic if waiting else ""
    kept = f"What was accepted is kept ({waiting} rows wait)"
    kept_zh = f"发件箱中有 {waiting} 行等待发送，均已保留"
    if isinstance(error, ForbiddenError):
        return UnavailableError(
            f"The broker at {servers} does not let this node write {topic} ({why}). "
            f"{kept}. Ask the city for the right, then run `{command}`.",
            f"{servers} 的消息代理不允许本节点写入 {topic}（{why}）。{kept_zh}。请向市级申请权限，"
            f"然后执行 `{command}`。",
        )
    if refused := transport and transport.why_refused():
        return UnavailableError(
            f"The broker at {servers}: {refused[0]}. {kept}; run `{command}` afterwards.",
            f"{servers} 的消息代理：{refused[1]}。{kept_zh}；之后请执行 `{command}`。",
        )
    if isinstance(error, MissingTopicError):
        return UnavailableError(
            f"Topic {topic} is not on the broker at {servers} after {timeout:g} s. "
            f"{kept}. Check that the city's bus knows this contract, then run `{command}`.",
            f"等待 {timeout:g} 秒后，{servers} 上仍没有主题 {topic}。{kept_zh}。"
            f"请确认市级总线已载入该契约，然后执行 `{command}`。",
        )
    return UnavailableError(
        f"The broker at {servers} did not take anything for {timeout:g} s ({why}). "
        f"{kept}. Check the network and that the bus is up, then run `{command}`.",
        f"{servers} 的消息代理在 {timeout:g} 秒内没有接收任何数据（{why}）。{kept_zh}。"
        f"请检查网络和总线是否运行，然后执行 `{command}`。",
    )


def _command(outbox: Outbox) -> str:
    """The command that sends the rows that wait."""
    return f"suibus flush --district {outbox.district}"
