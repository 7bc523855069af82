"""Logging of the process: one event a line, control characters escaped, secrets of known shapes blotted out."""

import asyncio
import logging
import re
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

import orjson

from config.schema import Logging

LOGGER = logging.getLogger("sluice.server")
OURS = ("sluice", "gateway", "adapters", "config")
"""What the names of the gateway's own loggers begin with."""
_SECRET = re.compile(
    r"\b(?:(?i:sk|pk|rk|gsk|csk|ghp|nvapi)[-_][A-Za-z0-9_\-./+=]{12,}"
    r"|(?:xai|hf|r8|pplx|key-)[-_]?[A-Za-z0-9_\-]{0,32}?[A-Za-z0-9]{20,}[A-Za-z0-9_\-./+=]*"
    r"|AIza[A-Za-z0-9_\-]{20,}|ya29\.[A-Za-z0-9_\-.]{12,}|(?:AKIA|ASIA)[A-Z0-9]{12,}"
    r"|eyJ[A-Za-z0-9_\-]{12,}\.[A-Za-z0-9_\-.]{12,})"
    r"|(?i:bearer)\s+[^\s\"\\]+|(?<=://)[^/\s:@\"\\]+:[^/\s@\"\\]+(?=@)"
)
"""What credentials look like. Names of models, regions and keys begin like some (`xai/grok-4-fast-reasoning`, `asia-east1`,
`key_` and 24 digits, the id of a virtual key): of those prefixes only what goes on as no name does is one. None reaches over
the end of a text in JSON: clients say some of these texts."""


def redact(text: str) -> str:
    """Blot out what looks like a credential: the last net under code that never logs one."""
    return _SECRET.sub("[redacted]", text)


class JSONFormatter(logging.Formatter):
    """One JSON object a line. A message that is an object already keeps its fields."""

    def format(self, record: logging.LogRecord) -> str:
        message = redact(record.getMessage())
        event: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if message.startswith("{"):
            try:
                return orjson.dumps({**event, **orjson.loads(message)}).decode()
            except (orjson.JSONDecodeError, TypeError):
                pass
        event["event"] = message
        if record.exc_info and record.exc_info[0] is not None:
            event["exception"] = record.exc_info[0].__name__  # never its text: it may hold a prompt
        return orjson.dumps(event).decode()


class TextFormatter(logging.Formatter):
    """For a person at a terminal. Control characters are escaped: no event can forge another line."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        text = redact(record.getMessage())
        if record.exc_info and record.exc_info[0] is not None:
            text += f" ({record.exc_info[0].__name__})"
        printable = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
        return f"{at} {record.levelname.lower():7} {printable}"


def configure(config: Logging) -> None:
    """Set up the root logger; called once by the process that serves."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONFormatter() if config.format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    level = logging.getLevelNamesMapping()[config.level.upper()]
    # Below that, libraries log what they send and get: botocore the keys that AWS issues, aiosqlite the values of rows.
    root.setLevel(max(level, logging.INFO))
    for name in OURS:
        logging.getLogger(name).setLevel(level)
    logging.getLogger("sluice.access").setLevel(logging.INFO if config.access else logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it prints representations of what failed: see log_lost
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)  # what it has loaded is nobody's event


def log_crash(exc: object) -> None:
    """Log the kind of an exception and where it was raised; its text may hold a prompt or a key."""
    if not isinstance(exc, BaseException):
        return
    frames = traceback.extract_tb(exc.__traceback__)
    where = " < ".join(f"{f.filename.rsplit('/', 2)[-1]}:{f.lineno}:{f.name}" for f in reversed(frames[-8:]))
    LOGGER.error("%s", orjson.dumps({"event": "crash", "kind": type(exc).__name__, "where": where}).decode())


def log_lost(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what failed where nobody waits for it, as an event loop tells it; asyncio's own line holds its text."""
    failed = context.get("exception")
    if not isinstance(failed, OSError):  # a connection that broke is its owner's matter
        log_crash(failed)
