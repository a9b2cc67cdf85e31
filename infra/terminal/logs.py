"""Logs: lines for people, or one JSON object per line (SUIBUS_LOG_FORMAT=json) for a log collector.

Each line has the time (UTC), the level, the module and the event, and, where known, the dataset, district and batch.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

from schemas.log_context import log_about

OURS = ("suibus", "infra", "pipelines", "producers", "quality", "schemas")
log = logging.getLogger("suibus")


def set_up_logging(style: Literal["text", "json"]) -> None:
    """Send this process's log to standard error: as text only warnings, as JSON every message of Suibus's own modules."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if style == "json" else TextLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # our own error reports a lost connection, once
    for name in ("SQLQueryContextLogger", "DataFrameQueryContextLogger"):  # PySpark logs errors that it also raises
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for name in OURS:
        logging.getLogger(name).setLevel(logging.INFO if style == "json" else logging.NOTSET)
    logging.captureWarnings(style == "json")
    sys.excepthook = _crashed if style == "json" else sys.__excepthook__


def logged(en: str, zh: str, level: int = logging.INFO) -> bool:
    """If the log is JSON, write a message for people to it and return True; else do nothing and return False."""
    if not any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger().handlers):
        return False
    log.log(level, "%s", en, extra={"about": {"event_zh": zh}})
    return True


class JsonLines(logging.Formatter):
    """One JSON object a line. The keys of `extra={"about": {…}}` are added to those of the log context."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": _moment(record, "milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
            **_about(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextLines(logging.Formatter):
    """Lines for people, with the dataset, district and batch at the end."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 logging's own name
        """The line, without a traceback."""
        about = " ".join(f"{name}={value}" for name, value in _about(record).items())
        line = f"{_moment(record, 'seconds')} {record.levelname} {record.name} {record.getMessage()}"
        return f"{line} [{about}]" if about else line


def _about(record: logging.LogRecord) -> dict[str, Any]:
    return {**log_about(), **getattr(record, "about", {})}


def _moment(record: logging.LogRecord, precision: str) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec=precision)


def _crashed(*error: Any) -> None:
    log.critical("the process ends with an unexpected error", exc_info=error)
